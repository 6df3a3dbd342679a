"""Convert the colours of image files to sRGB by their embedded ICC profiles."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from images.ranges import Pixels, strips

SAME = 2  # levels of 255 up to which a profile counts as sRGB: its variants differ by rounding
LARGEST_PROFILE = 4 << 20  # bytes; printers' have one or two million, and a larger one would be kept in memory
GREY_MODES = ("1", "L", "LA", "La")
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # by colour space, as ICC.1:2022 table 19 names them


@dataclass(frozen=True)
class _Conversion:
    """A profile's way to sRGB.

    Attributes:
        mode: of PIL, of the images that it takes.
        transform: to 8-bit sRGB.
    """

    mode: str
    transform: ImageCms.ImageCmsTransform


@lru_cache(maxsize=16)  # the images of a folder mostly share one
def _conversion(profile: bytes) -> _Conversion | None:
    """None for sRGB itself, and for a profile that cannot be read: its images are then shown as sRGB everywhere."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode != "CMYK":
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
        colours = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
        converted = np.asarray(ImageCms.applyTransform(colours, transform)).astype(int)
        if np.abs(converted - np.asarray(colours.convert("RGB"))).max() <= SAME:
            return None
    return _Conversion(mode, transform)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert the colours of an image; transparency is kept.

    Args:
        image: 8 bits per channel, of any colour mode.
        profile: an ICC profile, or None without any.

    Returns:
        Mode RGB or RGBA; or the image itself, where the profile is sRGB, damaged, larger than 4 MiB or of another
        colour model than the image.
    """
    conversion = _conversion(profile) if profile and len(profile) <= LARGEST_PROFILE else None
    if conversion is None:
        return image
    fits = {"L": image.mode in GREY_MODES, "CMYK": image.mode == "CMYK", "RGB": image.mode != "CMYK"}
    if not fits[conversion.mode]:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    converted = ImageCms.applyTransform(image.convert(conversion.mode), conversion.transform)
    assert converted is not None  # it is, only in place
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def deep_to_srgb(pixels: NDArray[np.uint16], profile: bytes | None) -> Pixels:
    """Convert colours of 16 bits per channel; Pillow's colour management is limited to 8 bits, to which they are cut.

    Args:
        pixels: ``(H, W, 3)`` or, with transparency, ``(H, W, 4)``; of a grey image three equal channels.
        profile: an ICC profile, or None without any.

    Returns:
        The same shape, 8 bits; or the pixels themselves, where the profile is sRGB, damaged or larger than 4 MiB.
    """
    conversion = _conversion(profile) if profile and len(profile) <= LARGEST_PROFILE else None
    if conversion is None or conversion.mode == "CMYK":
        return pixels
    eight = np.empty(pixels.shape, np.uint8)
    for rows in strips(*pixels.shape[:2]):
        eight[rows] = (pixels[rows] / np.float32(257)).round()
    if conversion.mode == "L":
        eight = eight[..., 0] if pixels.shape[2] == 3 else eight[..., [0, 3]]
    return np.asarray(to_srgb(Image.fromarray(eight), profile))
