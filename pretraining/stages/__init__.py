"""The training stages of the pocket base: autoencoder, text-conditional teacher, distillation to one step."""

from pretraining.stages.autoencoder import AutoencoderStage
from pretraining.stages.distillation import DistillationStage
from pretraining.stages.stage import PeriodicCheckpoint, Stage, StageOptions
from pretraining.stages.teacher import TeacherStage

__all__ = ["AutoencoderStage", "DistillationStage", "PeriodicCheckpoint", "Stage", "StageOptions", "TeacherStage"]
