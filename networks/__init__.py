"""The one-step generator, its discriminators and its frozen judges: torch only, no Lightning, no YAML."""

from networks.checkpoints.loading import load_generator
from networks.contract import ImageTranslator
from networks.discriminators import EnsembleDiscriminator, PatchDiscriminator, VisionAidedDiscriminator
from networks.one_step.generator import OneStepGenerator
from networks.resnet import ResnetGenerator

__all__ = [
    "EnsembleDiscriminator",
    "ImageTranslator",
    "OneStepGenerator",
    "PatchDiscriminator",
    "ResnetGenerator",
    "VisionAidedDiscriminator",
    "load_generator",
]
