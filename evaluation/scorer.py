"""Scores translations: start, update, finish.  Validation, test and `make evaluate` share it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.batches import Direction, Translation
from evaluation.edits import EditData, EditScores
from evaluation.protocol import EvaluationData, Stage, protocol
from evaluation.reference_cache import cache_file, read_features, write_features
from metrics.translation import TranslationMetrics
from networks.features import ClipFeatures, FeatureNetwork, load_features


class Scorer:
    """Computes all scores of the directions of a split; every rank updates and finishes.

    Call `start` once per pass over the split, `update` for every batch, then `finish`.  Feature networks are built
    once, and the real images of a split described once, whatever number of passes follows.

    Args:
        features: network of FID and KID: "inception" (the paper) or "lite0" (offline).
        structure: network of the structure distance: "dino" (the paper) or "lite0".
        lpips: network of the perceptual distances: "alex", "vgg" or "lite0".
        resize: how images are resized for FID and KID: "clean" (clean-fid), "legacy" (torch-fidelity), or None for the
            way of the network itself: clean for Inception, none for Lite0.
        captions: network of the similarity of translations and captions, where the task has captions: "clip"; None
            leaves it out.
        statistics: folder where features of real images are cached, for runs that share them.

    Attributes:
        names: name of the feature network by role.
        networks: feature networks that are loaded, by name and resize.
    """

    def __init__(
        self,
        features: str = "inception",
        structure: str = "dino",
        lpips: str = "alex",
        resize: Literal["clean", "legacy"] | None = None,
        captions: Literal["clip"] | None = None,
        statistics: str | None = None,
    ) -> None:
        self.names = {"features": features, "structure": structure, "lpips": lpips}
        self.resize, self.captions = resize, captions
        self.networks: dict[tuple[str, str | None], FeatureNetwork] = {}
        self._statistics = None if statistics is None else Path(statistics)
        self._metrics: dict[tuple[EvaluationData, Stage, Direction], TranslationMetrics] = {}
        self._edits: dict[EditData, EditScores] = {}
        self._current: tuple[EvaluationData, Stage, dict[Direction, TranslationMetrics]] | None = None

    def share(self, module: nn.Module) -> None:
        """Use the networks that a module holds already, where their weights are the usual ones: CLIP is 600 MB."""
        for network in module.modules():
            if isinstance(network, FeatureNetwork) and network.weights is None:
                self.networks.setdefault((network.name, None), network)

    def build(self, training_features: Sequence[str] = ()) -> TranslationMetrics:
        """Empty metrics of one direction and split; all of them share one copy of each feature network.

        Args:
            training_features: names of the networks that training used.

        Raises:
            FileNotFoundError: the weights of a network cannot be had.
        """
        clip = None if self.captions is None else self._network(self.captions)
        assert clip is None or isinstance(clip, ClipFeatures)
        return TranslationMetrics(
            self._network(self.names["features"], self.resize),
            self._network(self.names["structure"]),
            self._network(self.names["lpips"]),
            clip,
            training_features,
        )

    def start(
        self,
        data: EvaluationData,
        stage: Stage,
        directions: Sequence[Direction],
        training_features: Sequence[str] = (),
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Begin a pass over a split; the real images are described here, at the first pass.

        Args:
            data: where the images come from.
            stage: the split: "validate" or "test".
            directions: those that will be updated.
            training_features: names of the networks that training used; reported beside the scores.
            device: where the feature networks run.
            rank: of this process.
            world_size: number of processes that share out the images.
        """
        current = {}
        for direction in directions:
            key = (data, stage, direction)
            if key not in self._metrics:
                metrics = self.build(training_features).to(device)
                self._describe_real(metrics, data, direction, stage, rank, world_size)
                self._metrics[key] = metrics
            current[direction] = self._metrics[key]
            current[direction].reset()
        self._current = data, stage, current

    def update(self, done: Translation) -> None:
        """Add a batch of translations."""
        self._direction(done.direction).update(done.real, done.fake, done.index, done.truth, done.captions)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Scores by direction, over all ranks: the per-direction blocks of metrics.json, protocol included."""
        if self._current is None:
            raise RuntimeError("Nothing to finish: start a pass first.")
        data, stage, current = self._current
        return {
            direction: {
                **metrics.compute(),
                **self._by_kind(data, stage, metrics),
                "protocol": protocol(data, metrics.networks, direction, stage),
            }
            for direction, metrics in current.items()
        }

    def _by_kind(self, data: EvaluationData, stage: Stage, metrics: TranslationMetrics) -> dict[str, Any]:
        """Scores by kind of edit, where the data knows kinds."""
        if not isinstance(data, EditData):
            return {}
        return self._edits.setdefault(data, EditScores(data)).compute(stage, metrics)

    def per_image(self, direction: Direction) -> dict[str, Tensor]:
        """Scores of each image, over all ranks, `(n,)` in the order of the split; every rank must call it."""
        metrics = self._direction(direction)
        with metrics.sync_context():
            return metrics.per_image()

    def _direction(self, direction: Direction) -> TranslationMetrics:
        if self._current is None or direction not in self._current[2]:
            raise RuntimeError(f"Direction {direction!r} was not started.")
        return self._current[2][direction]

    def _network(self, name: str, resize: str | None = None) -> FeatureNetwork:
        key = (name, resize)
        if key not in self.networks:
            self.networks[key] = load_features(name, resize=resize)
        return self.networks[key]

    def _describe_real(
        self,
        metrics: TranslationMetrics,
        data: EvaluationData,
        direction: Direction,
        stage: Stage,
        rank: int,
        world_size: int,
    ) -> None:
        """Extract the features of this rank's share of the real images, or read them from the cache."""
        path = None
        if self._statistics is not None:
            facts = protocol(data, metrics.networks, direction, stage)
            stamp = data.reference_stamp(direction, stage)
            path = self._statistics / cache_file(facts, metrics.features, stamp, rank, world_size)
            if read_features(path, metrics):
                return
        count = 0
        for batch in data.reference_dataloader(direction, stage):
            metrics.update_real(batch.real.to(metrics.device), batch.index)
            count += len(batch.index)
        if path is not None:
            write_features(path, metrics, count)
