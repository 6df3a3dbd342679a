"""Resize images by their short side; used by training, validation and translation alike."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from images.ranges import Array

MOST_RESIZED, LONGEST_RESIZED = 16 * 1024 * 1024, 16 * 1024  # pixels of an image and of its long side after resizing


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width, in pixels, of an image whose short side becomes ``size``.

    Examples:
        >>> resized_shape(400, 600, 200)
        (200, 300)
    """
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def check_resized(image: Path | str, height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width, in pixels, of an image whose short side becomes ``size``.

    Args:
        image: its name, for the message.
        height: of the image, pixels.
        width: likewise.
        size: short side after resizing, pixels.

    Raises:
        ValueError: they would be more than 16 megapixels, or 16,384 pixels long: the image is a narrow strip, or the
            size a mistake.
    """
    new_height, new_width = resized_shape(height, width, size)
    if new_height * new_width > MOST_RESIZED or max(new_height, new_width) > LONGEST_RESIZED:
        raise ValueError(
            f"{image} has {width} x {height} pixels: with a short side of {size} it would become {new_width} x "
            f"{new_height}, above 16 megapixels or 16,384 pixels a side. Crop it, or give a smaller size."
        )
    return new_height, new_width


def resize(image: ArrayLike, shape: tuple[int, int]) -> Array:
    """Resize an image.

    Args:
        image: ``(C, H, W)`` in [-1, 1], an array or a tensor in main memory.
        shape: height and width, pixels; an image that has them already is returned as it is.

    Returns:
        ``(C, *shape)`` in [-1, 1], bicubic, with antialiasing where it shrinks.
    """
    image = np.asarray(image, np.float32)
    if shape == image.shape[-2:]:
        return image
    resized = np.empty((len(image), *shape), np.float32)
    for channel, result in zip(image, resized, strict=True):
        result[:] = np.asarray(Image.fromarray(channel).resize(shape[::-1], Image.Resampling.BICUBIC))
    return resized.clip(-1, 1, out=resized)


def resize_short_side(image: ArrayLike, size: int) -> Array:
    """Resize so that the short side has ``size`` pixels; see `resize`."""
    height, width = np.asarray(image).shape[-2:]
    return resize(image, resized_shape(height, width, size))
