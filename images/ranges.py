"""Convert 8- or 16-bit pixels on disk to float images and back.

Inside the code an image is float32 in [-1, 1].  Metrics, which take the 8 bits that would be written to disk, convert
tensors in `metrics.pixels`.
"""

from collections.abc import Iterator
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE = 1e-3  # by which rounding errors may leave [-1, 1]; it is clamped
STRIP = 1 << 18  # pixels that are converted at once

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Array = NDArray[np.float32]


def from_pixels(pixels: Pixels) -> Array:
    """Pixels on disk => image in [-1, 1].

    Args:
        pixels: ``(H, W, C)``, uint8 or uint16 (which keeps its 16 bits: 65535 is 1).

    Returns:
        ``(C, H, W)`` float32.

    Examples:
        >>> from_pixels(np.array([[[0], [255]]], np.uint8))
        array([[[-1.,  1.]]], dtype=float32)
    """
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    image = np.empty((pixels.shape[2], *pixels.shape[:2]), np.float32)
    # Without temporaries: four times the bytes of the pixels are enough for a large image.
    np.divide(pixels.transpose(2, 0, 1), half, out=image, dtype=np.float32)
    image -= 1
    return image


@overload
def to_pixels(image: ArrayLike, alpha: ArrayLike | None = None, depth: Literal[8] = 8) -> NDArray[np.uint8]: ...
@overload
def to_pixels(image: ArrayLike, alpha: ArrayLike | None, depth: int) -> Pixels: ...
def to_pixels(image: ArrayLike, alpha: ArrayLike | None = None, depth: int = 8) -> Pixels:
    """Image in [-1, 1] => pixels on disk; the inverse of `from_pixels`, rounded to the nearest.

    A large image is converted in strips of rows, so that nothing of its size is held beside the result.

    Args:
        image: ``(C, H, W)``, an array or a tensor in main memory; values may exceed [-1, 1] by 1e-3, and are clamped.
        alpha: transparency, ``(1, H, W)`` in [0, 1], which becomes a further channel; None for an opaque image.
        depth: bits per channel, 8 or 16.

    Returns:
        ``(H, W, C)`` or ``(H, W, C + 1)``, uint8 or uint16.

    Raises:
        ValueError: if the image is outside that range or not finite, for example because it is in [0, 255].

    Examples:
        >>> to_pixels([[[-1, 0, 1]]]).ravel(), to_pixels([[[-1, 0, 1]]], depth=16).ravel()
        (array([  0, 128, 255], dtype=uint8), array([    0, 32768, 65535], dtype=uint16))
    """
    values = np.asarray(image, np.float32)
    check_range(values)
    channels, height, width = values.shape
    dtype = np.uint8 if depth == 8 else np.uint16
    top = np.float32(np.iinfo(dtype).max)
    pixels = np.empty((height, width, channels + (alpha is not None)), dtype)
    for rows in strips(height, width):
        levels = (values[:, rows] + 1) * (top / 2)
        pixels[rows, :, :channels] = levels.round(out=levels).clip(0, top, out=levels).transpose(1, 2, 0)
    if alpha is not None:
        opacity = np.asarray(alpha, np.float32)
        check_range(opacity)
        for rows in strips(height, width):
            pixels[rows, :, channels] = (opacity[0, rows] * top).round().clip(0, top)
    return pixels


def strips(height: int, width: int) -> Iterator[slice]:
    """The rows of an image, in strips of about 262,144 pixels."""
    rows = max(1, STRIP // max(1, width))
    return (slice(first, first + rows) for first in range(0, height, rows))


def check_range(image: Array) -> None:
    """Refuse values outside [-1, 1].

    Raises:
        ValueError: a value is outside, by more than 1e-3, or not finite.
    """
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # NaN compares false
        raise ValueError(f"Images must lie in [-1, 1], this one spans [{low:.3g}, {high:.3g}].")
