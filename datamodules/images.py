"""Reading, writing, resizing and cropping images; the only place where pixel ranges are converted.

Inside the code an image is float32, ``(3, H, W)``, in [-1, 1].  On disk it is whatever the file says.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Lower-case endings of the files that count as images."""

EXIF_ORIENTATION = 0x0112
PLANAR_CONFIGURATION = 284
# What cv2's and PIL's decoders raise for files that they cannot read.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, cv2.error)


def list_images(folder: str | Path) -> list[Path]:
    """List the images below a folder, sub-folders and links to folders included, in one order on every machine.

    Hidden files, and files in hidden folders, do not count.
    """
    folder = Path(folder)
    found: list[Path] = []
    for parent, below, files in os.walk(folder, followlinks=True):
        # A link back to a folder above would be followed for ever.
        above = {os.path.realpath(path) for path in (parent, *map(str, Path(parent).parents))}
        below[:] = [
            n for n in below if not n.startswith(".") and os.path.realpath(os.path.join(parent, n)) not in above
        ]
        found += [Path(parent, n) for n in files if not n.startswith(".")]
    pictures = (path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(pictures, key=lambda path: path.relative_to(folder).as_posix())


def from_pixels(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Tensor:
    """Pixels on disk => image in [-1, 1].

    Args:
        pixels: ``(H, W, 3)``, uint8 or uint16 (which keeps its 16 bits: 65535 is 1).

    Returns:
        ``(3, H, W)`` float32.
    """
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    return torch.from_numpy(np.ascontiguousarray((pixels.astype(np.float32) / half - 1).transpose(2, 0, 1)))


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Image in [-1, 1] => pixels on disk; the inverse of `from_pixels`, rounded to the nearest.

    Args:
        image: ``(3, H, W)``; may leave [-1, 1] by 1e-3 at most, which is clamped.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: if the image is outside that range or not finite, for example because it is in [0, 255].
    """
    values = image.detach().to("cpu", torch.float32)
    low, high = values.min().item(), values.max().item()
    if not (low >= -1 - 1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"An image to be written must lie in [-1, 1], this one spans [{low:g}, {high:g}].")
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _read_16_bit(path: Path, header: Image.Image) -> NDArray[np.uint16] | None:
    # PIL cuts 16-bit colour down to 8 bits, cv2 does not; cv2 in turn knows less of palettes and colour models.
    if header.format not in ("PNG", "TIFF", "PPM") or header.mode in ("1", "P", "CMYK"):
        return None
    orientation = header.getexif().get(EXIF_ORIENTATION, 1)
    if isinstance(header, TiffImageFile) and header.tag_v2.get(PLANAR_CONFIGURATION) == 2:
        # One plane after the other: cv2 mixes them up.
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
    # (H, W, 3) or, where the file knows transparency, (H, W, 4)
    # Opened here: files that PIL opens itself it maps into memory, and then turns TIFFs the wrong way.
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
    """Read an image and its transparency apart.

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
    """Read an image as the networks see it: transparency composited over white.

    Returns:
        ``(3, H, W)`` float32 in [-1, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded.
    """
    colours, alpha = read_image_with_alpha(path)
    return colours if alpha is None else colours * alpha + (1 - alpha)


def write_image(path: str | Path, image: Tensor, alpha: Tensor | None = None) -> None:
    """Write a PNG, whole or not at all.

    Args:
        path: where to; its folder is made, its suffix must be .png.
        image: ``(3, H, W)`` in [-1, 1].
        alpha: ``(1, H, W)`` in [0, 1], or None for an opaque file.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"Pictures are written as PNG: name {path.with_suffix('.png').name} instead of {path.name}.")
    pixels = to_pixels(image)
    if alpha is not None:
        opacity = to_pixels((alpha * 2 - 1).expand(3, -1, -1))[..., :1]
        pixels = np.concatenate([pixels, opacity], axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            Image.fromarray(pixels).save(file, format="PNG")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # mkstemp makes files that only their owner may read
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width, in pixels, of an image whose short side becomes ``size``."""
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def resize_short_side(image: Tensor, size: int) -> Tensor:
    """Resize so that the short side has ``size`` pixels; training, validation and translation all use this function.

    Args:
        image: ``(3, H, W)`` in [-1, 1].
        size: pixels; an image that has them already is returned as it is.

    Returns:
        ``(3, H', W')`` in [-1, 1], bicubic, with antialiasing where it shrinks.
    """
    shape = resized_shape(image.shape[-2], image.shape[-1], size)
    if shape == tuple(image.shape[-2:]):
        return image
    resized = torch.nn.functional.interpolate(image[None], shape, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(-1, 1)


class TrainTransform:
    """Resize, crop and flip; one draw for all images of one call, so that pairs stay pairs.

    Args:
        resize: short side after resizing, pixels.  Every image is resized, small ones up.
        crop: side of the square that is cut out, pixels, at most ``resize``.
        flip: mirror left and right half of the time.
        random_crop: cut anywhere; False cuts the centre.
    """

    def __init__(self, resize: int, crop: int, flip: bool, random_crop: bool = True) -> None:
        if not 0 < crop <= resize:
            raise ValueError(f"crop must be between 1 and resize, got crop {crop} and resize {resize}.")
        self.resize, self.crop, self.flip, self.random_crop = resize, crop, flip, random_crop

    def __call__(self, images: Sequence[Tensor], draw: np.random.Generator) -> list[Tensor]:
        """Transform images that belong together.

        Args:
            images: each ``(3, H, W)``, of equal shape once resized.
            draw: the source of every random number.

        Returns:
            Each ``(3, crop, crop)``.

        Raises:
            ValueError: if the images differ in shape once resized.
        """
        resized = [resize_short_side(image, self.resize) for image in images]
        shapes = {tuple(image.shape[-2:]) for image in resized}
        if len(shapes) > 1:
            raise ValueError(f"Images of a pair must have one shape; resized they have {sorted(shapes)}.")
        height, width = shapes.pop()
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        if self.random_crop:
            top, left = (int(draw.integers(side - self.crop + 1)) for side in (height, width))
        cropped = [image[:, top : top + self.crop, left : left + self.crop] for image in resized]
        if self.flip and draw.random() < 0.5:
            cropped = [image.flip(-1) for image in cropped]
        return [image.contiguous() for image in cropped]
