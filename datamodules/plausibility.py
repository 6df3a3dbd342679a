"""Finds training images that cannot be meant: of one colour, or the same files in both domains."""

import filecmp
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from datamodules.files.images import FileImages, Images

SAMPLE = 8  # images of a domain that are looked at before a training


def is_one_colour(image: ArrayLike) -> bool:
    """Whether an image, ``(3, H, W)`` in [-1, 1], varies by less than one 8-bit level in each channel."""
    return bool(np.ptp(np.asarray(image), axis=(1, 2)).max() < 1 / 127.5)


def suspicions(a: Images, b: Images | None, names: tuple[str, str], shared: bool = False) -> list[str]:
    """Say what looks wrong in a sample of the training images.

    Args:
        a: images of the first domain, or inputs.
        b: images of the second domain, or targets; None where there is only one set of images.
        names: of the two.
        shared: whether an image may be in both.

    Returns:
        Sentences; none where all is well.
    """
    found = []
    for images, name in ((a, names[0]), (b, names[1])):
        if images is not None and all(is_one_colour(images.read(index)) for index in _sample(images)):
            found.append(
                f"every image of {name} that was looked at ({len(_sample(images))}) is of a single colour, "
                f"such as {images.name(0)}"
            )
    if not shared and isinstance(a, FileImages) and isinstance(b, FileImages):
        places = _sample(a)
        sample = [a.files[place] for place in places]
        twins = [
            same_content(path, (b.files[place] for place in np.flatnonzero(b.lengths == length).tolist()))
            for path, length in zip(sample, a.lengths[places].tolist(), strict=True)
        ]
        if twins[0] is not None and None not in twins:
            found.append(
                f"{names[0]} and {names[1]} hold the same images, such as {sample[0]} and {twins[0]}: there is nothing "
                "to translate"
            )
    return found


def same_content(path: Path, others: Iterable[Path]) -> Path | None:
    """The first of some files with the content of another; None if there is none."""
    return next((other for other in others if filecmp.cmp(path, other, shallow=False)), None)


def _sample(images: Images) -> list[int]:
    """Indices, evenly spread."""
    return list(range(0, len(images), max(1, -(-len(images) // SAMPLE))))
