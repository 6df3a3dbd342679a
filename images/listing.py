"""List image files in a folder; needs neither torch nor an image decoder."""

import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Lower-case endings of the files that count as images."""

OTHER_IMAGE_SUFFIXES = (
    *(".arw", ".avif", ".cr2", ".cr3", ".dds", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".jfif"),
    *(".jp2", ".jpe", ".jxl", ".nef", ".orf", ".psd", ".raf", ".raw", ".rw2", ".svg", ".tga"),
)
"""Lower-case endings of image files that are not read."""


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        images: the image files, in the same order on every machine.
        not_read: files of other image formats, in this order too.
        not_files: pipes, sockets, devices and broken links that are named like images.
        closed: sub-folders that this user may not list.
    """

    images: list[Path] = field(default_factory=list)
    not_read: list[Path] = field(default_factory=list)
    not_files: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What was left out and why, in one sentence; empty where that is nothing."""
        parts = []
        if self.not_read:
            counts = Counter(path.suffix.lower() for path in self.not_read)
            formats = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
            parts.append(f"{formats} (formats that are not read: save as PNG or JPEG), first {self.not_read[0]}")
        if self.not_files:
            parts.append(f"{len(self.not_files)} pipes, sockets, devices or broken links, first {self.not_files[0]}")
        if self.closed:
            parts.append(f"{len(self.closed)} folders without permission to read, first {self.closed[0]}")
        return f"left out {'; '.join(parts)}" if parts else ""


def look_through(folder: str | Path) -> Listing:
    """List the images in a folder, its sub-folders and linked folders, and what looks like an image but is not taken.

    Hidden files, and files in hidden folders, are not counted.
    """
    folder = Path(folder)
    found = Listing()

    def closed(error: OSError) -> None:
        found.closed.append(Path(error.filename))

    for parent, below, files in os.walk(folder, followlinks=True, onerror=closed):
        # A link back to a folder above would be an endless loop.
        above = {os.path.realpath(path) for path in (parent, *map(str, Path(parent).parents))}
        below[:] = [
            n for n in below if not n.startswith(".") and os.path.realpath(os.path.join(parent, n)) not in above
        ]
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                (found.images if path.is_file() else found.not_files).append(path)
            elif suffix in OTHER_IMAGE_SUFFIXES:
                found.not_read.append(path)
    for paths in (found.images, found.not_read, found.not_files):
        paths.sort(key=lambda path: path.relative_to(folder).as_posix())
    return found


def list_images(folder: str | Path) -> list[Path]:
    """The images in a folder, its sub-folders and linked folders, in the same order on every machine.

    Warns of files that look like images and are left out.
    """
    found = look_through(folder)
    if found.note:
        warnings.warn(f"{folder}: {found.note}.", stacklevel=2)
    return found.images
