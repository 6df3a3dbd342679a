"""Translate one image file or every image file of a folder."""

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import torch

from images.headers import check_headers
from images.listing import IMAGE_SUFFIXES, list_images
from images.resizing import resized_shape
from images.writing import write_image
from inference.processing import Preprocessing
from networks import ImageTranslator

MEGAPIXEL = 1024 * 1024  # pixels
Job = tuple[Path, Path]  # picture, PNG to write
Shape = tuple[int, int]  # height, width


def plan(source: Path, target: Path) -> list[Job]:
    """Which pictures are read and which PNGs are written for them.

    Raises:
        FileNotFoundError: ``source`` is not there or holds no picture.
        ValueError: ``target`` cannot take the results, or would overwrite an input.
    """
    if not source.exists():
        raise FileNotFoundError(f"Nothing to translate: {source} does not exist. Give a picture or a folder as IN=.")
    named_as_picture = target.suffix.lower() in IMAGE_SUFFIXES and not target.is_dir()
    if source.is_dir():
        if named_as_picture or target.is_file():
            raise ValueError(f"IN {source} is a folder, so OUT must be one too, not the file {target}.")
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"OUT {target} is IN or lies in it, so results would be taken for input: give another folder."
            )
        pictures = list_images(source)
        if not pictures:
            raise FileNotFoundError(
                f"No pictures in {source}: looked for *{', *'.join(IMAGE_SUFFIXES)} in all sub-folders."
            )
        jobs = [(picture, (target / picture.relative_to(source)).with_suffix(".png")) for picture in pictures]
    elif named_as_picture:
        if target.suffix.lower() != ".png":
            raise ValueError(f"Results are written as PNG: name OUT {target.with_suffix('.png')} instead of {target}.")
        jobs = [(source, target)]
    else:
        jobs = [(source, target / f"{source.stem}.png")]
    _check_targets(jobs)
    return jobs


def _check_targets(jobs: list[Job]) -> None:
    writers: dict[Path, Path] = {}
    inputs = {picture.resolve() for picture, _ in jobs}
    for picture, png in jobs:
        if png in writers:
            raise ValueError(f"{writers[png]} and {picture} would both become {png}: rename one or move it elsewhere.")
        writers[png] = picture
        if png.resolve() in inputs:
            raise ValueError(f"OUT {png} would overwrite a picture of IN: give another name or folder.")
        if png.is_dir():
            raise ValueError(f"OUT {png} is a folder, a PNG is to be written there: give another name.")
        there = next(parent for parent in png.absolute().parents if parent.exists())
        if not there.is_dir():
            raise ValueError(f"OUT {png} cannot be written: {there} is a file, not a folder.")
        if not os.access(there, os.W_OK):
            raise ValueError(f"OUT {png} cannot be written: no permission to write in {there}.")


def check_pictures(pictures: Iterable[Path], size: int | None) -> dict[Path, Shape]:
    """Height and width at which each picture is translated; finds files that are no pictures or are cut off.

    Raises:
        ValueError: some cannot be used, or one is larger than a megapixel and no size was asked for.
    """
    shapes = check_headers(pictures)
    if size is not None:
        return {picture: resized_shape(height, width, size) for picture, (height, width) in shapes.items()}
    for picture, (height, width) in shapes.items():
        if height * width > MEGAPIXEL:
            raise ValueError(
                f"{picture} has {width} x {height} pixels. Above one megapixel memory and time grow steeply, far "
                "from the sizes trained at: say how large the result should be, e.g. SIZE=512 (short side, pixels)."
            )
    return shapes


def batches(jobs: Iterable[Job], shapes: dict[Path, Shape], size: int) -> Iterator[list[Job]]:
    """Jobs in groups of one shape, at most ``size`` each."""
    for _, group in groupby(sorted(jobs, key=lambda job: shapes[job[0]]), key=lambda job: shapes[job[0]]):
        alike = list(group)
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def translate_folder(
    generator: ImageTranslator,
    jobs: list[Job],
    shapes: dict[Path, Shape],
    preprocessing: Preprocessing,
    prompt: str,
    direction: str = "a2b",
    strength: float = 1.0,
    seed: int = 0,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[int]:
    """Translate image files and write the results as PNG, those of one shape together.

    Args:
        generator: on the device.
        jobs: what is read and what is written for it; see `plan`.
        shapes: height and width at which each image is translated; see `check_pictures`.
        preprocessing: from file to input.
        prompt: text that describes the results.
        direction: "a2b" or "b2a".
        strength: in [0, 1]; 1 is deterministic.
        seed: of the noise for a strength below 1.
        batch_size: images translated together, at most.
        device: where the generator is.

    Yields:
        Number of images written since the last one.
    """
    for batch in batches(jobs, shapes, batch_size):
        inputs, alphas = zip(*(preprocessing.read(path) for path, _ in batch), strict=True)
        results = generator.translate(torch.stack(inputs).to(device), prompt, direction, strength, seed)
        for (_, png), result, alpha in zip(batch, results.cpu(), alphas, strict=True):
            write_image(png, result, alpha)
        yield len(batch)
