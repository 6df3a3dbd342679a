"""Preprocessing of an image file for the generator: transparency, resizing, line drawing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from images.line_drawings import LINE_DRAWINGS
from images.reading import read_image_with_alpha


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of an image file to an input.

    Attributes:
        size: short side after resizing, pixels; None keeps the file's own.
        draw_lines: computes a line drawing from a photograph; None leaves the image as it is.
    """

    size: int | None = None
    draw_lines: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def named(cls, size: int | None, name: str) -> "Preprocessing":
        """Preprocessing by the name of a line drawing in `LINE_DRAWINGS`, or "none"."""
        return cls(size, LINE_DRAWINGS[name] if name != "none" else None)

    def read(self, path: Path) -> tuple[Tensor, Tensor | None]:
        """Read one image file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be decoded.

        Returns:
            The image, ``(3, H, W)`` in [-1, 1], and its transparency, ``(1, H, W)`` in [0, 1], or None without any.
        """
        image, alpha = read_image_with_alpha(path, self.size)  # the result gets the transparency back
        return (image if self.draw_lines is None else self.draw_lines(image)), alpha
