"""Layout of a street: houses along both sides, cars, trees, people and lamps, drawn far to near."""

from dataclasses import dataclass

import numpy as np

from datamodules.scenes.canvas import Camera, Canvas, Objects, Piece
from datamodules.scenes.figures import people, trees
from datamodules.scenes.houses import houses
from datamodules.scenes.traffic import cars, lamps


@dataclass
class Street:
    """A drawn street.

    Attributes:
        canvas: its surfaces.
        clouds: share of the sky that they cover.
        objects: visible objects with their visual weight, as captions name them.
    """

    canvas: Canvas
    clouds: float
    objects: Objects


def draw_street(layout: np.random.Generator, texture: np.random.Generator, size: int, place: float = 0.0) -> Street:
    """Draw one street.

    Args:
        layout: random generator of positions and kinds of objects.
        texture: random generator of surface detail.
        size: pixels of the finished image's side.
        place: Z of the camera, metres.
    """
    camera = Camera(
        focal=layout.uniform(0.75, 1.0),
        centre=layout.uniform(0.36, 0.64),
        horizon=layout.uniform(0.42, 0.54),
        height=layout.uniform(1.4, 2.4),
        place=place,
    )
    canvas = Canvas(camera, size, texture)
    half = layout.uniform(3.2, 5.2)
    walk = layout.uniform(1.4, 3.0)
    middle = layout.uniform(-0.62, -0.38) * half  # the camera drives on the right
    verge = [(0.36, 0.48, 0.22), (0.44, 0.50, 0.26), (0.55, 0.52, 0.46)][layout.integers(3)]
    crossing = layout.uniform(7, 22) if layout.random() < 0.35 else 0.0
    params = (middle, half, walk, layout.uniform(2, 3.5), crossing, float(layout.random() < 0.3))
    canvas.ground(verge, params)
    street = Street(canvas, layout.uniform(0, 1), [])
    _skyline(canvas, layout)
    # Every object that may occlude others, with its distance.
    pieces: list[Piece] = []
    for sign in (-1, 1):
        edge = middle + sign * (half + walk + layout.uniform(0.2, 3.5))
        pieces += houses(canvas, street.objects, layout, sign, edge)
        pieces += trees(canvas, street.objects, layout, middle + sign * (half + 0.7), edge)
        pieces += people(canvas, street.objects, layout, middle + sign * (half + 0.5 * walk), 0.35 * walk)
    pieces += lamps(canvas, layout, middle, half)
    pieces += cars(canvas, street.objects, layout, middle, half)
    for _, draw in sorted(pieces, key=lambda piece: -piece[0]):
        draw()
    return street


def _skyline(canvas: Canvas, layout: np.random.Generator) -> None:
    horizon = canvas.camera.horizon
    hills = canvas.surface((0.36, 0.46, 0.40), depth=220, sun=0.6)
    bumps = np.interp(np.linspace(0, 1, 25), np.linspace(0, 1, 7), layout.uniform(0.0, 0.06, 7))
    outline = [(k / 24, horizon - float(b)) for k, b in enumerate(bumps)]
    canvas.fill([*outline, (1, horizon + 0.004), (0, horizon + 0.004)], hills)
