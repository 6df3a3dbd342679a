"""Captioned images of the twin world, rendered once into files: the training data of the pocket base."""

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from datamodules import scenes
from images.ranges import from_pixels, to_pixels
from storage import atomic_write, cores

WORLD_SEED = 12036  # of the scenes for pretraining; no experiment draws from this world
UNSEEN = 10_000_000  # index of the first scene that is held out for measuring the result
PART = 250  # images per file: what an interruption can cost


def worlds() -> list[tuple[str, str]]:
    """The (task, domain) pairs of the twin world, in a fixed order."""
    return list(scenes.PROMPTS)


class CaptionedScenes:
    """Images of all worlds with their captions, read from the files that `render_scenes` wrote.

    Args:
        parts: the files, each with the position of its world in `worlds()`.
        seed: seed of the choice between the domain's fixed prompt and the free caption.

    Attributes:
        world_of: position in `worlds()` of each image.
        captions: caption of each image: the fixed prompt or the free caption, with equal probability.
    """

    def __init__(self, parts: Sequence[tuple[int, Path]], seed: int) -> None:
        self.places: list[tuple[NDArray[np.uint8], int]] = []
        self.captions: list[str] = []
        self.world_of: list[int] = []
        for world, path in parts:
            images = np.load(path, mmap_mode="r")
            free = json.loads(path.with_suffix(".json").read_text())
            for k, text in enumerate(free):
                fixed = np.random.default_rng([seed, 1, len(self.captions)]).random() < 0.5
                self.captions.append(scenes.PROMPTS[worlds()[world]] if fixed else text)
                self.world_of.append(world)
                self.places.append((images, k))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> NDArray[np.uint8]:
        """One image, ``(H, W, 3)`` uint8."""
        images, k = self.places[index]
        return images[k]

    def image(self, index: int) -> Tensor:
        """One image, ``(3, H, W)`` in [-1, 1]."""
        return torch.from_numpy(from_pixels(np.array(self.read(index))))


@dataclass(frozen=True)
class Job:
    """One file to render.

    Attributes:
        path: the file.
        world: position in `worlds()`.
        seed: seed of the world.
        first: index of the first image.
        count: number of images.
        size: side of the square images in pixels.
    """

    path: Path
    world: int
    seed: int
    first: int
    count: int
    size: int


def render_scenes(
    folder: Path, count: int, size: int, first: int = 0, workers: int | None = None, seed: int = WORLD_SEED
) -> CaptionedScenes:
    """Render the images that are not in the cache yet, and open all of them.

    Domain A has the even scenes and B the odd ones, so that the counterpart of an image is never shown.

    Args:
        folder: folder of all caches; the sub-folder is named by seed, first, count, size and renderer version.
        count: images per world.
        size: side of the square images in pixels.
        first: index of the first image.
        workers: number of processes; None for one per core.
        seed: seed of the world.
    """
    folder = folder / f"{seed}-{first}-{count}-{size}px-renderer{scenes.RENDERER_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[int, Path]] = []
    jobs: list[Job] = []
    for world in range(len(worlds())):
        for begin in range(0, count, PART):
            path = folder / f"{'-'.join(worlds()[world])}-{begin:06d}.npy"
            parts.append((world, path))
            if not path.is_file():
                jobs.append(Job(path, world, seed, first + begin, min(PART, count - begin), size))
    workers = min(cores() if workers is None else workers, len(jobs))
    if jobs:
        with tqdm(total=sum(job.count for job in jobs), unit="image", desc="render") as progress:
            for done in _each(jobs, workers):
                progress.update(done)
    return CaptionedScenes(parts, seed)


def _each(jobs: list[Job], workers: int) -> Iterator[int]:
    if workers < 2:
        yield from map(_render_part, jobs)
        return
    # spawn: a fork would copy locks that other threads hold
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_render_part, jobs)


def _render_part(job: Job) -> int:
    """Render one file; returns the number of its images."""
    torch.set_num_threads(1)
    task, domain = worlds()[job.world]
    indices = [2 * k + (domain == "b") for k in range(job.first, job.first + job.count)]
    images = np.stack([to_pixels(scenes.render(task, domain, job.seed, index, job.size)) for index in indices])
    captions = [scenes.caption(task, domain, job.seed, index) for index in indices]
    job.path.with_suffix(".json").write_text(json.dumps(captions))
    # Last: this file marks the part as finished.
    with atomic_write(job.path) as part, part.open("wb") as file:
        np.save(file, images)
    return job.count
