"""Warnings before a training of what cannot be meant: images of one colour, and two domains of the same images."""

import shutil

import pytest
from PIL import Image

from datamodules import PairedImages, UnpairedImages
from datamodules.inspection import inspect_folders
from tests.datamodules.miniature import domains

SIZES = {"resize": 16, "crop": 16, "eval_size": 16, "num_workers": 0}


def black(root, folder, count):
    for k in range(count):
        (root / folder).mkdir(exist_ok=True)
        Image.new("RGB", (24, 16)).save(root / folder / f"{k:03d}.png")


def found(root, kind=UnpairedImages):
    """What a training says, and what check-data says."""
    with pytest.warns(UserWarning, match="no test images"):
        before_training = kind(root=str(root), **SIZES).suspicions()
    return before_training, inspect_folders(kind, [root], {16}).warnings


def test_nothing_is_said_of_ordinary_folders(tmp_path):
    assert found(domains(tmp_path, train_A=12, train_B=20)) == ([], [])


def test_black_images_are_told(tmp_path):
    domains(tmp_path, train_A=12)
    black(tmp_path, "train_B", 12)
    (header,), (checked,) = found(tmp_path)
    assert "every image of B that was looked at (8) is of a single colour" in header
    assert "12 of 12 images of B are of a single colour" in checked


def test_some_black_images_are_counted_by_the_check(tmp_path):
    domains(tmp_path, train_A=12, train_B=12)
    black(tmp_path, "train_B", 3)
    header, (checked,) = found(tmp_path)
    assert header == [] and "3 of 12 images of B are of a single colour, such as" in checked


@pytest.mark.parametrize("kind", [UnpairedImages, PairedImages])
def test_domains_of_the_same_images_are_told_also_under_other_names(kind, tmp_path):
    domains(tmp_path, train_A=12)
    shutil.copytree(tmp_path / "train_A", tmp_path / "train_B")
    if kind is UnpairedImages:
        for path in (tmp_path / "train_B").iterdir():
            path.rename(path.with_stem(f"copy-{path.stem}"))
    (header,), (checked,) = found(tmp_path, kind)
    assert "hold the same images" in header and "there is nothing to translate" in header
    assert "12 of 12 images of" in checked and "000.png" in checked
