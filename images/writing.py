"""Write images as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from images.ranges import to_pixels
from storage import atomic_write


def write_image(path: str | Path, image: Tensor, alpha: Tensor | None = None) -> None:
    """Write a PNG file atomically.

    Args:
        path: file with the suffix .png; its folder is made if missing.
        image: ``(3, H, W)`` in [-1, 1].
        alpha: ``(1, H, W)`` in [0, 1], or None for an opaque file.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"Images are written as PNG: name {path.with_suffix('.png').name} instead of {path.name}.")
    pixels = to_pixels(image)
    if alpha is not None:
        opacity = to_pixels((alpha * 2 - 1).expand(3, -1, -1))[..., :1]
        pixels = np.concatenate([pixels, opacity], axis=2)
    with atomic_write(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")
