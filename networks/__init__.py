"""The one-step generator, its discriminators and its frozen judges: torch only, no Lightning, no YAML."""

from networks.discriminators import EnsembleDiscriminator, PatchDiscriminator, VisionAidedDiscriminator
from networks.generator import OneStepGenerator, load_generator

__all__ = [
    "EnsembleDiscriminator",
    "OneStepGenerator",
    "PatchDiscriminator",
    "VisionAidedDiscriminator",
    "load_generator",
]
