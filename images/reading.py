"""Read images of any bit depth and colour mode, upright by their EXIF tag, as sRGB by their ICC profile."""

import re
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from images.colour import GREY_MODES, deep_to_srgb, to_srgb
from images.opening import FLOATING_POINT, UNREADABLE, Source, open_image, open_source, orientation_of
from images.ranges import Array, Pixels, from_pixels, strips
from images.resizing import check_resized, resize, resized_shape

BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
PLANAR_CONFIGURATION = 284
PPM_HEADER = re.compile(rb"P[2356](?:(?:\s|#[^\r\n]*[\r\n])+(\d+)){3}\s")  # width, height, and the value of white
REDUCED_ABOVE = 32_000_000  # pixels; a larger JPEG whose size is known is not decoded in full

Shape = tuple[int, int]  # height, width


def _read_16_bit(source: Source, header: Image.Image) -> NDArray[np.uint16] | None:
    # PIL reduces 16-bit colour to 8 bits, cv2 does not; but cv2 supports fewer palettes and colour models.
    if header.format not in ("PNG", "TIFF", "PPM") or header.mode in ("1", "P", "CMYK") or _is_8_bit(source, header):
        return None
    orientation = orientation_of(header.getexif())
    if isinstance(header, TiffImageFile) and header.tag_v2.get(PLANAR_CONFIGURATION) == 2:
        # Planes are stored one after the other, which cv2 does not read correctly.
        with open_source(source) as file:
            planes = tifffile.imread(file, key=0)  # the first image: all of a file can be gigabytes
        return _oriented(planes.transpose(1, 2, 0), orientation) if planes.dtype == np.uint16 else None
    content = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if header.format == "PPM":  # cv2 leaves 1023, of 10 bits, as it is
        levels = np.arange(65536) * (65535 / _ppm_white(source))
        pixels = levels.clip(0, 65535).round().astype(np.uint16)[pixels]
    elif isinstance(header, TiffImageFile) and header.tag_v2.get(PHOTOMETRIC) == 0:  # white is 0
        pixels = 65535 - pixels
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # BGR(A) => RGB(A)
    # cv2 has turned a TIFF upright by itself.
    return _oriented(pixels.astype(np.uint16), 1 if header.format == "TIFF" else orientation)


def _is_8_bit(source: Source, header: Image.Image) -> bool:
    """Whether the header says 8 bits or fewer, so that there is nothing to decode twice."""
    if isinstance(header, TiffImageFile):
        bits = header.tag_v2.get(BITS_PER_SAMPLE, (1,))
        return isinstance(bits, tuple) and all(b <= 8 for b in bits)
    if header.format == "PPM":
        return _ppm_white(source) <= 255
    with open_source(source) as file:
        return file.read(25)[24:] != b"\x10"  # the bit depth, in IHDR


def _ppm_white(source: Source) -> int:
    """The value of white in a PGM or PPM file; 0 for one of another kind."""
    with open_source(source) as file:
        found = PPM_HEADER.match(file.read(4096))
    return int(found[1]) if found else 0


def _oriented(pixels: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    # EXIF 2.32, 4.6.4: 2 to 4 are flips of the axes, 5 to 8 the same after a transposition.
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips.get(orientation, ()))


def _decode(source: Source, size: int | None) -> tuple[Pixels, Shape]:
    """The pixels, ``(H, W, 3)`` or, with transparency, ``(H, W, 4)``, and height and width of the whole image.

    A large JPEG that is made small is decoded at a half, a quarter or an eighth, but at least at twice its new size.
    """
    with open_image(source) as header:
        width, height = header.size
        whole = (width, height) if orientation_of(header.getexif()) >= 5 else (height, width)
        if size is not None and header.format == "JPEG" and width * height > REDUCED_ABOVE:
            new_height, new_width = resized_shape(height, width, size)
            header.draft(None, (2 * new_width, 2 * new_height))
        deep = _read_16_bit(source, header)
        if deep is not None:
            return deep_to_srgb(deep, header.info.get("icc_profile")), _shape(deep)
        pixels = pixels_of(header)
        return pixels, whole if header.format == "JPEG" else _shape(pixels)


def pixels_of(image: Image.Image) -> Pixels:
    """Pixels of a PIL image of any colour mode, turned upright by its EXIF tag, as sRGB by its ICC profile.

    Returns:
        ``(H, W, 3)`` or, with transparency, ``(H, W, 4)``, 8 or 16 bits.

    Raises:
        ValueError: they are floating point.
    """
    if image.mode == "F":
        raise ValueError(FLOATING_POINT)
    profile = image.info.get("icc_profile")
    if orientation_of(image.getexif()) != 1:  # else it would be copied
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return deep_to_srgb(grey[..., None].repeat(3, axis=2), profile)
    image = to_srgb(image, profile)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _shape(pixels: Pixels) -> Shape:
    height, width = pixels.shape[:2]
    return height, width


def read_image_with_alpha(source: str | Source, size: int | None = None) -> tuple[Array, Array | None]:
    """Read an image, composited over white as networks take it, and its transparency.

    Args:
        source: any of `IMAGE_SUFFIXES`, or the content of such a file: grey, palette, alpha, CMYK, 16 bits per channel;
            turned upright by its EXIF tag.  Colours of another ICC profile than sRGB are converted, those of 16 bits
            per channel at 8.
        size: short side after resizing, pixels; None keeps the file's own size.  JPEGs above 32 megapixels are then
            decoded at a reduced size; other formats are always decoded in full.

    Returns:
        The image, ``(3, H, W)`` float32 in [-1, 1]; and alpha, ``(1, H, W)`` in [0, 1], or None for a file without
        transparency.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded, has more than 100 megapixels or no known range of values, or would be too
            large once resized.
    """
    source = Path(source) if isinstance(source, str) else source
    name = "the content" if isinstance(source, bytes) else source
    try:
        pixels, whole = _decode(source, size)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"Cannot read {name} as an image: {error}") from error
    return composite(pixels, None if size is None else check_resized(name, *whole, size))


def composite(pixels: Pixels, shape: Shape | None = None) -> tuple[Array, Array | None]:
    """Pixels over white as networks take them, and their transparency.

    Args:
        pixels: ``(H, W, 3)`` or, with transparency, ``(H, W, 4)``, 8 or 16 bits.
        shape: height and width after resizing; None keeps them.

    Returns:
        See `read_image_with_alpha`.
    """
    if pixels.shape[2] == 3:
        image = from_pixels(pixels)
        return image if shape is None else resize(image, shape), None
    height, width = _shape(pixels)
    image, alpha = np.empty((3, height, width), np.float32), np.empty((1, height, width), np.float32)
    for rows in strips(height, width):
        strip = from_pixels(pixels[rows])
        opacity = (strip[3:] + 1) / np.float32(2)
        image[:, rows], alpha[:, rows] = strip[:3] * opacity + (1 - opacity), opacity
    if shape is None:
        return image, alpha
    return resize(image, shape), (resize(alpha * 2 - 1, shape) + 1) / np.float32(2)


def is_grey(path: Path) -> bool:
    """Whether the colour model of an image file is grey.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see `open_image`.
    """
    with open_image(path) as header:
        return header.mode in GREY_MODES or header.mode.startswith("I")


def read_image(path: str | Path, size: int | None = None) -> Array:
    """Read an image, its transparency composited over white; see `read_image_with_alpha`.

    Returns:
        ``(3, H, W)`` float32 in [-1, 1].
    """
    return read_image_with_alpha(path, size)[0]
