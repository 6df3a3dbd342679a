"""Resize images by their short side; used by training, validation and translation alike."""

from pathlib import Path

import torch
from torch import Tensor

MOST_RESIZED, LONGEST_RESIZED = 16 * 1024 * 1024, 16 * 1024  # pixels of an image and of its long side after resizing


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width, in pixels, of an image whose short side becomes ``size``."""
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def check_resized(path: Path, height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width, in pixels, of an image file whose short side becomes ``size``.

    Raises:
        ValueError: they would be more than 16 megapixels, or 16,384 pixels long: the file is a narrow strip, or the
            size a mistake.
    """
    new_height, new_width = resized_shape(height, width, size)
    if new_height * new_width > MOST_RESIZED or max(new_height, new_width) > LONGEST_RESIZED:
        raise ValueError(
            f"{path} has {width} x {height} pixels: with a short side of {size} it would become {new_width} x "
            f"{new_height}, above 16 megapixels or 16,384 pixels a side. Crop it, or give a smaller size."
        )
    return new_height, new_width


def resize(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize an image.

    Args:
        image: ``(3, H, W)`` or ``(1, H, W)`` in [-1, 1].
        shape: height and width, pixels; an image that has them already is returned as it is.

    Returns:
        ``(3, *shape)`` or ``(1, *shape)`` in [-1, 1], bicubic, with antialiasing where it shrinks.
    """
    if shape == tuple(image.shape[-2:]):
        return image
    resized = torch.nn.functional.interpolate(image[None], shape, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(-1, 1)


def resize_short_side(image: Tensor, size: int) -> Tensor:
    """Resize so that the short side has ``size`` pixels; see `resize`."""
    return resize(image, resized_shape(image.shape[-2], image.shape[-1], size))
