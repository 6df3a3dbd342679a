"""Image grids: validation images in TensorBoard, test images as a PNG in the run folder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import pad
from torchvision.utils import make_grid

from datamodules.batches import EvaluationBatch, Translation
from lightning_modules.base import TranslationModule
from lightning_modules.callbacks.access import log_image, module_of, split_of
from limits import check_settings
from storage import atomic_write

EXTRA = {"rec": "back again", "idt": "identity"}  # label of the row of what a model adds


class ImageGrid(Callback):
    """Logs ``val/pictures_a2b`` and ``_b2a`` to every logger and writes ``pictures_a2b.png`` and ``_b2a.png``.

    The grid in TensorBoard has a labelled row per kind of image: inputs, translations, what the model adds (back again,
    identity), and ground truths where they are known.  Its columns are validation images spread over the split, the
    same ones each time, first before training.  The PNG in the run folder shows the first
    test images translated by the last state: a row of inputs, a row of translations, and a row of ground truths where
    they are known.

    Args:
        images: images per direction; fewer where the split, or for the PNG its first batch, has fewer.
    """

    def __init__(self, images: int = 4) -> None:
        check_settings(images=images)
        self.images = images
        self._rows: dict[str, dict[str, list[Tensor]]] = {}  # by direction and kind, (3, H, W)

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the grids of a generator that has not been trained yet."""
        module, data = module_of(pl_module), getattr(trainer, "datamodule", None)
        if module.images_seen or not trainer.is_global_zero or not isinstance(data, LightningDataModule):
            return
        for loader in data.val_dataloader():
            batches, limit = list(loader.batch_sampler), trainer.limit_val_batches
            number = min(limit, len(batches)) if isinstance(limit, int) else int(limit * len(batches))
            for k, indices in enumerate(batches[:number]):
                for place in spread(self.images, number, k, len(indices)):
                    batch = loader.collate_fn([loader.dataset[indices[place]]])
                    self._add(module, move_data_to_device(batch, module.device))
        self._log(trainer, module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the images of the last validation."""
        self._rows = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Translate what the grid shows of a batch once more, together with what the model adds."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(batch, EvaluationBatch)
        places = spread(self.images, trainer.num_val_batches[dataloader_idx], batch_idx, len(batch.real))
        if places:
            self._add(module_of(pl_module), _part(batch, places))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the grids."""
        if not trainer.sanity_checking:
            self._log(trainer, module_of(pl_module))

    def _add(self, module: TranslationModule, batch: EvaluationBatch) -> None:
        if batch.direction in module.generator.directions:
            with torch.autocast(batch.real.device.type, enabled=False):
                done = module.translate_for_evaluation(batch, with_extras=True)
            rows = self._rows.setdefault(batch.direction, {})
            for label, images in labelled(done).items():
                rows.setdefault(label, []).extend(images.float().cpu())

    def _log(self, trainer: Trainer, module: TranslationModule) -> None:
        for direction, rows in self._rows.items():
            log_image(trainer, f"val/pictures_{direction}", draw(rows), module.images_seen)
        self._rows = {}

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
            rows = {label: [*part[: self.images]] for label, part in labelled(replace(outputs, extra={})).items()}
            write_grid(Path(folder) / f"pictures_{outputs.direction}.png", rows)


def spread(images: int, batches: float, batch: int, size: int) -> list[int]:
    """Places in a batch of those images that are spread evenly over all batches.

    Args:
        images: wanted of all batches.
        batches: their number; infinite where it is not known, and the first batch is all then.
        batch: its number, from 0.
        size: images in this batch.
    """
    if math.isinf(batches):
        batches = 1
    # Integers, since a rounded fraction may fall into the batch before.
    numbers = [(int(batches) * (2 * k + 1), 2 * images) for k in range(images)]
    return sorted({top % bottom * size // bottom for top, bottom in numbers if top // bottom == batch})


def _part(batch: EvaluationBatch, places: Sequence[int]) -> EvaluationBatch:
    """Some images of a batch."""
    return EvaluationBatch(
        batch.real[places],
        batch.direction,
        batch.index[places],
        [batch.names[k] for k in places],
        None if batch.captions is None else [batch.captions[k] for k in places],
        None if batch.truth is None else batch.truth[places],
    )


def labelled(translation: Translation) -> dict[str, Tensor]:
    """The images of a batch by the label of their row, ``(B, 3, H, W)`` in [-1, 1]."""
    rows = {"input": translation.real, "translation": translation.fake}
    rows |= {EXTRA.get(name, name): images for name, images in translation.extra.items()}
    return rows if translation.truth is None else rows | {"truth": translation.truth}


def draw(rows: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """A grid with a label left of each row, ``(3, H, W)`` in [0, 1].

    Args:
        rows: by label, as many images in each, ``(3, H, W)`` in [-1, 1]; smaller ones are padded with black.
    """
    images = [image for row in rows.values() for image in row]
    height, width = (max(image.shape[side] for image in images) for side in (-2, -1))
    padded = [pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2]), value=-1.0) for i in images]
    columns = len(images) // len(rows)
    grid = _grid(torch.stack(padded), columns)
    font = ImageFont.load_default()
    strip = Image.new("L", (4 + math.ceil(max(map(font.getlength, rows))), grid.shape[1]))
    for k, label in enumerate(rows):
        ImageDraw.Draw(strip).text((2, k * (height + 2) + 2 + height // 2), label, 255, font, anchor="lm")
    text = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8).view(strip.height, strip.width) / 255
    return torch.cat([text.expand(3, -1, -1), grid], dim=2)


def write_grid(path: Path, rows: Mapping[str, Sequence[Tensor]]) -> None:
    """Write a PNG of labelled rows of images with 2 pixels of black around each.

    Its text chunks ``columns`` and ``rows`` hold their numbers, and ``left`` the width of the labels in pixels, so that
    a reader can cut the images out again.

    Args:
        path: the file to write.
        rows: see `draw`; images of one size.
    """
    first = next(iter(rows.values()))
    columns = len(first)
    drawn = draw(rows)
    # [0, 1] => uint8
    pixels = drawn.mul(255).add(0.5).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()
    text = PngInfo()
    text.add_text("columns", str(columns))
    text.add_text("rows", str(len(rows)))
    text.add_text("left", str(drawn.shape[2] - columns * (first[0].shape[-1] + 2) - 2))
    with atomic_write(path) as part:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=text)


def _grid(images: Tensor, columns: int) -> Tensor:
    """Images ``(N, 3, H, W)`` in [-1, 1] => one image ``(3, H', W')`` in [0, 1]."""
    return make_grid((images.float().cpu().clamp(-1, 1) + 1) / 2, nrow=columns, padding=2)
