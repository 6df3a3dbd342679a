"""The same validation images each time, side by side, in TensorBoard."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.utils import make_grid

from datamodules.batches import Translation


class ImageGrid(Callback):
    """Writes ``val/pictures_a2b`` and ``_b2a``: a row per image, columns real, fake, rec, idt, truth as far as known.

    Args:
        images: rows per direction, taken from the first validation batch.
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

    def draw(self, translation: Translation) -> Tensor:
        """``(3, H, W)`` in [0, 1], as TensorBoard wants it."""
        columns = [translation.real, translation.fake, *translation.extra.values()]
        if translation.truth is not None:
            columns.append(translation.truth)
        rows = torch.stack(columns, dim=1)[: self.images].flatten(0, 1)  # (rows x columns, 3, H, W)
        return make_grid((rows.float().cpu().clamp(-1, 1) + 1) / 2, nrow=len(columns), padding=2)
