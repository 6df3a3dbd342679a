"""Image grids: validation images in TensorBoard, test images as a PNG in the run folder."""

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from datamodules.batches import Translation
from lightning_modules.base import TranslationModule
from lightning_modules.callbacks.access import split_of, tensorboards
from limits import check_settings
from storage import atomic_write


class ImageGrid(Callback):
    """Logs ``val/pictures_a2b`` and ``_b2a`` to TensorBoard and writes ``pictures_a2b.png`` and ``_b2a.png``.

    The grid in TensorBoard has a row per validation image, the same ones each time: the input, its translation, what
    the model adds (reconstruction, identity), and the ground truth where it is known.  The PNG in the run folder shows
    test images translated by the last state: a row of inputs, a row of translations, and a row of ground truths where
    they are known.

    Args:
        images: images per direction, taken from the first batch.
    """

    def __init__(self, images: int = 4) -> None:
        check_settings(images=images)
        self.images = images

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the first batch of each direction."""
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TranslationModule) and isinstance(outputs, Translation)
        for writer in tensorboards(trainer):
            writer.add_image(f"val/pictures_{outputs.direction}", self.draw(outputs), pl_module.images_seen)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the first batch of each direction into the run folder, where there is one."""
        if batch_idx or not trainer.is_global_zero or trainer.logger is None or split_of(trainer) != "test":
            return
        assert isinstance(outputs, Translation)
        # Not trainer.log_dir: it waits for the other ranks, which have returned.
        folder = trainer.logger.log_dir
        if folder is not None:
            rows = [part for part in (outputs.real, outputs.fake, outputs.truth) if part is not None]
            write_grid(Path(folder) / f"pictures_{outputs.direction}.png", [part[: self.images] for part in rows])

    def draw(self, translation: Translation) -> Tensor:
        """The grid for TensorBoard, ``(3, H, W)`` in [0, 1]."""
        columns = [translation.real, translation.fake, *translation.extra.values()]
        if translation.truth is not None:
            columns.append(translation.truth)
        images = torch.stack(columns, dim=1)[: self.images].flatten(0, 1)  # (rows x columns, 3, H, W)
        return _grid(images, len(columns))


def write_grid(path: Path, rows: list[Tensor]) -> None:
    """Write a PNG of rows of images with 2 pixels of black around each.

    Its text chunks ``columns`` and ``rows`` hold their numbers, so that a reader can cut the images out again.

    Args:
        path: the file to write.
        rows: per row its images, ``(columns, 3, H, W)`` in [-1, 1].
    """
    columns = len(rows[0])
    grid = _grid(torch.cat(rows), columns)
    # [0, 1] => uint8
    pixels = grid.mul(255).add(0.5).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()
    text = PngInfo()
    text.add_text("columns", str(columns))
    text.add_text("rows", str(len(rows)))
    with atomic_write(path) as part:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=text)


def _grid(images: Tensor, columns: int) -> Tensor:
    """Images ``(N, 3, H, W)`` in [-1, 1] => one image ``(3, H', W')`` in [0, 1]."""
    return make_grid((images.float().cpu().clamp(-1, 1) + 1) / 2, nrow=columns, padding=2)
