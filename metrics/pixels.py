"""The metrics' door: float images become the 8-bit pictures that a user would see, and are judged as those."""

import torch
from torch import Tensor

PSNR_CEILING = 100.0  # dB; equal pictures would be infinite, which JSON cannot hold


def quantise(image: Tensor) -> Tensor:
    """Round images to 8 bits.

    Args:
        image: `(B, 3, H, W)` float in [-1, 1].

    Returns:
        Same shape, uint8.

    Raises:
        ValueError: if a value is not finite or outside [-1, 1]; wrapped around it would be judged as another picture.
    """
    low, high = image.aminmax() if image.numel() else (image.new_tensor(0.0),) * 2
    if not (low >= -1.001 and high <= 1.001):  # NaN compares false
        raise ValueError(f"Metrics want images in [-1, 1], got values from {low.item():.3g} to {high.item():.3g}.")
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_image(picture: Tensor) -> Tensor:
    """uint8 `(B, 3, H, W)` => float32 in [-1, 1]."""
    return picture.float() / 127.5 - 1


def psnr(picture: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of 8-bit pictures `(B, 3, H, W)`, dB per image `(B,)`, at most 100; higher is closer.

    Raises:
        ValueError: if the shapes differ.
    """
    if picture.shape != truth.shape:
        raise ValueError(f"PSNR wants pictures of one shape, got {tuple(picture.shape)} and {tuple(truth.shape)}.")
    error = (picture.float() - truth.float()).square().flatten(1).mean(dim=1)
    return (10 * torch.log10(255**2 / error)).clamp(max=PSNR_CEILING)
