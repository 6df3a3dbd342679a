"""Convert float images to the 8 bits that would be written to disk, and back, as tensors: what metrics are fed with."""

import torch
from torch import Tensor

from images.ranges import TOLERANCE


def to_uint8(image: Tensor) -> Tensor:
    """Image in [-1, 1] => 8-bit tensor, rounded to the nearest; the pixels that `images.ranges.to_pixels` gives.

    Args:
        image: any shape, floating point; may leave [-1, 1] by 1e-3 at most, which is clamped.

    Returns:
        Same shape and device, uint8.

    Raises:
        ValueError: if a value is outside that range or not finite.

    Examples:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    low, high = image.aminmax() if image.numel() else (image.new_tensor(0.0),) * 2
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # NaN compares false
        raise ValueError(f"Images must lie in [-1, 1], this one spans [{low.item():.3g}, {high.item():.3g}].")
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """8-bit tensor of any shape => float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1
