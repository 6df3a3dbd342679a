"""Peak signal-to-noise ratio of 8-bit images."""

import torch
from torch import Tensor

CEILING = 100.0  # dB; equal images would be infinite, which JSON cannot hold


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image, dB, at most 100; higher is closer.

    Args:
        image: `(B, 3, H, W)`, uint8.
        truth: ground truth, same shape.

    Returns:
        `(B,)`.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> black, white = (torch.full((1, 3, 2, 2), level, dtype=torch.uint8) for level in (0, 255))
        >>> psnr(black, white).item(), psnr(black, black).item()
        (0.0, 100.0)
    """
    if image.shape != truth.shape:
        raise ValueError(f"PSNR needs images of one shape, got {tuple(image.shape)} and {tuple(truth.shape)}.")
    error = (image.float() - truth.float()).square().flatten(1).mean(dim=1)
    return (10 * torch.log10(255**2 / error)).clamp(max=CEILING)
