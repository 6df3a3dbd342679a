"""Resize images by their short side; used by training, validation and translation alike."""

import torch
from torch import Tensor


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width, in pixels, of an image whose short side becomes ``size``."""
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def resize_short_side(image: Tensor, size: int) -> Tensor:
    """Resize so that the short side has ``size`` pixels.

    Args:
        image: ``(3, H, W)`` in [-1, 1].
        size: pixels; an image that has them already is returned as it is.

    Returns:
        ``(3, H', W')`` in [-1, 1], bicubic, with antialiasing where it shrinks.
    """
    shape = resized_shape(image.shape[-2], image.shape[-1], size)
    if shape == tuple(image.shape[-2:]):
        return image
    resized = torch.nn.functional.interpolate(image[None], shape, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(-1, 1)
