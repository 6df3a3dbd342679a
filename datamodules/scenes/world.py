"""The twin world: every scene can be seen in either of two domains, so every picture has its true counterpart.

A scene's layout, textures and materials are functions of (world, seed, index) alone; the size only sets how finely it
is drawn.  What a domain adds (which windows are lit, where stripes fall, how dense the fog looks) follows from what
the other domain shows: blinds, the body's shape, distance.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.scenes.houses import WALL_COLOURS
from datamodules.scenes.meadow import COATS, GRASS, Meadow, draw_meadow
from datamodules.scenes.shading import Surfaces, cloud_cover, daylight, develop, fog, night, resolve
from datamodules.scenes.street import Street, draw_street
from datamodules.scenes.traffic import CAR_COLOURS
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
"""Names rendered data in metrics, caches and records: raise it whenever a pixel changes (tests hold the pixels)."""

LIGHTS = {
    ("day_night", "a"): "by day",
    ("day_night", "b"): "at night",
    ("clear_foggy", "a"): "on a clear day",
    ("clear_foggy", "b"): "in dense fog",
}
FIELDS = {"green": "a green meadow", "dry": "dry grass", "sandy": "sand"}

WORDS = sorted(
    {word for text in (*PROMPTS.values(), *LIGHTS.values(), *FIELDS.values()) for word in text.split()}
    | {*CAR_COLOURS, *WALL_COLOURS, *COATS, *GRASS, "horses", "zebras", "two", "three", "grazing", "standing"}
    | {"street", "with", "and", "car", "house", "building", "trees", "people", "an", "empty", "zebra", "horse", ","}
)
"""Every word of the prompts and captions."""


def _check(task: str, domain: str) -> None:
    if (task, domain) not in PROMPTS:
        raise ValueError(f"No scenes {task!r} in domain {domain!r}: tasks are {', '.join(TASKS)}, domains a and b.")


def _draw(task: str, seed: int, index: int, size: int) -> Street | Meadow:
    layout, texture = (np.random.default_rng([seed, TASKS.index(task), index, k]) for k in range(2))
    return draw_meadow(layout, texture, size) if task == "horse_zebra" else draw_street(layout, texture, size)


def _develop(task: str, domain: str, scene: Street | Meadow, surfaces: Surfaces) -> NDArray[np.uint8]:
    # Fog hides the sky entirely, so the foggy world's clear days have no clouds that could be guessed at.
    cloudless = task == "clear_foggy"
    clouds = np.zeros_like(surfaces.depth) if cloudless else cloud_cover(scene.canvas, scene.clouds)
    if (task, domain) == ("day_night", "b"):
        return develop(night(scene.canvas, surfaces, clouds))
    clear = daylight(scene.canvas, surfaces, clouds)
    return develop(fog(clear, surfaces) if (task, domain) == ("clear_foggy", "b") else clear)


def render_pixels(task: str, domain: str, seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """As `render`, ``(size, size, 3)`` uint8."""
    _check(task, domain)
    scene = _draw(task, seed, index, size)
    surfaces = resolve(scene.canvas, striped=(task, domain) == ("horse_zebra", "b"))
    return _develop(task, domain, scene, surfaces)


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
    return from_pixels(render_pixels(task, domain, seed, index, size))


def caption(task: str, domain: str, seed: int, index: int) -> str:
    """What a scene shows, in words of `WORDS`; arguments and errors as in `render`."""
    _check(task, domain)
    scene = _draw(task, seed, index, 8)
    if isinstance(scene, Meadow):
        return _animals(scene, "zebra" if domain == "b" else "horse")
    seen = list(dict.fromkeys(name for _, name in sorted(scene.objects, key=lambda pair: -pair[0])))[:3]
    light = LIGHTS[task, domain]
    if not seen:
        return f"an empty street {light}"
    things = seen[0] if len(seen) == 1 else f"{', '.join(seen[:-1])} and {seen[-1]}"
    return f"a street {light} with {things}"


def _animals(meadow: Meadow, kind: str) -> str:
    number = len(meadow.coats)
    # A coat is named where it can be seen.
    who = f"a {meadow.coats[0]} horse" if kind == "horse" else "a zebra"
    if number > 1:
        who = f"{('two', 'three')[number - 2]} {kind}s"
    return f"{who} {'grazing' if meadow.grazing else 'standing'} in {FIELDS[meadow.grass]}"


class SceneImages:
    """Consecutive scenes of one domain, drawn when read.

    Args:
        task: one of `TASKS`.
        domain: "a" or "b".
        seed: of the whole world.
        first: index of the first scene.
        count: number of scenes.
        size: pixels of the square's side.
    """

    def __init__(self, task: str, domain: str, seed: int, first: int, count: int, size: int) -> None:
        self.task, self.domain, self.seed = task, domain, seed
        self.first, self.count, self.side = first, count, size

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Name of a scene; both domains of one scene share its number."""
        return f"{self.task}/{self.domain}/{self.first + index:06d}"

    def caption(self, index: int) -> str:
        """What the scene shows."""
        return caption(self.task, self.domain, self.seed, self.first + index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def read(self, index: int) -> Tensor:
        """The scene, ``(3, H, W)`` in [-1, 1]."""
        return render(self.task, self.domain, self.seed, self.first + index, self.side)
