"""Rendered scenes that several runs share: drawn by whoever needs one first, read by all others."""

from pathlib import Path

from torch import Tensor

from datamodules.scenes import RENDERER_VERSION, SceneImages
from images.reading import read_image
from images.writing import write_image


class KeptScenes(SceneImages):
    """`SceneImages` that also lie in a folder, as PNG: the same bytes.

    Args:
        cache: the folder, shared by any number of processes; None draws a scene each time it is read.
        task: see `SceneImages`, and so are the others.
        domain: see above.
        seed: see above.
        first: see above.
        count: see above.
        size: see above.
    """

    def __init__(self, cache: str | None, task: str, domain: str, seed: int, first: int, count: int, size: int) -> None:
        super().__init__(task, domain, seed, first, count, size)
        name = f"renderer{RENDERER_VERSION}-{task}-{domain}-{seed}-{size}"
        self.folder = None if cache is None else Path(cache) / name

    def read(self, index: int) -> Tensor:
        """The scene, ``(3, H, W)`` in [-1, 1]."""
        if self.folder is None:
            return super().read(index)
        path = self.folder / f"{self.first + index:06d}.png"
        if not path.is_file():
            write_image(path, super().read(index))
        return read_image(path)
