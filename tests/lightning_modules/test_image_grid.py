from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torchvision.utils import save_image

from datamodules.batches import Translation
from lightning_modules.callbacks import ImageGrid

from .conftest import pictures


def test_the_grid_shows_each_image_in_a_row_of_its_columns():
    real, fake, truth = (torch.full((2, 3, 4, 4), v) for v in (-1.0, 0.0, 1.0))
    fake[1] = 0.5
    grid = ImageGrid().draw(Translation("a2b", real, fake, torch.arange(2), ["0", "1"], truth))
    assert grid.shape == (3, 2 * 6 + 2, 3 * 6 + 2)
    row = grid[0, 3, [3, 9, 15]]
    assert row.tolist() == [0.0, 0.5, 1.0]
    assert grid[0, 9, 9] == 0.75


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
        assert image.text == {"columns": "5", "rows": str(len(rows))}
        found = np.asarray(image)
    save_image((torch.cat([r[:5] for r in rows]).clamp(-1, 1) + 1) / 2, tmp_path / "expected.png", nrow=5, padding=2)
    assert np.array_equal(found, np.asarray(Image.open(tmp_path / "expected.png")))
