"""Encode images, and write them as PNG, JPEG or WebP files."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from images.ranges import Pixels, to_pixels
from storage import atomic_write

WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Formats by the endings of the files that are written."""
BYTES_PER_PIXEL = {"PNG": 2.0, "JPEG": 0.8, "WEBP": 0.5}
"""About what a photograph takes at 8 bits per channel, by format."""
DEEPER = 2.5  # of 16 bits, whose lower ones are hardly compressed
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels of a side
QUALITY = 95  # of JPEG, whose colours keep their full resolution, and of WebP
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's mode L


def check_format(suffix: str, depth: int = 8) -> None:
    """Refuse a format that is not written, or not at this depth.

    Raises:
        ValueError: names those that are.
    """
    if suffix.lower() not in WRITTEN:
        raise ValueError(f"Images are written as {', '.join(WRITTEN)}, not as {suffix or 'a file without an ending'}.")
    if depth != 8 and WRITTEN[suffix.lower()] != "PNG":
        raise ValueError(f"{suffix} holds 8 bits per channel: {depth} need .png.")


def encode_image(
    image: ArrayLike, suffix: str = ".png", alpha: ArrayLike | None = None, depth: int = 8, grey: bool = False
) -> bytes:
    """Encode an image.

    Args:
        image: ``(3, H, W)`` in [-1, 1], an array or a tensor in main memory.
        suffix: one of `WRITTEN`.
        alpha: ``(1, H, W)`` in [0, 1], or None for an opaque image.  JPEG lacks transparency: it gets white behind it.
        depth: bits per channel, 8 or, of PNG, 16.
        grey: write its luma as one channel.  WebP, and PNG of 16 bits with transparency, lack this and get equal ones.

    Returns:
        Content of the file.

    Raises:
        ValueError: the format is not written, not at this depth, or not at this size.
    """
    check_format(suffix, depth)
    kind = WRITTEN[suffix.lower()]
    values = np.asarray(image, np.float32)
    height, width = values.shape[1:]
    if max(height, width) > LONGEST.get(kind, height + width):
        raise ValueError(f"{kind} holds at most {LONGEST[kind]:,} pixels a side, not {width} x {height}: use .png.")
    if grey:
        values = np.tensordot(LUMA, values, 1)[None]
    if kind == "JPEG" and alpha is not None:
        values, alpha = values - 1, np.asarray(alpha, np.float32)
        values *= alpha
        values += 1
        alpha = None
    pixels = to_pixels(values, alpha, depth)
    if kind == "PNG" and (pixels.shape[2] != 2 or depth == 16):
        return _encode_png(pixels)
    buffer = BytesIO()
    options = {"JPEG": {"quality": QUALITY, "subsampling": 0}, "WEBP": {"quality": QUALITY}}.get(kind, {})
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_png(pixels: Pixels) -> bytes:
    # cv2 is faster than Pillow by far, and alone has 16 bits; it takes BGR(A).
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, content = cv2.imencode(".png", pixels[..., order])
    assert done
    return content.tobytes()


def write_image(
    path: str | Path, image: ArrayLike, alpha: ArrayLike | None = None, depth: int = 8, grey: bool = False
) -> None:
    """Write an image file atomically; see `encode_image`.

    Args:
        path: file with one of the suffixes in `WRITTEN`; its folder is made if missing.
        image: ``(3, H, W)`` in [-1, 1], an array or a tensor in main memory.
        alpha: ``(1, H, W)`` in [0, 1], or None for an opaque file.
        depth: bits per channel, 8 or, of PNG, 16.
        grey: write one channel.

    Raises:
        ValueError: see `encode_image`.
        OSError: see `storage.atomic_write`.
    """
    path = Path(path)
    content = encode_image(image, path.suffix, alpha, depth, grey)
    with atomic_write(path) as part:
        part.write_bytes(content)
