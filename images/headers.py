"""Check image files before training: readable headers, no truncated files, height and width.

PNG and JPEG are checked by header and end marker, without decoding; formats without an end marker are decoded once.
Results are cached by path, size and time of change, so that the next start only asks the file system.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from images.opening import UNREADABLE, open_image, orientation_of
from storage import digest, read_cache, size_and_mtime, write_cache

TAIL = 65536  # bytes in which an end marker is searched first; cameras append previews and the like behind it


def check_headers(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Check image files and read their sizes.

    Args:
        files: image files.

    Returns:
        Height and width of each, pixels, after turning it upright by its EXIF tag.

    Raises:
        ValueError: some are not images or are truncated; names the first five.
    """
    sizes, unusable = read_headers(files)
    refuse(unusable, len(sizes) + len(unusable))
    return sizes


def refuse(unusable: Mapping[Path, str], count: int) -> None:
    """Refuse images that cannot be used, if there are any.

    Args:
        unusable: why each cannot be.
        count: of all images.

    Raises:
        ValueError: names the first five.
    """
    if unusable:
        bad = [f"{path} ({why})" for path, why in unusable.items()]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"{len(bad)} of {count} images cannot be used: {', '.join(bad[:5])}{more}. Replace or remove them."
        )


def read_headers(files: Iterable[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, str]]:
    """Check image files and read their sizes; see `check_headers`.

    Args:
        files: image files.

    Returns:
        Height and width of each file that can be used, pixels; and why each of the others cannot be.
    """
    ordered = sorted({Path(os.path.abspath(path)): path for path in files}.items())
    if not ordered:
        return {}, {}
    cache_name = f"checked-images-{digest(str(ordered[0][0].parent))}.json"
    cache = read_cache(cache_name)
    sizes: dict[Path, tuple[int, int]] = {}
    unusable: dict[Path, str] = {}
    found: dict[str, list[int]] = {}
    for absolute, path in ordered:
        try:
            now = size_and_mtime(path)
            entry = cache.get(str(absolute), [])
            height, width = entry[2:] if entry[:2] == now else read_header(path)
        except UNREADABLE as error:
            unusable[path] = reason(error)
            continue
        sizes[path] = height, width
        found[str(absolute)] = [*now, height, width]
    if found != cache:
        write_cache(cache_name, found)
    return sizes, unusable


def reason(error: Exception) -> str:
    """A decoder's error message in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def read_header(path: Path) -> tuple[int, int]:
    """Height and width of one image, pixels, after turning it upright by its EXIF tag.

    Raises:
        ValueError: it is truncated, or `open_image` refuses it.
        OSError: it cannot be decoded.
    """
    with open_image(path) as header:
        if header.format == "PNG":
            orientation = _png_orientation(path)
        else:
            if header.format not in ("JPEG", "MPO"):
                header.load()  # turns a TIFF upright and removes its tag
            elif not _jpeg_ends(path):
                raise ValueError("cut off: its end marker is missing")
            orientation = orientation_of(header.getexif())
        width, height = header.size
    return (width, height) if orientation >= 5 else (height, width)


def _png_orientation(path: Path) -> int:
    # Walks the chunks up to IEND.  PIL would decode the pixels to find EXIF data behind them.
    orientation = 1
    with path.open("rb") as file:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, kind = int.from_bytes(start[:4], "big"), start[4:]
            if kind == b"IEND":
                return orientation
            if kind == b"eXIf":
                exif = Image.Exif()
                exif.load(file.read(length))
                orientation = orientation_of(exif)
                file.seek(4, os.SEEK_CUR)
            else:
                file.seek(length + 4, os.SEEK_CUR)
    raise ValueError("cut off: its end marker is missing")


def _jpeg_ends(path: Path) -> bool:
    # The search starts behind the header segments: a thumbnail in them has its own end marker.
    with path.open("rb") as file:
        file.seek(2)
        while (marker := _next_marker(file)) not in (None, 0xDA):
            length = int.from_bytes(file.read(2), "big")
            file.seek(max(length - 2, 0), os.SEEK_CUR)
        if marker is None:
            return False
        start, size = file.tell(), file.seek(0, os.SEEK_END)
        for position in (max(start, size - TAIL), start):
            file.seek(position)
            if b"\xff\xd9" in file.read():
                return True
    return False


def _next_marker(file: BinaryIO) -> int | None:
    # 0xFF, any number of them, then the marker's code
    byte = file.read(1)
    while byte and byte != b"\xff":
        byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
    return byte[0] if byte else None
