"""Convert 8- or 16-bit pixels on disk to float images and back.

Inside the code an image is float32 in [-1, 1].  Metrics, which take the 8 bits that would be written to disk, convert
tensors in `metrics.pixels`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE = 1e-3  # by which rounding errors may leave [-1, 1]; it is clamped

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Array = NDArray[np.float32]


def from_pixels(pixels: Pixels) -> Array:
    """Pixels on disk => image in [-1, 1].

    Args:
        pixels: ``(H, W, C)``, uint8 or uint16 (which keeps its 16 bits: 65535 is 1).

    Returns:
        ``(C, H, W)`` float32.
    """
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    image = np.empty((pixels.shape[2], *pixels.shape[:2]), np.float32)
    # Without temporaries: four times the bytes of the pixels are enough for a large image.
    np.divide(pixels.transpose(2, 0, 1), half, out=image, dtype=np.float32)
    image -= 1
    return image


def to_pixels(image: ArrayLike, alpha: ArrayLike | None = None) -> NDArray[np.uint8]:
    """Image in [-1, 1] => pixels on disk; the inverse of `from_pixels`, rounded to the nearest.

    Args:
        image: ``(C, H, W)``, an array or a tensor in main memory; values may exceed [-1, 1] by 1e-3, and are clamped.
        alpha: transparency, ``(1, H, W)`` in [0, 1], which becomes a further channel; None for an opaque image.

    Returns:
        ``(H, W, C)`` or ``(H, W, C + 1)``, uint8.

    Raises:
        ValueError: if the image is outside that range or not finite, for example because it is in [0, 255].
    """
    values = np.asarray(image, np.float32)
    if alpha is not None:
        values = np.concatenate([values, np.asarray(alpha, np.float32) * 2 - 1])
    check_range(values)
    levels = (values + 1) * np.float32(127.5)
    return np.ascontiguousarray(levels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def check_range(image: Array) -> None:
    """Refuse values outside [-1, 1].

    Raises:
        ValueError: a value is outside, by more than 1e-3, or not finite.
    """
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # NaN compares false
        raise ValueError(f"Images must lie in [-1, 1], this one spans [{low:.3g}, {high:.3g}].")
