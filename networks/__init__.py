"""The one-step generator, its discriminators and its frozen judges: torch only, no Lightning, no YAML."""

from networks.discriminators import EnsembleDiscriminator, PatchDiscriminator, VisionAidedDiscriminator
from networks.generator import OneStepGenerator
from networks.loading import load_generator
from networks.resnet import ResnetGenerator
from networks.translator import ImageTranslator

__all__ = [
    "EnsembleDiscriminator",
    "ImageTranslator",
    "OneStepGenerator",
    "PatchDiscriminator",
    "ResnetGenerator",
    "VisionAidedDiscriminator",
    "load_generator",
]
