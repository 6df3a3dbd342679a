"""Rendered scenes as a list of images, optionally cached as PNG files that several runs share."""

from pathlib import Path

import torch
from torch import Tensor

from datamodules.scenes.captions import caption
from datamodules.scenes.world import RENDERER_VERSION, render
from images.reading import read_image
from images.writing import write_image


class SceneImages:
    """Consecutive scenes of one domain, rendered when read; satisfies `datamodules.samples.Images`.

    Args:
        task: one of `TASKS`.
        domain: "a" or "b".
        seed: of the whole world.
        first: index of the first scene.
        count: number of scenes.
        size: pixels of the square's side.
        cache: folder of PNG files with the same pixels, for any number of processes; the first that needs a scene
            writes it.  None renders a scene each time it is read.
    """

    folder = None

    def __init__(
        self, task: str, domain: str, seed: int, first: int, count: int, size: int, cache: str | Path | None = None
    ) -> None:
        self.task, self.domain, self.seed = task, domain, seed
        self.first, self.count, self.side = first, count, size
        name = f"renderer{RENDERER_VERSION}-{task}-{domain}-{seed}-{size}"
        self.cache = None if cache is None else Path(cache) / name

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Name of a scene; both domains of one scene share its number."""
        return f"{self.task}/{self.domain}/{self.first + index:06d}"

    def caption(self, index: int) -> str:
        """Caption of the scene."""
        return caption(self.task, self.domain, self.seed, self.first + index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def read(self, index: int) -> Tensor:
        """The scene, ``(3, H, W)`` in [-1, 1]."""
        if self.cache is None:
            return self._render(index)
        path = self.cache / f"{self.first + index:06d}.png"
        if not path.is_file():
            write_image(path, self._render(index))
        return torch.from_numpy(read_image(path))

    def _render(self, index: int) -> Tensor:
        return render(self.task, self.domain, self.seed, self.first + index, self.side)

    def stamp(self) -> str:
        """Changes with the renderer."""
        return f"renderer {RENDERER_VERSION}"
