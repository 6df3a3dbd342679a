"""torchmetrics on validation and test: every rank updates and computes."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from datamodules.batches import Translation
from metrics.translation import TranslationMetrics
from networks.features import FeatureNetwork, load_features


class Evaluation(Callback):
    """Scores translations per direction and logs ``val/<metric>_<direction>``.

    The metrics live outside the module tree: their feature networks are in no checkpoint and no optimiser.  Real
    statistics are computed once, over the whole split, whatever ``limit_val_batches`` says.

    Args:
        features: network of FID and KID: "inception" (the paper) or "lite0" (offline).
        structure: network of the structure distance: "dino" (the paper) or "lite0".
        lpips: network of the perceptual distances: "alex", "vgg" or "lite0".
    """

    def __init__(self, features: str = "inception", structure: str = "dino", lpips: str = "alex") -> None:
        self.names = {"features": features, "structure": structure, "lpips": lpips}
        self.networks: dict[str, FeatureNetwork] = {}
        self.metrics: dict[tuple[str, str], TranslationMetrics] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def build(self, features_seen_in_training: list[str]) -> TranslationMetrics:
        """Empty metrics of one direction and split; all share one copy of each feature network."""
        for name in self.names.values():
            if name not in self.networks:
                self.networks[name] = load_features(name)
        chosen = {role: self.networks[name] for role, name in self.names.items()}
        return TranslationMetrics(**chosen, features_seen_in_training=features_seen_in_training)

    def _metrics(self, trainer: Trainer, pl_module: Any, direction: str) -> TranslationMetrics:
        stage = "test" if trainer.testing else "validate"
        key = (stage, direction)
        if key not in self.metrics:
            metrics = self.build(pl_module.training_features).to(pl_module.device)
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            for batch in datamodule.reference_dataloader(direction, stage):
                metrics.update_real(batch.real.to(pl_module.device), batch.index)
            self.metrics[key] = metrics
        return self.metrics[key]

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        # Every rank builds every direction: a rank without images of one still takes part in its compute.
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
        metrics.update(done.real, done.fake, done.index, done.truth)

    def _compute(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        prefix = "test" if trainer.testing else "val"
        scalars: dict[str, float] = {}
        self.results = {}
        for direction in pl_module.generator.directions:  # type: ignore[union-attr]
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            protocol = datamodule.protocol(direction, "test" if trainer.testing else "validate")
            result = {**self._metrics(trainer, pl_module, direction).compute(), "protocol": protocol}
            self.results[direction] = result
            scalars |= {f"{prefix}/{k}_{direction}": v for k, v in result.items() if isinstance(v, float)}
        pl_module.log_dict(
            {k: torch.tensor(v, dtype=torch.float32) for k, v in scalars.items()}, logger=False, rank_zero_only=False
        )
        # Part of a checkpoint's file name.
        seen: Any = pl_module.images_seen
        pl_module.log("images_seen", float(seen), logger=False)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=seen)

    on_validation_start = _start
    on_validation_batch_end = _update
    on_validation_epoch_end = _compute
    on_test_start = _start
    on_test_batch_end = _update
    on_test_epoch_end = _compute
