"""How the pocket base is made: autoencoder, text-conditional teacher, distillation to one step."""

from lightning_modules.pretraining.autoencoder import AutoencoderStage
from lightning_modules.pretraining.distillation import DistillationStage
from lightning_modules.pretraining.stage import KeepCheckpoint, Stage
from lightning_modules.pretraining.teacher import TeacherStage

__all__ = ["AutoencoderStage", "DistillationStage", "KeepCheckpoint", "Stage", "TeacherStage"]
