"""How the pocket base is made: autoencoder, text-conditional teacher, distillation to one step."""

from pretraining.stages.autoencoder import AutoencoderStage
from pretraining.stages.distillation import DistillationStage
from pretraining.stages.stage import KeepCheckpoint, Stage
from pretraining.stages.teacher import TeacherStage

__all__ = ["AutoencoderStage", "DistillationStage", "KeepCheckpoint", "Stage", "TeacherStage"]
