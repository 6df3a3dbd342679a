"""Frozen feature extractors of losses, discriminators and metrics."""

from networks.features.loading import architectures_only, load_features, weights_variable
from networks.features.networks import ClipFeatures, FeatureNetwork, Features, described_once

__all__ = [
    "ClipFeatures",
    "FeatureNetwork",
    "Features",
    "architectures_only",
    "described_once",
    "load_features",
    "weights_variable",
]
