"""List image files in a folder; needs neither torch nor an image decoder."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
"""Lower-case endings of the files that count as images."""

OTHER_IMAGE_SUFFIXES = (
    *(".arw", ".avif", ".cr2", ".cr3", ".dds", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".jfif"),
    *(".jp2", ".jpe", ".jxl", ".nef", ".orf", ".psd", ".raf", ".raw", ".rw2", ".svg", ".tga"),
)
"""Lower-case endings of image files that are not read."""

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"),
    ".wmv",
)
"""Lower-case endings of video files."""


class PathList(Sequence[Path]):
    """Paths in one buffer of bytes, a few more than their characters each; they become `Path` on access.

    A million `Path` objects would take a gigabyte, and be copied by every process that touches them.

    Args:
        paths: paths or texts.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        given = [os.fspath(path) for path in paths]
        joined = "".join(given)
        if joined.isascii():  # many times as fast as path by path
            self._ends = np.cumsum([*map(len, given)], dtype=np.int64)
            self._buffer = joined.encode()
        else:
            encoded = [os.fsencode(path) for path in given]
            self._ends = np.cumsum([*map(len, encoded)], dtype=np.int64)
            self._buffer = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> "PathList": ...
    def __getitem__(self, index: int | slice) -> "Path | PathList":
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return Path(self._text(range(len(self))[index]))

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.texts())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __repr__(self) -> str:
        return repr(list(self))

    def texts(self) -> Iterator[str]:
        """The paths as texts."""
        ends = self._ends.tolist()
        if self._buffer.isascii():
            joined = self._buffer.decode()
            return (joined[start:end] for start, end in zip([0, *ends], ends, strict=False))
        return (os.fsdecode(self._buffer[start:end]) for start, end in zip([0, *ends], ends, strict=False))

    def take(self, places: Iterable[int]) -> "PathList":
        """The paths at some places, in their order."""
        every = list(self.texts())
        return PathList(every[place] for place in places)

    def _text(self, place: int) -> str:
        start = self._ends[place - 1] if place else 0
        return os.fsdecode(self._buffer[start : self._ends[place]])


def texts(paths: Iterable[Path | str]) -> Iterator[str]:
    """Paths as texts, without a `Path` for each where they are a `PathList`."""
    return paths.texts() if isinstance(paths, PathList) else map(str, paths)


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        images: the image files, in the same order on every machine.
        not_read: files of other image formats, in this order too.
        videos: video files, likewise.
        not_files: pipes, sockets, devices and broken links that are named like images.
        closed: sub-folders that this user may not list.
    """

    images: PathList = field(default_factory=lambda: PathList(()))
    not_read: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    not_files: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What was left out and why, in one sentence; empty where that is nothing."""
        parts = []
        for paths, why in (
            (self.not_read, "formats that are not read: save as PNG or JPEG"),
            (self.videos, "videos, which are translated one at a time"),
        ):
            if paths:
                counts = Counter(path.suffix.lower() for path in paths)
                formats = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
                parts.append(f"{formats} ({why}), first {paths[0]}")
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
    found, images = Listing(), list[str]()

    def closed(error: OSError) -> None:
        found.closed.append(Path(error.filename))

    for parent, files in _walk("" if folder == Path() else str(folder), closed):
        above = os.path.join(parent, "") if parent else ""
        for name, is_file in files:
            if name.startswith("."):
                continue
            suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
            if suffix in IMAGE_SUFFIXES:
                path = above + name
                if is_file or Path(path).is_file():
                    images.append(path)
                else:
                    found.not_files.append(Path(path))
            elif suffix in OTHER_IMAGE_SUFFIXES:
                found.not_read.append(Path(parent, name))
            elif suffix in VIDEO_SUFFIXES:
                found.videos.append(Path(parent, name))
    images.sort()  # all start with the folder
    found.images = PathList(images)
    for paths in (found.not_read, found.videos, found.not_files):
        paths.sort(key=str)
    return found


def _walk(top: str, closed: Callable[[OSError], None]) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Folders, and of each its files by name, with whether they are ordinary ones; links are followed, but in no loop.

    Args:
        top: the folder; empty for the current one.
        closed: told of folders that cannot be listed.
    """
    left = [top]
    while left:
        parent = left.pop()
        below, files = list[str](), list[tuple[str, bool]]()
        try:
            with os.scandir(parent or ".") as entries:
                for entry in entries:
                    if _is_folder(entry):
                        below.append(entry.name)
                    else:
                        files.append((entry.name, entry.is_file(follow_symlinks=False)))
        except OSError as error:
            closed(error)
            continue
        yield parent, files
        # A link back to a folder above would be an endless loop.
        above = {os.path.realpath(path) for path in (parent, *map(str, Path(parent).parents))}
        inside = [os.path.join(parent, name) for name in below if not name.startswith(".")]
        left += [path for path in reversed(inside) if os.path.realpath(path) not in above]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def list_images(folder: str | Path) -> PathList:
    """The images in a folder, its sub-folders and linked folders, in the same order on every machine.

    Warns of files that look like images and are left out.
    """
    found = look_through(folder)
    if found.note:
        warnings.warn(f"{folder}: {found.note}.", stacklevel=2)
    return found.images
