"""Scenes in any combination of attributes: streets by light, air and road, meadows by animal and ground.

All states of one seed and index show one scene.  Streets have no clouds, since fog hides them: a clear sky could not be
predicted from a foggy image.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.scenes.captions import FIELDS, LIGHTS
from datamodules.scenes.meadow import draw_meadow
from datamodules.scenes.shading import cloud_cover, daylight, develop, fog, night, night_fog, resolve, wet
from datamodules.scenes.street import draw_street
from datamodules.scenes.world import draws_of
from images.ranges import from_pixels

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "street": {"light": ("day", "night"), "air": ("clear", "foggy"), "road": ("dry", "wet")},
    "meadow": {"animal": ("horse", "zebra"), "ground": ("green", "dry", "sandy")},
}
"""Values of every attribute, by place."""

SAID = {
    "day": LIGHTS["day_night", "a"],
    "night": LIGHTS["day_night", "b"],
    "foggy": LIGHTS["clear_foggy", "b"],
}
"""How captions name what stands behind the street; "clear", "dry" and "wet" stand before it."""

State = tuple[str, ...]
"""A value of each attribute of a place, in the order of `ATTRIBUTES`."""


def states(place: str) -> list[State]:
    """Every state of a place.

    Raises:
        ValueError: there is no such place.
    """
    if place not in ATTRIBUTES:
        raise ValueError(f"No scenes of {place!r}: there are {' and '.join(ATTRIBUTES)}.")
    return list(itertools.product(*ATTRIBUTES[place].values()))


def render_state_pixels(place: str, state: State, seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """Draw one scene in one of its states as 8-bit pixels, ``(size, size, 3)``; see `render_state`."""
    if state not in states(place):
        known = "; ".join(f"{name} {' or '.join(values)}" for name, values in ATTRIBUTES[place].items())
        raise ValueError(f"A {place} is never {state!r}: it has {known}.")
    if place == "meadow":
        animal, ground = state
        meadow = draw_meadow(*draws_of("horse_zebra", seed, index), size, ground)
        surfaces = resolve(meadow.canvas, striped=animal == "zebra")
        return develop(daylight(meadow.canvas, surfaces, cloud_cover(meadow.canvas, meadow.clouds)))
    light, air, road = state
    canvas = draw_street(*draws_of("clear_foggy", seed, index), size).canvas
    surfaces = resolve(canvas)
    image = (night if light == "night" else daylight)(canvas, surfaces, np.zeros_like(surfaces.depth))
    if road == "wet":
        image = wet(image, canvas, surfaces)
    if air == "foggy":
        image = (night_fog if light == "night" else fog)(image, surfaces)
    return develop(image)


def render_state(place: str, state: State, seed: int, index: int, size: int) -> Tensor:
    """Draw one scene in one of its states.

    Args:
        place: "street" or "meadow".
        state: one of `states`.
        seed: of the whole world.
        index: of the scene; a dry street by day is that of the world "clear_foggy", a meadow that of "horse_zebra".
        size: pixels of the square's side.

    Returns:
        ``(3, size, size)`` in [-1, 1].

    Raises:
        ValueError: there is no such place or state.
    """
    return torch.from_numpy(from_pixels(render_state_pixels(place, state, seed, index, size)))


def describe(place: str, values: Mapping[str, str]) -> str:
    """Caption of a scene that names some of its attributes, such as "a wet street at night in dense fog".

    Args:
        place: "street" or "meadow".
        values: of the attributes to name, by attribute.

    Returns:
        Words of `WORDS`, and "wet".

    Raises:
        ValueError: an attribute or value is unknown.

    Examples:
        >>> describe("street", {"light": "night", "air": "foggy"})
        'a street at night in dense fog'
    """
    states(place)
    for name, value in values.items():
        if value not in ATTRIBUTES[place].get(name, ()):
            raise ValueError(f"A {place} is never {value!r} of {name!r}: see ATTRIBUTES.")
    if place == "meadow":
        animal = [f"a {values['animal']}"] if "animal" in values else []
        ground = [FIELDS[values["ground"]]] if "ground" in values else []
        return f"picture of {' in '.join(animal + ground) or 'a meadow'}"
    before = [word for word in (values.get("air"), values.get("road")) if word and word not in SAID]
    after = [SAID[value] for value in (values.get("light"), values.get("air")) if value in SAID]
    return " ".join(["a", *before, "street", *after])
