"""The same validation images each time, side by side, in TensorBoard; test images as a picture in the run folder."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.utils import make_grid, save_image

from datamodules.batches import Translation
from lightning_modules.callbacks.evaluation import split_of


class ImageGrid(Callback):
    """Writes ``val/pictures_a2b`` and ``_b2a``: a row per image, columns real, fake, rec, idt, truth as far as known.

    At the end of a run, ``pictures_a2b.png`` and ``_b2a.png`` in its folder show test images: inputs, below them
    translations by the last state, below these the truth where it is known.

    Args:
        images: per direction, taken from the first batch.
    """

    def __init__(self, images: int = 4) -> None:
        self.images = images

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch of each direction."""
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero:
            return
        seen: Any = pl_module.images_seen
        for logger in trainer.loggers:
            add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
            if add_image is not None:
                add_image(f"val/pictures_{outputs.direction}", self.draw(outputs), seen)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the first batch of each direction as a picture."""
        # Not trainer.log_dir: it broadcasts, and the other ranks do not come here.
        folder = getattr(trainer.logger, "log_dir", None)
        if batch_idx or not trainer.is_global_zero or folder is None or split_of(trainer) != "test":
            return
        rows = [part for part in (outputs.real, outputs.fake, outputs.truth) if part is not None]
        pictures = torch.cat([part[: self.images] for part in rows]).float().cpu().clamp(-1, 1)
        path = Path(folder) / f"pictures_{outputs.direction}.png"
        save_image((pictures + 1) / 2, path, nrow=len(outputs.real[: self.images]), padding=2)

    def draw(self, translation: Translation) -> Tensor:
        """``(3, H, W)`` in [0, 1], as TensorBoard wants it."""
        columns = [translation.real, translation.fake, *translation.extra.values()]
        if translation.truth is not None:
            columns.append(translation.truth)
        rows = torch.stack(columns, dim=1)[: self.images].flatten(0, 1)  # (rows x columns, 3, H, W)
        return make_grid((rows.float().cpu().clamp(-1, 1) + 1) / 2, nrow=len(columns), padding=2)
