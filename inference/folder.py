"""Translate one image file or every image file of a folder."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from images.headers import check_headers
from images.writing import write_image
from inference.jobs import Job
from inference.processing import Preprocessing, checked_shape
from inference.translator import Translator

Shape = tuple[int, int]  # height, width


def check_images(images: Iterable[Path], size: int | None) -> dict[Path, Shape]:
    """Height and width at which each image is translated; finds files that are no images or are truncated.

    Args:
        images: files.
        size: short side after resizing, pixels; None keeps each file's own.

    Raises:
        ValueError: some cannot be used, or one is too large: above a megapixel where no size was given, else above 16
            once it is resized.
    """
    return {image: checked_shape(image, *shape, size) for image, shape in check_headers(images).items()}


def batches(jobs: Iterable[Job], shapes: dict[Path, Shape], size: int) -> Iterator[list[Job]]:
    """Jobs in groups of one shape, at most ``size`` each."""
    for _, group in groupby(sorted(jobs, key=lambda job: shapes[job[0]]), key=lambda job: shapes[job[0]]):
        alike = list(group)
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def translate_folder(
    translator: Translator,
    jobs: list[Job],
    shapes: dict[Path, Shape],
    preprocessing: Preprocessing,
    prompt: str,
    direction: str = "a2b",
    strength: float = 1.0,
    seed: int = 0,
    batch_size: int = 1,
) -> Iterator[int]:
    """Translate image files and write the results as PNG, those of one shape together.

    Args:
        translator: of an adapter or an exported model.
        jobs: what is read and what is written for it; see `plan`.
        shapes: height and width at which each image is translated; see `check_images`.
        preprocessing: from file to input.
        prompt: text that describes the results.
        direction: "a2b" or "b2a".
        strength: in [0, 1]; 1 is deterministic.
        seed: of the noise for a strength below 1.
        batch_size: images translated together, at most.

    Yields:
        Number of images written since the last one.
    """
    for batch in batches(jobs, shapes, batch_size):
        inputs, alphas = zip(*(preprocessing.read(path) for path, _ in batch), strict=True)
        results = translator.translate(np.stack(inputs), prompt, direction, strength, seed)
        for (_, png), result, alpha in zip(batch, results, alphas, strict=True):
            write_image(png, result, alpha)
        yield len(batch)
