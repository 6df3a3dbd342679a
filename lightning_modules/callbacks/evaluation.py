"""Scores translations at every validation and test."""

from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer

from datamodules.batches import Translation
from evaluation.edits import edit_text
from evaluation.protocol import Stage, protocol_text
from evaluation.scorer import Scorer
from lightning_modules.callbacks.access import Split, data_of, module_of, split_of, tensorboards
from metrics.scores import log_key


class Evaluation(Callback):
    """Scores translations per direction and logs ``val/<score>_<direction>``; see `split_of` for the other prefixes.

    TensorBoard also gets a histogram of every score per image and, once per split, a text with the protocol.

    The metrics live outside the module tree: their feature networks are in no checkpoint and no optimiser.  Real
    images are described once, over the whole split, whatever ``limit_val_batches`` says.

    Args:
        features: see `Scorer`, as for the arguments that follow.
        structure: network of the structure distance.
        lpips: network of the perceptual distances.
        resize: how images are resized for FID and KID.
        captions: network of caption similarity.
        statistics: folder where features of real images are cached.

    Attributes:
        scorer: computes the scores.
        results: per-direction blocks of metrics.json, of the last validation or test.
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
        self.scorer = Scorer(features, structure, lpips, resize, captions, statistics)
        self.results: dict[str, dict[str, Any]] = {}
        self._described: set[Split] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load every network before the first batch: a missing file must not end a run at its first validation.

        Results of the stage before are dropped: a test of no batch (``limit_test_batches: 0``) has none.
        """
        self.results = {}
        self.scorer.share(pl_module)
        self.scorer.build()

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        module, data = module_of(pl_module), data_of(trainer)
        stage: Stage = "test" if trainer.testing else "validate"
        self.scorer.start(
            data,
            stage,
            [direction for direction in data.directions if direction in module.generator.directions],
            module.training_features,
            module.device,
            trainer.global_rank,
            trainer.world_size,
        )

    def _update(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            assert isinstance(outputs, Translation)
            self.scorer.update(outputs)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        split, seen = split_of(trainer), module_of(pl_module).images_seen
        self.results = self.scorer.finish()
        scalars = {
            log_key(split, name, direction): value
            for direction, block in self.results.items()
            for name, value in block.items()
            if isinstance(value, float)
        }
        pl_module.log_dict(
            {key: torch.tensor(value, dtype=torch.float32) for key, value in scalars.items()},
            logger=False,
            rank_zero_only=False,
        )
        # Part of a checkpoint's file name.
        pl_module.log("images_seen", float(seen), logger=False)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=seen)
        for writer in tensorboards(trainer):
            for direction, block in self.results.items():
                if by_kind := block.get("by_kind"):
                    writer.add_text(f"edits/{split}_{direction}", edit_text(by_kind), seen)
        self._log_histograms(trainer, split, seen)
        self._log_protocol(trainer, split, seen)

    def _log_histograms(self, trainer: Trainer, split: Split, seen: int) -> None:
        """Histograms over the images of all ranks."""
        if not trainer.loggers:
            return
        for direction in (d for d in data_of(trainer).directions if d in self.results):
            per_image = self.scorer.per_image(direction)  # on every rank, since it gathers from all
            for name, values in per_image.items():
                known = values[values.isfinite()].cpu()
                for writer in tensorboards(trainer) if len(known) else ():
                    writer.add_histogram(log_key(f"{split}/per_image", name, direction), known, seen)

    def _log_protocol(self, trainer: Trainer, split: Split, seen: int) -> None:
        """Log the evaluation protocol of each direction as text, once per split."""
        if split in self._described:
            return
        self._described.add(split)
        for writer in tensorboards(trainer):
            for direction, block in self.results.items():
                writer.add_text(f"protocol/{split}_{direction}", protocol_text(block), seen)

    on_validation_start = _start
    on_validation_batch_end = _update
    on_validation_epoch_end = _finish
    on_test_start = _start
    on_test_batch_end = _update
    on_test_epoch_end = _finish
