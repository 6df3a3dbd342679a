"""The one-step generator, its discriminators and its frozen feature networks: torch only, no Lightning, no YAML."""

from networks.checkpoints.loading import load_generator
from networks.contract import Direction, Discriminator, ImageTranslator
from networks.discriminators import EnsembleDiscriminator, PatchDiscriminator, VisionAidedDiscriminator
from networks.one_step.generator import OneStepGenerator
from networks.resnet import ResnetGenerator

__all__ = [
    "Direction",
    "Discriminator",
    "EnsembleDiscriminator",
    "ImageTranslator",
    "OneStepGenerator",
    "PatchDiscriminator",
    "ResnetGenerator",
    "VisionAidedDiscriminator",
    "load_generator",
]
