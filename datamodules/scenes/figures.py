"""Trees and people beside a street."""

from collections.abc import Callable

import numpy as np

from datamodules.scenes.canvas import LEAVES, Canvas, Colour, Objects, Piece, disc

SHIRTS: tuple[Colour, ...] = (
    (0.75, 0.15, 0.15),
    (0.15, 0.30, 0.65),
    (0.85, 0.75, 0.25),
    (0.80, 0.80, 0.80),
    (0.2, 0.45, 0.3),
)


def trees(canvas: Canvas, objects: Objects, layout: np.random.Generator, kerb: float, edge: float) -> list[Piece]:
    """Plan a row of trees, or none.

    Args:
        canvas: to draw on.
        objects: list to which objects that captions can name are added.
        layout: random generator of positions and kinds of objects.
        kerb: X where the road ends, metres.
        edge: X of the building line.
    """
    pieces: list[Piece] = []
    if layout.random() < 0.25:
        return pieces
    z = layout.uniform(5, 14)
    pace = layout.uniform(7, 16)
    conifers = layout.random() < 0.2
    for _ in range(int(layout.integers(1, 7))):
        x = layout.uniform(min(kerb, edge), max(kerb, edge))
        height = layout.uniform(4, 7.5)
        shape = layout.uniform(0, 1, 12)
        pieces.append((z, _tree(canvas, x, z, height, conifers, shape)))
        objects.append((26 / z, "trees"))
        z += pace * layout.uniform(0.7, 1.4)
        if z > 70:
            break
    return pieces


def _tree(canvas: Canvas, x: float, z: float, height: float, conifer: bool, shape: np.ndarray) -> Callable[[], None]:
    def draw() -> None:
        scale = canvas.camera.scale(z)
        canvas.shadow(x + 0.8, z, height * 0.28, height * 0.24)
        trunk = canvas.surface((0.33, 0.24, 0.17), depth=z, sun=0.4)
        foot, neck = 0.16 + 0.01 * height, 0.45 * height
        canvas.face([(x - foot, 0, z), (x - 0.6 * foot, neck, z), (x + 0.6 * foot, neck, z), (x + foot, 0, z)], trunk)
        green: Colour = (0.20 + 0.16 * shape[0], 0.40 + 0.14 * shape[1], 0.13 + 0.06 * shape[2])
        if conifer:
            green = (0.12, 0.30 + 0.08 * shape[0], 0.17)
        u, v = canvas.camera.project((x, 0.68 * height, z))
        radius = 0.36 * height * scale
        local = (1 / radius, 0, -u / radius, 0, 1 / radius, -v / radius)
        leaves = canvas.surface(green, LEAVES, depth=z, local=local)
        if conifer:
            for k in range(4):
                low, high, half = (0.16 + 0.2 * k) * height, (0.46 + 0.2 * k) * height, (0.27 - 0.05 * k) * height
                canvas.face([(x - half, low, z), (x, min(high, height), z), (x + half, low, z)], leaves)
            return
        for k in range(6):
            angle = 2 * np.pi * (k / 6 + 0.1 * shape[k])
            around = 0.19 * height * (0.8 + 0.4 * shape[k])
            spot = (x + float(np.cos(angle)) * around, 0.68 * height + float(np.sin(angle)) * around * 0.85, z)
            blob = (0.17 + 0.05 * shape[k + 6]) * height * scale
            canvas.fill(disc(canvas.camera.project(spot), blob, blob, 14), leaves)
        canvas.fill(disc((u, v), 0.2 * height * scale, 0.2 * height * scale, 14), leaves)

    return draw


def people(canvas: Canvas, objects: Objects, layout: np.random.Generator, x: float, spread: float) -> list[Piece]:
    """Plan up to three people.

    Args:
        canvas: to draw on.
        objects: list to which objects that captions can name are added.
        layout: random generator of positions and kinds of objects.
        x: of the pavement's middle, metres.
        spread: how far from it they may walk.
    """
    pieces: list[Piece] = []
    for _ in range(int(layout.integers(0, 4))):
        z = layout.uniform(5, 22)
        where = x + layout.uniform(-spread, spread)
        numbers = layout.uniform(0, 1, 4)
        shirt = SHIRTS[layout.integers(len(SHIRTS))]
        pieces.append((z, _person(canvas, where, z, shirt, numbers)))
        objects.append((14 / z, "people"))
    return pieces


def _person(canvas: Canvas, x: float, z: float, shirt: Colour, numbers: np.ndarray) -> Callable[[], None]:
    def draw() -> None:
        tall = 1.55 + 0.3 * numbers[0]
        step = 0.10 + 0.16 * numbers[1]
        trousers = canvas.surface(
            (0.14 + 0.2 * numbers[2], 0.14 + 0.15 * numbers[2], 0.2 + 0.1 * numbers[3]), depth=z, sun=0.5
        )
        skin_tone = 0.45 + 0.4 * numbers[3]
        skin = canvas.surface((skin_tone, 0.74 * skin_tone, 0.58 * skin_tone), depth=z, sun=0.6)
        hair = canvas.surface((0.16, 0.11, 0.08), depth=z, sun=0.4)
        cloth = canvas.surface(shirt, depth=z, sun=0.55)
        canvas.shadow(x + 0.25, z, 0.45, 0.3)
        hip, shoulder = 0.48 * tall, 0.82 * tall
        for side in (-1, 1):
            foot = x + side * step
            canvas.face([(x + side * 0.15, hip, z), (x, hip, z), (foot - 0.07, 0, z), (foot + 0.09, 0, z)], trousers)
            hand = x + side * (0.26 + 0.12 * numbers[1])
            canvas.face(
                [
                    (x + side * 0.14, shoulder, z),
                    (x + side * 0.24, shoulder - 0.05, z),
                    (hand + side * 0.05, hip, z),
                    (hand - side * 0.05, hip, z),
                ],
                cloth,
            )
        canvas.face(
            [(x - 0.17, hip - 0.04, z), (x - 0.21, shoulder, z), (x + 0.21, shoulder, z), (x + 0.17, hip - 0.04, z)],
            cloth,
        )
        scale = canvas.camera.scale(z)
        u, v = canvas.camera.project((x, 0.915 * tall, z))
        canvas.fill(disc((u, v - 0.03 * scale), 0.125 * scale, 0.14 * scale, 12), hair)
        canvas.fill(disc((u, v + 0.01 * scale), 0.10 * scale, 0.12 * scale, 12), skin)

    return draw
