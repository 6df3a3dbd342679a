"""Lightning callbacks: evaluation, image grids, run folder, progress, collapse alarm, throughput."""

from lightning_modules.callbacks.collapse_alarm import CollapseAlarm
from lightning_modules.callbacks.evaluation import Evaluation
from lightning_modules.callbacks.image_grid import ImageGrid
from lightning_modules.callbacks.missing_validation import MissingValidation
from lightning_modules.callbacks.progress import Progress
from lightning_modules.callbacks.run_folder import RunFolder
from lightning_modules.callbacks.throughput import Throughput

__all__ = ["CollapseAlarm", "Evaluation", "ImageGrid", "MissingValidation", "Progress", "RunFolder", "Throughput"]
