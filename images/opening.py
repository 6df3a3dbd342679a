"""Open images, files or their content: at most 100 megapixels, and one error for whatever a decoder fails with."""

import logging
import lzma
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import tifffile
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

Source = Path | bytes
"""An image file, or its content."""

MAX_PIXELS = 100_000_000  # of a file; decoding so many takes about 2 GB for a moment
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, as Pillow names them, whatever a file is called.  Pillow knows many more, and runs a program
of the system for one of them (PostScript)."""
EXIF_ORIENTATION = 0x0112
SAMPLE_FORMAT = 339
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NOT_AN_IMAGE = "not a PNG, JPEG, WebP, TIFF, BMP or PPM image"
FLOATING_POINT = "floating-point pixels have no known range; save as 8 or 16 bits"
INTEGERS = "pixels that are signed or of 32 bits have no known range; save as 8 or 16 bits"
# What PIL, cv2 and tifffile raise for files that they cannot read.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError),
    *(MemoryError, NotImplementedError, RuntimeError, struct.error, cv2.error, tifffile.TiffFileError),
    *(zlib.error, lzma.LZMAError, Image.DecompressionBombError),
)

# What they find wrong with a file is in our one line.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class UnknownFormatError(ValueError):
    """Content that is no image, or of a format that is not read."""


class TooLargeError(ValueError):
    """An image of more pixels than are read."""


def open_source(source: Source) -> BinaryIO:
    """Open a file, or its content, for reading; each call has a position of its own.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


@contextmanager
def open_image(source: Source) -> Iterator[Image.Image]:
    """Open an image without decoding its pixels.

    Args:
        source: a file, or its content.

    Yields:
        PIL's image, whose pixels are read on first use.

    Raises:
        FileNotFoundError: there is no such file.
        UnknownFormatError: it is no image, or of a format that is not read.
        TooLargeError: it has more than 100 megapixels.
        ValueError: it is no ordinary file (a pipe would block), or its pixels are floating, signed, or of 32 bits.
    """
    if isinstance(source, Path):
        check_regular(source)
    # Opened here: PIL maps files that it opens itself into memory, and then turns TIFFs the wrong way.
    with open_source(source) as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked below
                header = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise TooLargeError("it has more than 100 megapixels; make it smaller") from error
        except UnidentifiedImageError as error:
            raise _why_unknown(source) from error
        with header:
            width, height = header.size
            if width * height > MAX_PIXELS:
                raise TooLargeError(
                    f"it has {width} x {height} pixels, and more than 100 megapixels are not read; make it smaller"
                )
            if header.mode == "F":
                raise ValueError(FLOATING_POINT)
            if isinstance(header, TiffImageFile) and (header.mode == "I" or header.tag_v2.get(SAMPLE_FORMAT) == (2,)):
                raise ValueError(INTEGERS)
            yield header


def check_regular(path: Path) -> None:
    """Refuse what is not an ordinary file: reading a pipe would wait for a writer, reading some devices for ever.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, pipe, socket or device.
    """
    if path.is_file():
        return
    if not path.exists():
        raise FileNotFoundError(f"No image {path}.")
    raise ValueError("a folder, not a file" if path.is_dir() else "a pipe, socket or device, not a file")


def orientation_of(exif: Image.Exif) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing or not one of them."""
    found = exif.get(EXIF_ORIENTATION, 1)
    return int(found) if found in range(1, 9) else 1  # PIL turns by a 6.0, too


def _why_unknown(source: Source) -> ValueError:
    """Why PIL does not take this for an image."""
    with open_source(source) as file:
        start = file.read(4)
        if not start:
            return UnknownFormatError("the file is empty")
        if start not in TIFF_STARTS:
            return UnknownFormatError(NOT_AN_IMAGE)
        file.seek(0)
        try:
            with tifffile.TiffFile(file) as tiff:
                kind = tiff.pages[0].dtype
        except UNREADABLE:
            return UnknownFormatError(NOT_AN_IMAGE)
    if kind is not None and kind.kind == "f":
        return ValueError(FLOATING_POINT)
    return ValueError("a TIFF of a kind that is not read; save as 8 or 16 bits per channel")
