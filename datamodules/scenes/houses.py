"""Houses along one side of a street: walls with windows, flat or pitched roofs."""

from collections.abc import Callable

import numpy as np

from datamodules.scenes.canvas import FACADE, Canvas, Colour, Objects, Piece, Point3, scaled

WALL_COLOURS: dict[str, Colour] = {
    "brick": (0.58, 0.29, 0.22),
    "cream": (0.84, 0.76, 0.60),
    "grey": (0.58, 0.58, 0.60),
    "yellow": (0.86, 0.68, 0.34),
    "pink": (0.82, 0.56, 0.52),
    "blue": (0.48, 0.60, 0.72),
    "white": (0.88, 0.87, 0.84),
}
ROOF_COLOURS: tuple[Colour, ...] = ((0.52, 0.24, 0.18), (0.30, 0.30, 0.33), (0.40, 0.30, 0.24))
NEAR = 1.3  # metres: nothing is drawn nearer


def houses(canvas: Canvas, objects: Objects, layout: np.random.Generator, sign: int, edge: float) -> list[Piece]:
    """Plan houses from behind the camera to 110 m.

    Args:
        canvas: to draw on.
        objects: list to which objects that captions can name are added.
        layout: random generator of positions and kinds of objects.
        sign: side of the street, -1 left or 1 right.
        edge: X of the building line, metres.
    """
    pieces: list[Piece] = []
    z = layout.uniform(-6, 3)
    while z < 110:
        length = layout.uniform(8, 18)
        if layout.random() < 0.82:
            name = list(WALL_COLOURS)[layout.integers(len(WALL_COLOURS))]
            storeys = int(layout.integers(2, 4) if layout.random() < 0.55 else layout.integers(3, 8))
            pitched = storeys <= 3 and layout.random() < 0.75
            near, far = max(z, NEAR), z + length
            if far > near + 1:
                if 6 < near < 40:
                    word = f"{name} house" if storeys <= 3 else f"{name} building"
                    objects.append((40 / near + 0.5 * storeys, f"a {word}"))
                shift = layout.uniform(0, 1.2)
                seed = int(layout.integers(1, 1 << 20))
                numbers = (layout.uniform(2.4, 3.6), layout.uniform(2.9, 3.5), layout.uniform(0.38, 0.62))
                roof = ROOF_COLOURS[layout.integers(3)]
                tint = layout.uniform(0.9, 1.08)
                pieces.append(
                    (
                        near + 0.3 * length,
                        _house(
                            canvas,
                            sign,
                            edge + sign * shift,
                            (z, near, far),
                            name,
                            storeys,
                            pitched,
                            numbers,
                            roof,
                            tint,
                            seed,
                        ),
                    )
                )
        z += length + (layout.uniform(0, 1.5) if layout.random() < 0.7 else layout.uniform(3, 9))
    return pieces


def _house(
    canvas: Canvas,
    sign: int,
    edge: float,
    reach: tuple[float, float, float],
    name: str,
    storeys: int,
    pitched: bool,
    numbers: tuple[float, float, float],
    roof: Colour,
    tint: float,
    seed: int,
) -> Callable[[], None]:
    start, near, far = reach
    bay, storey, share = numbers
    height, depth = storeys * storey + 0.5, 9.0
    wall = scaled(WALL_COLOURS[name], tint)
    brick = float(name == "brick")
    back = edge + sign * depth
    rise = 0.55 * depth / 2 if pitched else 0.0

    def draw() -> None:
        ridge = edge + sign * depth / 2
        if pitched:
            slope = rise / (depth / 2)
            length = (1 + slope * slope) ** 0.5
            normal: Point3 = (-sign * slope / length, 1 / length, 0)
            offset = normal[0] * edge + normal[1] * height
            tiles = canvas.surface(roof, plane=(normal, offset))
            eaves = edge - sign * 0.4
            low = height - 0.4 * slope
            corners = [(eaves, low, near), (ridge, height + rise, near), (ridge, height + rise, far), (eaves, low, far)]
            canvas.face(corners, tiles)
        # The end wall that faces the camera, and the front along the street.
        end = canvas.surface(
            wall,
            FACADE,
            plane=((0, 0, -1), -near),
            params=(0, min(edge, back), bay, storey, share * 0.8, brick, seed + 11, storeys),
        )
        gable = [(ridge, height + rise, near)] if pitched else []
        canvas.face([(edge, 0, near), (edge, height, near), *gable, (back, height, near), (back, 0, near)], end)
        front = canvas.surface(
            wall,
            FACADE,
            plane=((-sign, 0, 0), -sign * edge),
            params=(1, start, bay, storey, share, brick, seed, storeys),
        )
        canvas.face([(edge, 0, near), (edge, height, near), (edge, height, far), (edge, 0, far)], front)
        if not pitched:
            cornice = canvas.surface((0.80, 0.79, 0.76), plane=((-sign, 0, 0), -sign * (edge - sign * 0.25)))
            out = edge - sign * 0.25
            canvas.face(
                [(out, height - 0.35, near), (out, height, near), (out, height, far), (out, height - 0.35, far)],
                cornice,
            )

    return draw
