"""torchmetrics on validation and test: every rank updates and computes."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules.batches import Translation
from metrics.translation import TranslationMetrics
from networks.features import FeatureNetwork, load_features
from storage import atomic_write, digest

# Between a picture on disk and its score.
PACKAGES = ("torch", "torchvision", "timm", "torch-fidelity", "transformers", "numpy", "pillow")


def split_of(trainer: Trainer) -> str:
    """What scores are filed under: "val", "test" for the state at hand, "best" for a checkpoint that is tested."""
    if not trainer.testing:
        return "val"
    return "test" if trainer.ckpt_path is None else "best"


class Evaluation(Callback):
    """Scores translations per direction and logs ``val/<metric>_<direction>``; see `split_of` for the other prefixes.

    TensorBoard also gets a histogram of every score of one image, and once per split, as text, how it is measured.

    The metrics live outside the module tree: their feature networks are in no checkpoint and no optimiser.  Real
    statistics are computed once, over the whole split, whatever ``limit_val_batches`` says.

    Args:
        features: network of FID and KID: "inception" (the paper) or "lite0" (offline).
        structure: network of the structure distance: "dino" (the paper) or "lite0".
        lpips: network of the perceptual distances: "alex", "vgg" or "lite0".
        resize: how pictures are resized for FID and KID: "clean" (clean-fid), "legacy" (torch-fidelity), or the way of
            the network itself: clean for Inception, none for Lite0.
        captions: network of the similarity of translations and captions, where the task has captions: "clip"; None
            leaves it out.
        statistics: folder that keeps the features of real pictures, for runs that share them.
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
        self.captions: str | None = captions
        self.resize = resize
        self.statistics = None if statistics is None else Path(statistics)
        self.networks: dict[tuple[str, str | None], FeatureNetwork] = {}
        self.metrics: dict[tuple[Any, str, str], TranslationMetrics] = {}  # by data, stage, direction
        self.results: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()

    def _network(self, role: str) -> FeatureNetwork:
        key = (self.names[role], self.resize if role == "features" else None)
        if key not in self.networks:
            self.networks[key] = load_features(key[0], resize=key[1])
        return self.networks[key]

    def share(self, module: nn.Module) -> None:
        """Take the networks that training holds already, where they are of the usual source: CLIP is 600 MB."""
        for network in module.modules():
            if isinstance(network, FeatureNetwork) and network.weights is None:
                self.networks.setdefault((network.name, None), network)

    def build(self, features_seen_in_training: list[str]) -> TranslationMetrics:
        """Empty metrics of one direction and split; all share one copy of each feature network."""
        chosen: dict[str, Any] = {role: self._network(role) for role in self.names}
        if self.captions is not None:
            key = (self.captions, None)
            if key not in self.networks:
                self.networks[key] = load_features(self.captions)
            chosen["clip"] = self.networks[key]
        return TranslationMetrics(**chosen, features_seen_in_training=features_seen_in_training)

    def protocol(self, datamodule: Any, direction: str, stage: str) -> dict[str, Any]:
        """What the scores of a direction depend on: what the data says of itself, networks and versions.

        Args:
            datamodule: a `TranslationData`.
            direction: "a2b" or "b2a".
            stage: "validate" or "test".
        """
        features, structure, lpips = (self._network(role) for role in ("features", "structure", "lpips"))
        packages = [f"{name} {version(name)}" for name in PACKAGES]
        return {
            "direction": direction,
            **datamodule.protocol(direction, stage),
            "feature_resize": features.resize and f"{features.resize}, to {features.side} x {features.side}",
            "networks": f"FID and KID {features.name} {features.hash}, structure {structure.name} {structure.hash}, "
            f"perceptual {lpips.name} {lpips.hash}",
            "versions": ", ".join([f"python {platform.python_version()}", *packages]),
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have every network before the first batch: a missing file must not end a run at its first validation."""
        self.share(pl_module)
        self.build([])

    def _metrics(self, trainer: Trainer, pl_module: Any, direction: str) -> TranslationMetrics:
        stage = _stage(trainer)
        key = (trainer.datamodule, stage, direction)  # type: ignore[attr-defined]
        if key not in self.metrics:
            metrics = self.build(pl_module.training_features).to(pl_module.device)
            self._fill(metrics, trainer, direction, stage)
            self.metrics[key] = metrics
        return self.metrics[key]

    def _fill(self, metrics: TranslationMetrics, trainer: Trainer, direction: str, stage: str) -> None:
        """Describe this rank's share of the real pictures, or read how another run described it."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        path = None if self.statistics is None else self.statistics / self._share(trainer, direction, stage)
        if path is not None and path.is_file():
            kept = load_file(path)
            metrics.add_real(kept["features"].to(metrics.device), kept["index"])
            return
        count = 0
        for batch in datamodule.reference_dataloader(direction, stage):
            metrics.update_real(batch.real.to(metrics.device), batch.index)
            count += len(batch.index)
        if path is None:
            return
        index, features = metrics.indexed_table("real")
        if len(index) == count:  # a larger share is not held whole
            with atomic_write(path) as part:
                save_file({"index": index.cpu(), "features": features.float().cpu()}, part)

    def _share(self, trainer: Trainer, direction: str, stage: str) -> str:
        """File of what decides the features of a rank's real pictures."""
        told = self.protocol(trainer.datamodule, direction, stage)  # type: ignore[attr-defined]
        network = self._network("features")
        keys = ("split", "size", "reference", "reference_folder", "rendered_with_seed", "feature_resize")
        facts = [direction, *(told.get(key) for key in keys), network.name, network.hash, told["versions"]]
        facts += [trainer.datamodule.reference_stamp(direction, stage), trainer.global_rank, trainer.world_size]  # type: ignore[attr-defined]
        return f"{digest(json.dumps(facts))}.safetensors"

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        # Every rank takes part in the compute of every direction.
        for direction in pl_module.generator.directions:  # type: ignore[union-attr]
            self._metrics(trainer, pl_module, direction).reset()

    def _update(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking:
            return
        done: Translation = outputs
        metrics = self._metrics(trainer, pl_module, done.direction)
        metrics.update(done.real, done.fake, done.index, done.truth, done.captions)

    def _compute(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        scalars: dict[str, float] = {}
        self.results = {}
        split, seen = split_of(trainer), int(pl_module.images_seen)  # type: ignore[arg-type]
        for direction in pl_module.generator.directions:  # type: ignore[union-attr]
            metrics = self._metrics(trainer, pl_module, direction)
            protocol = self.protocol(trainer.datamodule, direction, _stage(trainer))  # type: ignore[attr-defined]
            result = {**metrics.compute(), "protocol": protocol}
            self.results[direction] = result
            scalars |= {f"{split}/{k}_{direction}": v for k, v in result.items() if isinstance(v, float)}
            self._draw(trainer, metrics, f"{split}/per_image", direction, seen)
        pl_module.log_dict(
            {k: torch.tensor(v, dtype=torch.float32) for k, v in scalars.items()}, logger=False, rank_zero_only=False
        )
        # Part of a checkpoint's file name.
        pl_module.log("images_seen", float(seen), logger=False)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=seen)
        self._tell(trainer, split, seen)

    def _draw(self, trainer: Trainer, metrics: TranslationMetrics, tag: str, direction: str, seen: int) -> None:
        """Histograms over the images of all ranks."""
        if not trainer.loggers:
            return
        with metrics.sync_context():  # all ranks gather, whichever draws
            per_image = metrics.per_image() if trainer.is_global_zero else {}
        for name, values in per_image.items():
            known = values[values.isfinite()].cpu()
            for logger in trainer.loggers:
                add_histogram = getattr(getattr(logger, "experiment", None), "add_histogram", None)
                if add_histogram is not None and len(known):
                    add_histogram(f"{tag}/{name}_{direction}", known, seen)

    def _tell(self, trainer: Trainer, split: str, seen: int) -> None:
        """How each direction is measured, as text."""
        if split in self._told:
            return
        self._told.add(split)
        for direction, result in self.results.items():
            facts = {**result["protocol"], "real pictures": result["n_real"], "translations": result["n_fake"]}
            text = "\n".join(f"- {name.replace('_', ' ')}: {fact}" for name, fact in facts.items() if fact is not None)
            for logger in trainer.loggers:
                add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
                if add_text is not None and trainer.is_global_zero:
                    add_text(f"protocol/{split}_{direction}", text, seen)

    on_validation_start = _start
    on_validation_batch_end = _update
    on_validation_epoch_end = _compute
    on_test_start = _start
    on_test_batch_end = _update
    on_test_epoch_end = _compute


def _stage(trainer: Trainer) -> str:
    return "test" if trainer.testing else "validate"
