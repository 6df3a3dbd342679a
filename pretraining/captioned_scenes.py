"""Captioned pictures of the twin world, rendered once into files; what the pocket base is made from."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from datamodules import scenes
from images.ranges import from_pixels, to_pixels
from storage import atomic_write

WORLD_SEED = 12036  # of the scenes for pretraining; no experiment draws from this world
UNSEEN = 10_000_000  # index of the first scene that is kept for measuring the result
PART = 250  # pictures per file: what an interruption can cost


def worlds() -> list[tuple[str, str]]:
    """The (task, domain) pairs in their order."""
    return list(scenes.PROMPTS)


class CaptionedScenes:
    """Pictures of all worlds with their captions, read from the cache that `render_scenes` filled.

    Args:
        parts: the files, each of the same number of pictures but for the last of each world.
        seed: of the choice between the domain's fixed prompt and the free caption.

    Attributes:
        world_of: for each picture, its place in `worlds()`.
        captions: for each picture, the fixed prompt or the free caption, half of the time each.
    """

    def __init__(self, parts: Sequence[tuple[int, Path]], seed: int) -> None:
        self.places: list[tuple[NDArray[np.uint8], int]] = []
        self.captions: list[str] = []
        self.world_of: list[int] = []
        for world, path in parts:
            pictures = np.load(path, mmap_mode="r")
            free = json.loads(path.with_suffix(".json").read_text())
            for k, text in enumerate(free):
                fixed = np.random.default_rng([seed, 1, len(self.captions)]).random() < 0.5
                self.captions.append(scenes.PROMPTS[worlds()[world]] if fixed else text)
                self.world_of.append(world)
                self.places.append((pictures, k))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> NDArray[np.uint8]:
        """One picture, ``(H, W, 3)`` uint8."""
        pictures, k = self.places[index]
        return pictures[k]

    def image(self, index: int) -> Tensor:
        """One picture, ``(3, H, W)`` in [-1, 1]."""
        return from_pixels(np.array(self.read(index)))


def render_scenes(
    folder: Path, count: int, size: int, first: int = 0, workers: int | None = None, seed: int = WORLD_SEED
) -> CaptionedScenes:
    """Render what the cache does not hold yet, and open it.

    Domain A takes the even scenes and B the odd ones: no picture's counterpart is ever shown.

    Args:
        folder: of all caches; this one's sub-folder is named by seed, first, count, size and the renderer's version.
        count: pictures per world.
        size: pixels of the square's side.
        first: number of the first picture.
        workers: processes; None for one per core.
        seed: of the world.
    """
    folder = folder / f"{seed}-{first}-{count}-{size}px-renderer{scenes.RENDERER_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    parts, jobs = [], []
    for world in range(len(worlds())):
        for begin in range(0, count, PART):
            path = folder / f"{'-'.join(worlds()[world])}-{begin:06d}.npy"
            parts.append((world, path))
            if not path.is_file():
                jobs.append((path, world, seed, first + begin, min(PART, count - begin), size))
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(available if workers is None else workers, len(jobs))
    if jobs:
        with tqdm(total=sum(job[4] for job in jobs), unit="picture", desc="render") as progress:
            for done in _each(jobs, workers):
                progress.update(done)
    return CaptionedScenes(parts, seed)


def _each(jobs: list[Any], workers: int) -> Iterator[int]:
    if workers < 2:
        yield from map(_render_part, jobs)
        return
    # spawn: a fork would copy locks that other threads hold
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_render_part, jobs)


def _render_part(job: tuple[Path, int, int, int, int, int]) -> int:
    path, world, seed, first, count, size = job
    torch.set_num_threads(1)
    task, domain = worlds()[world]
    indices = [2 * k + (domain == "b") for k in range(first, first + count)]
    pictures = np.stack([to_pixels(scenes.render(task, domain, seed, index, size)) for index in indices])
    path.with_suffix(".json").write_text(json.dumps([scenes.caption(task, domain, seed, index) for index in indices]))
    # the picture file is the mark of a finished part, so it comes last
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, pictures)
    return count
