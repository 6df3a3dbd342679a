from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.utils import save_image

from datamodules.batches import EvaluationBatch, Translation
from lightning_modules import CycleGANTurbo
from lightning_modules.callbacks import ImageGrid
from lightning_modules.callbacks.access import log_image
from lightning_modules.callbacks.image_grid import draw, labelled, spread

from .conftest import pictures


def made_up(direction, first, count, size=(12, 12), known=True):
    """Images as bright as their place in a split of eight, with what a model adds."""
    index = torch.arange(first, first + count)
    real = (index / 8).view(-1, 1, 1, 1).expand(-1, 3, *size)
    extra = {"rec": real, "idt": real}
    return Translation(direction, real, real - 1, index, [str(k) for k in index], real if known else None, extra=extra)


def test_a_row_per_kind_of_image_stands_beside_its_label():
    rows = labelled(made_up("a2b", 0, 3))
    assert list(rows) == ["input", "translation", "back again", "identity", "truth"]
    grid = draw(rows)
    images, labels = grid[:, :, -(3 * 14 + 2) :], grid[:, :, : -(3 * 14 + 2)]
    assert images.shape == (3, 5 * 14 + 2, 3 * 14 + 2)
    assert images[0, 8, [8, 22, 36]].tolist() == [0.5, 0.5625, 0.625]
    assert images[0, 22, [8, 22, 36]].tolist() == [0.0, 0.0625, 0.125]
    assert all(labels[:, 14 * k + 2 : 14 * k + 14].max() > 0.5 for k in range(5)), "every row has its label"


def test_images_of_several_sizes_share_a_grid():
    wide, high = (made_up("a2b", 0, 1, size, known=False).real[0] for size in ((12, 20), (16, 12)))
    assert draw({"input": [wide, high]}).shape[1] == 16 + 4


@pytest.mark.parametrize(("batches", "size"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_the_images_are_spread_over_the_split_and_as_many_in_both_directions(tmp_path, batches, size):
    logger = TensorBoardLogger(tmp_path, "", "")
    trainer = SimpleNamespace(
        sanity_checking=False, is_global_zero=True, num_val_batches=[batches] * 2, loggers=[logger]
    )
    module, grid = Mock(spec=CycleGANTurbo, images_seen=6), ImageGrid(4)
    module.generator = SimpleNamespace(directions=["a2b", "b2a"])

    def translate(batch, with_extras):
        extra = {"rec": batch.real, "idt": batch.real} if with_extras else {}
        return Translation(batch.direction, batch.real, batch.real - 1, batch.index, batch.names, extra=extra)

    module.translate_for_evaluation = translate
    grid.on_validation_start(trainer, module)
    for loader, direction in enumerate(("a2b", "b2a")):
        for k in range(batches):
            done = made_up(direction, k * size, size)
            batch = EvaluationBatch(done.real, direction, done.index, done.names)
            grid.on_validation_batch_end(trainer, module, None, batch, k, loader)
    for rows in grid._rows.values():
        assert {label: len(images) for label, images in rows.items()} == dict.fromkeys(
            ("input", "translation", "back again", "identity"), 4
        ), "every row is complete, whichever batches its images are of"
    shown = {d: [round(float(i[0, 0, 0]) * 8) for i in rows["input"]] for d, rows in grid._rows.items()}
    assert shown == {"a2b": [1, 3, 5, 7], "b2a": [1, 3, 5, 7]}
    grid.on_validation_end(trainer, module)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [[i.step for i in events.Images(f"val/pictures_{d}")] for d in shown] == [[6], [6]]


def test_a_small_split_is_shown_whole():
    assert [spread(4, 2, batch, 1) for batch in range(2)] == [[0], [0]]
    assert spread(4, float("inf"), 0, 4) == [0, 1, 2, 3]


class Wandb(WandbLogger):
    """Takes what Weights & Biases would, without its package: `log_image` is Lightning's, but for `wandb.Image`."""

    def __init__(self):
        self.logged = []

    def log_image(self, key, images, step=None, **kwargs):
        self.logged.append((key, images, step))


class MLFlow(MLFlowLogger):
    """Likewise; `MlflowClient.log_image` has these arguments."""

    def __init__(self):
        self.logged = []

    run_id = "7"

    @property
    def experiment(self):
        def log_image(run_id, image, artifact_file=None, key=None, step=None):
            self.logged.append((run_id, image, artifact_file))

        return SimpleNamespace(log_image=log_image)


def test_every_kind_of_logger_gets_the_image(tmp_path):
    wandb, mlflow, csv = Wandb(), MLFlow(), CSVLogger(tmp_path, "", "")
    trainer = SimpleNamespace(is_global_zero=True, loggers=[wandb, mlflow, csv])
    image = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1).expand(3, 4, 6)
    log_image(trainer, "val/pictures_a2b", image, 12)
    ((key, (shown,), step),) = wandb.logged
    assert (key, step, shown.size, shown.getpixel((0, 0))) == ("val/pictures_a2b", 12, (6, 4), (0, 127, 255))
    ((run, shown, name),) = mlflow.logged
    assert (run, name, shown.size) == ("7", "val/pictures_a2b/12.png", (6, 4))
    with Image.open(tmp_path / "val_pictures_a2b_12.png") as written:
        assert written.getpixel((0, 0)) == (0, 127, 255)


@pytest.mark.parametrize("known", [True, False])
def test_the_png_says_how_many_images_it_holds_and_has_the_pixels_of_torchvision(tmp_path, known):
    real, fake, truth = (pictures(6, seed) * 1.1 for seed in range(3))  # translations may leave [-1, 1]
    translation = Translation("b2a", real, fake, torch.arange(6), list("abcdef"), truth if known else None)
    trainer = SimpleNamespace(
        is_global_zero=True, testing=True, ckpt_path=None, logger=CSVLogger(tmp_path, name="", version="")
    )
    ImageGrid(images=5).on_test_batch_end(trainer, None, translation, None, 0)
    rows = [real, fake, truth][: 2 + known]
    with Image.open(tmp_path / "pictures_b2a.png") as image:
        left = int(image.text["left"])
        assert image.text == {"columns": "5", "rows": str(len(rows)), "left": str(left)}
        found = np.asarray(image)
    assert found[:, :left].max() > 128, "a label beside each row"
    save_image((torch.cat([r[:5] for r in rows]).clamp(-1, 1) + 1) / 2, tmp_path / "expected.png", nrow=5, padding=2)
    assert np.array_equal(found[:, left:], np.asarray(Image.open(tmp_path / "expected.png")))
