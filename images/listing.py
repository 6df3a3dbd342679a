"""List image files in a folder; needs neither torch nor an image decoder."""

import os
from pathlib import Path

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Lower-case endings of the files that count as images."""


def list_images(folder: str | Path) -> list[Path]:
    """List the images in a folder, its sub-folders and linked folders, in the same order on every machine.

    Hidden files, and files in hidden folders, are left out.
    """
    folder = Path(folder)
    found: list[Path] = []
    for parent, below, files in os.walk(folder, followlinks=True):
        # A link back to a folder above would be an endless loop.
        above = {os.path.realpath(path) for path in (parent, *map(str, Path(parent).parents))}
        below[:] = [
            n for n in below if not n.startswith(".") and os.path.realpath(os.path.join(parent, n)) not in above
        ]
        found += [Path(parent, n) for n in files if not n.startswith(".")]
    images = (path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix())
