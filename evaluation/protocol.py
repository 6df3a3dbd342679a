"""How scores are measured: the interface of evaluated data, and the "protocol" block of metrics.json."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal, Protocol, runtime_checkable

from datamodules.batches import Direction, EvaluationBatch
from metrics.functions import Networks

Stage = Literal["validate", "test"]
# Packages that decide how pixels on disk become a score.
PACKAGES = ("torch", "torchvision", "timm", "torch-fidelity", "transformers", "numpy", "pillow")


@runtime_checkable
class EvaluationData(Protocol):
    """Protocol of the data that scoring needs; `datamodules.base.TranslationData` has it all."""

    @property
    def directions(self) -> Sequence[Direction]:
        """Directions that can be evaluated: "a2b", and "b2a" where the task has it."""

    @property
    def description(self) -> str:
        """One-line description of the data."""

    def test_dataloader(self) -> Sequence[Iterable[EvaluationBatch]]:
        """The test images to translate: a loader per direction, in the order of `directions`."""

    def reference_dataloader(self, direction: Direction, stage: Stage) -> Iterable[EvaluationBatch]:
        """Every real image of a direction's target domain; under several ranks, this rank's share."""

    def protocol(self, direction: Direction, stage: Stage) -> Mapping[str, str | int | None]:
        """The data's part of a direction's evaluation protocol; plain values by name."""

    def reference_stamp(self, direction: Direction, stage: Stage) -> str:
        """A text that changes whenever a real image of the direction's target domain does."""


def protocol(data: EvaluationData, networks: Networks, direction: Direction, stage: Stage) -> dict[str, Any]:
    """Evaluation protocol of a direction: facts of the data, feature networks and versions."""
    features, structure, lpips = networks.features, networks.structure, networks.lpips
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    return {
        "direction": direction,
        **data.protocol(direction, stage),
        "feature_resize": features.resize and f"{features.resize}, to {features.side} x {features.side}",
        "networks": f"FID and KID {features.name} {features.hash}, structure {structure.name} {structure.hash}, "
        f"perceptual {lpips.name} {lpips.hash}",
        "versions": ", ".join([f"python {platform.python_version()}", *packages]),
    }


def protocol_text(block: Mapping[str, Any]) -> str:
    """Evaluation protocol of a direction as a Markdown list.

    Args:
        block: the direction's block of metrics.json.
    """
    facts = {**block["protocol"], "real images": block["n_real"], "translations": block["n_fake"]}
    return "\n".join(f"- {name.replace('_', ' ')}: {fact}" for name, fact in facts.items() if fact is not None)
