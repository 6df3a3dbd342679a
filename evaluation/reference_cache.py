"""Features of real images on disk, for runs that share them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from metrics.translation import TranslationMetrics
from networks.features import FeatureNetwork
from storage import atomic_write, digest

# Entries of the protocol that decide the features of the real images.
DECISIVE = ("split", "size", "reference", "reference_folder", "rendered_with_seed", "feature_resize")


def cache_file(
    protocol: Mapping[str, Any], network: FeatureNetwork, stamp: str, rank: int = 0, world_size: int = 1
) -> str:
    """Name of the file with the features of one rank's real images: a digest of all that decides them.

    Args:
        protocol: of the direction; see `evaluation.protocol.protocol`.
        network: that of FID and KID.
        stamp: of the real images; see `EvaluationData.reference_stamp`.
        rank: whose share of the images.
        world_size: number of ranks.
    """
    facts = [protocol["direction"], *(protocol.get(key) for key in DECISIVE), network.name, network.hash]
    facts += [protocol["versions"], stamp, rank, world_size]
    return f"{digest(json.dumps(facts))}.safetensors"


def read_features(path: Path, metrics: TranslationMetrics) -> bool:
    """Fill the real set of `metrics` from a file; returns whether there was one."""
    if not path.is_file():
        return False
    cached = load_file(path)
    metrics.add_real(cached["features"].to(metrics.device), cached["index"])
    return True


def write_features(path: Path, metrics: TranslationMetrics, count: int) -> None:
    """Write the real set of `metrics` to a file.

    Args:
        path: the file; machines may share its folder.
        metrics: holds the features.
        count: real images that were added; where `metrics` holds a sample of them only, nothing is written.
    """
    index, features = metrics.indexed_table("real")
    if len(index) == count:
        with atomic_write(path) as part:
            save_file({"index": index.cpu(), "features": features.float().cpu()}, part)
