"""The only two conversions between pixels on disk and images in the code.

Inside the code an image is float32, ``(3, H, W)``, in [-1, 1].  On disk it is whatever the file says.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def from_pixels(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Tensor:
    """Pixels on disk => image in [-1, 1].

    Args:
        pixels: ``(H, W, 3)``, uint8 or uint16 (which keeps its 16 bits: 65535 is 1).

    Returns:
        ``(3, H, W)`` float32.
    """
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    return torch.from_numpy(np.ascontiguousarray((pixels.astype(np.float32) / half - 1).transpose(2, 0, 1)))


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Image in [-1, 1] => pixels on disk; the inverse of `from_pixels`, rounded to the nearest.

    Args:
        image: ``(3, H, W)``; may leave [-1, 1] by 1e-3 at most, which is clamped.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: if the image is outside that range or not finite, for example because it is in [0, 255].
    """
    values = image.detach().to("cpu", torch.float32)
    low, high = values.min().item(), values.max().item()
    if not (low >= -1 - 1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"An image to be written must lie in [-1, 1], this one spans [{low:g}, {high:g}].")
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
