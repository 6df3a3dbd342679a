"""Write images as PNG files."""

from pathlib import Path

from numpy.typing import ArrayLike
from PIL import Image

from images.ranges import to_pixels
from storage import atomic_write


def write_image(path: str | Path, image: ArrayLike, alpha: ArrayLike | None = None) -> None:
    """Write a PNG file atomically.

    Args:
        path: file with the suffix .png; its folder is made if missing.
        image: ``(3, H, W)`` in [-1, 1], an array or a tensor in main memory.
        alpha: ``(1, H, W)`` in [0, 1], or None for an opaque file.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"Images are written as PNG: name {path.with_suffix('.png').name} instead of {path.name}.")
    with atomic_write(path) as part:
        Image.fromarray(to_pixels(image, alpha)).save(part, format="PNG")
