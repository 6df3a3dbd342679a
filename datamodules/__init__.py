"""Lightning data modules of folders, public data sets and rendered scenes.

The classes are imported on first use, all at once: `datamodules.public` and `datamodules.files` can be used
without torch and Lightning.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.base import TranslationData
    from datamodules.edits import Edits
    from datamodules.paired import PairedImages
    from datamodules.tasks import ClearFoggy, DayNight, EdgeToImage, HorseZebra, SketchToImage
    from datamodules.unpaired import UnpairedImages

__all__ = [
    "ClearFoggy",
    "DayNight",
    "EdgeToImage",
    "Edits",
    "HorseZebra",
    "PairedImages",
    "SketchToImage",
    "TranslationData",
    "UnpairedImages",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules import base, edits, paired, tasks, unpaired

    return next(vars(module)[name] for module in (base, paired, unpaired, edits, tasks) if name in vars(module))
