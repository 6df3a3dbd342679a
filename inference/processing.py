"""Preprocessing of images, the same for every backend; numpy and Pillow only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from images.line_drawings import LINE_DRAWINGS
from images.opening import Source
from images.ranges import Array, Pixels
from images.reading import composite, pixels_of, read_image_with_alpha
from images.resizing import check_resized, resize
from storage import did_you_mean

LINES = ("none", *LINE_DRAWINGS)


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of an image of any kind to an input of the generator.

    Each method returns the image, ``(3, H, W)`` in [-1, 1], and its transparency, ``(1, H, W)`` in [0, 1], or None
    without any; the result gets the transparency back.

    Attributes:
        size: short side after resizing, pixels; None keeps the image's own.
        draw_lines: computes a line drawing from a photograph; None leaves the image as it is.
    """

    size: int | None = None
    draw_lines: Callable[[ArrayLike], Array] | None = None

    @classmethod
    def named(cls, size: int | None, name: str) -> "Preprocessing":
        """Preprocessing by the name of a line drawing in `LINE_DRAWINGS`, or "none".

        Raises:
            ValueError: there is no line drawing of this name.
        """
        if name not in LINES:
            raise ValueError(f"Unknown preprocess={name!r}.{did_you_mean(name, LINES)} Known: {', '.join(LINES)}.")
        return cls(size, LINE_DRAWINGS.get(name))

    def read(self, source: Source) -> tuple[Array, Array | None]:
        """Read an image file, or its content.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be decoded, or is too large.
        """
        return self._drawn(*read_image_with_alpha(source, self.size))

    def from_pil(self, image: Image.Image) -> tuple[Array, Array | None]:
        """Convert a PIL image of any colour mode, turned upright by its EXIF tag.

        Raises:
            ValueError: its pixels are floating point, or it is too large.
        """
        return self.from_pixels(pixels_of(image))

    def from_pixels(self, pixels: Pixels) -> tuple[Array, Array | None]:
        """Convert pixels, ``(H, W, 3)`` or ``(H, W, 4)``, 8 or 16 bits.

        Raises:
            ValueError: the image is too large.
        """
        height, width = pixels.shape[:2]
        shape = None if self.size is None else check_resized("the image", height, width, self.size)
        return self._drawn(*composite(pixels, shape))

    def from_floats(self, image: Array) -> tuple[Array, Array | None]:
        """Convert an image, ``(3, H, W)`` in [-1, 1], of any size."""
        height, width = image.shape[1:]
        if self.size is not None:
            image = resize(image, check_resized("the image", height, width, self.size))
        return self._drawn(image, None)

    def _drawn(self, image: Array, alpha: Array | None) -> tuple[Array, Array | None]:
        return (image if self.draw_lines is None else self.draw_lines(image)), alpha


def pad(images: Array, multiple: int) -> Array:
    """Pad height and width to multiples, at the right and at the bottom, by reflection.

    Args:
        images: ``(B, 3, H, W)``.
        multiple: of the sides, pixels.

    Examples:
        >>> pad(np.array([[[[0, 1, 2], [3, 4, 5]]]]), multiple=2)[0, 0]
        array([[0, 1, 2, 1],
               [3, 4, 5, 4]])
    """
    height, width = images.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return images
    # Reflection needs a side longer than the pad, as in `OneStepGenerator`.
    mode: Literal["reflect", "edge"] = "reflect" if below < height and right < width else "edge"
    return np.pad(images, ((0, 0), (0, 0), (0, below), (0, right)), mode)
