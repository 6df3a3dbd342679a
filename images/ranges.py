"""Convert 8- or 16-bit pixels to float images and back; the only conversions in the code.

Inside the code an image is float32 in [-1, 1].  Metrics take the 8 bits that would be written to
disk.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 1e-3  # by which rounding errors may leave [-1, 1]; it is clamped


def from_pixels(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Tensor:
    """Pixels on disk => image in [-1, 1].

    Args:
        pixels: ``(H, W, 3)``, uint8 or uint16 (which keeps its 16 bits: 65535 is 1).

    Returns:
        ``(3, H, W)`` float32.
    """
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    image = np.empty((pixels.shape[2], *pixels.shape[:2]), np.float32)
    # Without temporaries: four times the bytes of the pixels are enough for a large image.
    np.divide(pixels.transpose(2, 0, 1), half, out=image, dtype=np.float32)
    image -= 1
    return torch.from_numpy(image)


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Image in [-1, 1] => pixels on disk; the inverse of `from_pixels`, rounded to the nearest.

    Args:
        image: ``(3, H, W)``; values may exceed [-1, 1] by 1e-3, and are clamped.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: if the image is outside that range or not finite, for example because it is in [0, 255].
    """
    return to_uint8(image.detach().cpu()).permute(1, 2, 0).contiguous().numpy()


def to_uint8(image: Tensor) -> Tensor:
    """Image in [-1, 1] => 8-bit tensor, rounded to the nearest.

    Args:
        image: any shape, floating point; may leave [-1, 1] by 1e-3 at most, which is clamped.

    Returns:
        Same shape and device, uint8.

    Raises:
        ValueError: if a value is outside that range or not finite.
    """
    low, high = image.aminmax() if image.numel() else (image.new_tensor(0.0),) * 2
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # NaN compares false
        raise ValueError(f"Images must lie in [-1, 1], this one spans [{low.item():.3g}, {high.item():.3g}].")
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """8-bit tensor of any shape => float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1
