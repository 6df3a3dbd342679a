"""Read image files of any bit depth and colour mode, turned upright by their EXIF tag."""

from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from images.ranges import from_pixels

EXIF_ORIENTATION = 0x0112
PLANAR_CONFIGURATION = 284
# What cv2's and PIL's decoders raise for files that they cannot read.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, cv2.error)


def _read_16_bit(path: Path, header: Image.Image) -> NDArray[np.uint16] | None:
    # PIL reduces 16-bit colour to 8 bits, cv2 does not; but cv2 supports fewer palettes and colour models.
    if header.format not in ("PNG", "TIFF", "PPM") or header.mode in ("1", "P", "CMYK"):
        return None
    orientation = header.getexif().get(EXIF_ORIENTATION, 1)
    if isinstance(header, TiffImageFile) and header.tag_v2.get(PLANAR_CONFIGURATION) == 2:
        # Planes are stored one after the other, which cv2 does not read correctly.
        planes = tifffile.imread(path)
        return _oriented(planes.transpose(1, 2, 0), orientation) if planes.dtype == np.uint16 else None
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # BGR(A) => RGB(A)
    # cv2 has turned a TIFF upright by itself.
    return _oriented(pixels.astype(np.uint16), 1 if header.format == "TIFF" else orientation)


def _oriented(pixels: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    # EXIF 2.32, 4.6.4: 2 to 4 are flips of the axes, 5 to 8 the same after a transposition.
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips.get(orientation, ()))


def _decode(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    # (H, W, 3) or, with transparency, (H, W, 4).
    # Opened here: PIL maps files that it opens itself into memory, and then turns TIFFs the wrong way.
    with path.open("rb") as file, Image.open(file) as header:
        if header.mode == "F":
            raise ValueError("floating-point pixels have no known range; save as 8 or 16 bits")
        deep = _read_16_bit(path, header)
        if deep is not None:
            return deep
        upright = ImageOps.exif_transpose(header)
        if upright.mode.startswith("I"):  # 16-bit grey in a container that cv2 does not read
            grey = np.asarray(upright).clip(0, 65535).astype(np.uint16)
            return grey[..., None].repeat(3, axis=2)
        return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))


def read_image_with_alpha(path: str | Path) -> tuple[Tensor, Tensor | None]:
    """Read an image and its transparency separately.

    Args:
        path: any of `IMAGE_SUFFIXES`: grey, palette, alpha, CMYK, 16 bits per channel; turned upright by its EXIF tag.

    Returns:
        The colours, ``(3, H, W)`` float32 in [-1, 1], not multiplied with alpha; and alpha, ``(1, H, W)`` in [0, 1], or
        None for a file without transparency.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No image {path}.")
    try:
        pixels = _decode(path)
    except UNREADABLE as error:
        raise ValueError(f"Cannot read {path} as an image: {error}") from error
    colours = from_pixels(pixels[..., :3])
    if pixels.shape[2] == 3:
        return colours, None
    return colours, (from_pixels(pixels[..., 3:]) + 1) / 2


def read_image(path: str | Path) -> Tensor:
    """Read an image with its transparency composited over white, as networks take it.

    Returns:
        ``(3, H, W)`` float32 in [-1, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded.
    """
    colours, alpha = read_image_with_alpha(path)
    return colours if alpha is None else colours * alpha + (1 - alpha)
