"""Lists of images that are read on access: the protocol, and image files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from images.headers import ImageSizes
from images.listing import PathList, texts
from images.reading import read_image
from images.resizing import check_resized
from storage import digest, size_and_mtime


class Images(Protocol):
    """A list of images that are read on access: `FileImages`, `SceneImages`, or your own."""

    @property
    def folder(self) -> Path | None:
        """The folder that names are relative to; None for images that are not files."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File name or scene name, unique in the list."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, without reading the image."""
        ...

    def read(self, index: int) -> Tensor:
        """The image, ``(3, H, W)`` in [-1, 1]."""
        ...

    def stamp(self) -> str:
        """A short text that changes when the content of any image does."""
        ...


class FileImages:
    """Image files on disk.

    Args:
        files: in a fixed order.
        folder: the folder that names are relative to.
        sizes: of each file, as `images.headers.check_headers` returns them.
        short_side: to which `read` resizes, pixels, so that large JPEGs need not be decoded in full; None reads images
            at their own size.

    Attributes:
        lengths: ``(n,)``, bytes of each file when it was checked.

    Raises:
        ValueError: an image would have more than 16 megapixels once resized.
    """

    def __init__(
        self,
        files: Sequence[Path],
        folder: Path,
        sizes: ImageSizes,
        short_side: int | None = None,
    ) -> None:
        self.files = files if isinstance(files, PathList) else PathList(files)
        self.folder = folder
        shapes, self.lengths = sizes.of(self.files)
        self._sizes = shapes.astype(np.int32)
        self.short_side = short_side
        if short_side is not None:
            shapes, first = np.unique(self._sizes, axis=0, return_index=True)
            for k in np.argsort(first).tolist():
                height, width = shapes[k].tolist()
                check_resized(self.files[int(first[k])], height, width, short_side)

        self._repeats: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.files)

    def number_repeats(self) -> None:
        """From now on, the second place of a file is named ``name-2.png`` and so on, so that names are unique.

        Numbers by which it would get the name of another file are left out.
        """
        times, taken = Counter[str](), {*texts(self.files)}
        for index, text in enumerate(texts(self.files)):
            times[text] += 1
            if times[text] > 1:
                while _numbered(Path(text), times[text]).as_posix() in taken:
                    times[text] += 1
                self._repeats[index] = times[text]

    def name(self, index: int) -> str:
        """Path relative to the folder."""
        path = self.files[index].relative_to(self.folder)
        if index in self._repeats:
            path = _numbered(path, self._repeats[index])
        return path.as_posix()

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the file, pixels."""
        height, width = self._sizes[index].tolist()
        return height, width

    def read(self, index: int) -> Tensor:
        """The image, ``(3, H, W)`` in [-1, 1]."""
        return torch.from_numpy(read_image(self.files[index], self.short_side))

    def stamp(self) -> str:
        """Changes with any file's length or time of change."""
        return digest(repr([(str(path), *size_and_mtime(path)) for path in self.files]))


def _numbered(path: Path, number: int) -> Path:
    return path.with_stem(f"{path.stem}-{number}")
