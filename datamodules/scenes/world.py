"""The twin world: a renderer of scenes in two domains, so that every image has a ground-truth counterpart.

A scene's layout, textures and materials are functions of (world, seed, index) alone; the size only sets how finely it
is drawn.  What a domain adds (which windows are lit, where stripes fall, how dense the fog looks) follows from what
the other domain shows: blinds, the body's shape, distance.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.scenes.meadow import Meadow, draw_meadow
from datamodules.scenes.shading import Surfaces, cloud_cover, daylight, develop, fog, night, resolve
from datamodules.scenes.street import Street, draw_street
from images.ranges import from_pixels

PROMPTS: dict[tuple[str, str], str] = {
    ("day_night", "a"): "driving in the day",
    ("day_night", "b"): "driving in the night",
    ("clear_foggy", "a"): "driving on a clear day",
    ("clear_foggy", "b"): "driving in dense fog",
    ("horse_zebra", "a"): "picture of a horse",
    ("horse_zebra", "b"): "picture of a zebra",
}
"""The fixed prompt of each world and domain."""

TASKS = tuple(dict.fromkeys(task for task, _ in PROMPTS))
"""Names of the worlds."""

RENDERER_VERSION = 1
"""Identifies rendered data in metrics, caches and records; raised whenever a pixel changes (tests hold the pixels)."""


def check_world(task: str, domain: str) -> None:
    """Refuse an unknown world.

    Raises:
        ValueError: there is no such task or domain.
    """
    if (task, domain) not in PROMPTS:
        raise ValueError(f"No scenes {task!r} in domain {domain!r}: tasks are {', '.join(TASKS)}, domains a and b.")


def draws_of(task: str, seed: int, index: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Draws of a scene's layout, and of its textures."""
    layout, texture = (np.random.default_rng([seed, TASKS.index(task), index, k]) for k in range(2))
    return layout, texture


def draw_scene(task: str, seed: int, index: int, size: int, place: float = 0.0) -> Street | Meadow:
    """Layout and materials of a scene, the same in both domains; see `render`, and `Camera.place`."""
    layout, texture = draws_of(task, seed, index)
    return draw_meadow(layout, texture, size) if task == "horse_zebra" else draw_street(layout, texture, size, place)


def develop_scene(task: str, domain: str, scene: Street | Meadow, surfaces: Surfaces) -> NDArray[np.uint8]:
    """Light a drawn scene as one of its domains: 8-bit pixels, ``(size, size, 3)``."""
    # Fog hides the sky: its clear counterpart has no clouds, which could not be predicted from the foggy image.
    cloudless = task == "clear_foggy"
    clouds = np.zeros_like(surfaces.depth) if cloudless else cloud_cover(scene.canvas, scene.clouds)
    if (task, domain) == ("day_night", "b"):
        return develop(night(scene.canvas, surfaces, clouds))
    clear = daylight(scene.canvas, surfaces, clouds)
    return develop(fog(clear, surfaces) if (task, domain) == ("clear_foggy", "b") else clear)


def render_pixels(task: str, domain: str, seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """Draw one scene as 8-bit pixels, ``(size, size, 3)``; see `render`."""
    check_world(task, domain)
    scene = draw_scene(task, seed, index, size)
    surfaces = resolve(scene.canvas, striped=(task, domain) == ("horse_zebra", "b"))
    return develop_scene(task, domain, scene, surfaces)


def render(task: str, domain: str, seed: int, index: int, size: int) -> Tensor:
    """Draw one scene in one of its two domains.

    Args:
        task: one of `TASKS`.
        domain: "a" or "b"; both show the same scene of equal seed and index.
        seed: of the whole world.
        index: of the scene.
        size: pixels of the square's side.

    Returns:
        ``(3, size, size)`` in [-1, 1].

    Raises:
        ValueError: unknown task or domain.
    """
    return torch.from_numpy(from_pixels(render_pixels(task, domain, seed, index, size)))
