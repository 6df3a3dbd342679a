"""Cars and street lamps."""

from collections.abc import Callable

import numpy as np

from datamodules.scenes.canvas import ROUND, Canvas, Colour, Objects, Piece, disc

CAR_COLOURS: dict[str, Colour] = {
    "red": (0.72, 0.10, 0.10),
    "blue": (0.12, 0.24, 0.62),
    "white": (0.90, 0.90, 0.90),
    "black": (0.10, 0.10, 0.12),
    "yellow": (0.90, 0.72, 0.10),
    "green": (0.13, 0.42, 0.22),
    "silver": (0.62, 0.64, 0.67),
}
RUBBER: Colour = (0.07, 0.07, 0.08)
GLAZING: Colour = (0.20, 0.27, 0.34)


def lamps(canvas: Canvas, layout: np.random.Generator, middle: float, half: float) -> list[Piece]:
    """Plan street lamps, and register them as lights of the canvas.

    Args:
        canvas: to draw on.
        layout: random generator of positions and kinds of objects.
        middle: X of the road's centre line, metres.
        half: half of its width.
    """
    pieces: list[Piece] = []
    z = layout.uniform(5, 14)
    gap, height = layout.uniform(14, 22), layout.uniform(5.2, 6.8)
    sides = [(-1, 1), (1,), (-1,)][layout.integers(3)]
    while z < 75:
        for sign in sides:
            x = middle + sign * (half + 0.5)
            head = x - sign * 1.3
            canvas.lamps.append((head, height, z))
            pieces.append((z, _lamp(canvas, x, head, z, height)))
        z += gap
    return pieces


def _lamp(canvas: Canvas, x: float, head: float, z: float, height: float) -> Callable[[], None]:
    def draw() -> None:
        pole = canvas.surface((0.36, 0.38, 0.40), depth=z, sun=0.4)
        canvas.face([(x - 0.09, 0, z), (x - 0.06, height, z), (x + 0.06, height, z), (x + 0.09, 0, z)], pole)
        low, high = min(x, head), max(x, head)
        canvas.face([(low, height, z), (low, height + 0.13, z), (high, height + 0.13, z), (high, height, z)], pole)
        bulb = canvas.surface((0.92, 0.90, 0.80), depth=z, sun=0.6, glow=(1.0, 0.86, 0.55))
        canvas.face(
            [
                (head - 0.42, height - 0.16, z),
                (head - 0.3, height + 0.1, z),
                (head + 0.3, height + 0.1, z),
                (head + 0.42, height - 0.16, z),
            ],
            bulb,
        )

    return draw


def cars(canvas: Canvas, objects: Objects, layout: np.random.Generator, middle: float, half: float) -> list[Piece]:
    """Plan one to five cars: ahead, oncoming or parked.

    Args:
        canvas: to draw on.
        objects: list to which objects that captions can name are added.
        layout: random generator of positions and kinds of objects.
        middle: X of the road's centre line, metres.
        half: half of its width.
    """
    pieces: list[Piece] = []
    lanes = {"ahead": middle + 0.5 * half, "oncoming": middle - 0.5 * half}
    parked = {1: middle + half - 1.0, -1: middle - half + 1.0}
    taken: list[tuple[float, float]] = []
    for _ in range(int(layout.integers(1, 6))):
        z = layout.uniform(6, 34)
        draw = layout.random()
        if draw < 0.3 and half > 4.2:
            sign = 1 if layout.random() < 0.5 else -1
            x, front = parked[sign], sign < 0
        elif draw < 0.65:
            x, front = lanes["oncoming"] + layout.uniform(-0.2, 0.2), True
        else:
            x, front = lanes["ahead"] + layout.uniform(-0.2, 0.2), False
            z = max(z, 8)
        if any(abs(x - other) < 2.2 and abs(z - far) < 7 for other, far in taken):
            continue
        taken.append((x, z))
        name = list(CAR_COLOURS)[layout.integers(len(CAR_COLOURS))]
        tall = layout.uniform(1.38, 1.75)
        pieces.append((z, _car(canvas, x, z, front, CAR_COLOURS[name], tall)))
        objects.append((30 / z, f"a {name} car"))
    return pieces


def _car(canvas: Canvas, x: float, z: float, front: bool, paint: Colour, tall: float) -> Callable[[], None]:
    wide, long, waist, sill = 0.9, 4.1, 0.92, 0.28

    def draw() -> None:
        canvas.shadow(x + 0.35, z + 0.5 * long, 1.25, 0.55 * long)
        # The flank that can be seen, if any: the camera is at X = 0.
        side = -1 if x - wide > 0 else (1 if x + wide < 0 else 0)
        rear = (0, 0, -1)
        hood = canvas.surface(paint, plane=((0, 1, 0), waist))
        if side:
            flank = x + side * wide
            plane = ((side, 0, 0), side * flank)
            body = canvas.surface(paint, plane=plane)
            glass = canvas.surface(GLAZING, plane=plane)
            rubber = canvas.surface(RUBBER, plane=plane, sun=0.3)
            rim = canvas.surface((0.6, 0.6, 0.62), plane=plane, sun=0.3)
            canvas.face([(flank, sill, z), (flank, waist, z), (flank, waist, z + long), (flank, sill, z + long)], body)
            canvas.face(
                [(flank, waist, z + 0.6), (flank, tall, z + 1.2), (flank, tall, z + 2.7), (flank, waist, z + 3.5)], body
            )
            canvas.face(
                [
                    (flank, waist, z + 0.85),
                    (flank, tall - 0.1, z + 1.3),
                    (flank, tall - 0.1, z + 1.9),
                    (flank, waist, z + 1.9),
                ],
                glass,
            )
            canvas.face(
                [
                    (flank, waist, z + 2.0),
                    (flank, tall - 0.1, z + 2.0),
                    (flank, tall - 0.1, z + 2.6),
                    (flank, waist, z + 3.2),
                ],
                glass,
            )
            for axle in (z + 0.8, z + 3.3):
                canvas.face([(flank, py, pz) for pz, py in disc((axle, 0.32), 0.33, 0.32, 12)], rubber)
                canvas.face([(flank, py, pz) for pz, py in disc((axle, 0.32), 0.17, 0.16, 10)], rim)
        # Roof, window that leans back, then the end that faces the camera.
        canvas.face(
            [(x - wide, waist, z), (x - wide, waist, z + 1), (x + wide, waist, z + 1), (x + wide, waist, z)], hood
        )
        top = canvas.surface(paint, depth=z + 1.1, sun=0.6)
        pane = canvas.surface(GLAZING, depth=z + 0.9, sun=0.5)
        start = 0.9 if front else 0.45
        canvas.face(
            [
                (x - wide, waist, z + start),
                (x - 0.68, tall, z + start + 0.7),
                (x + 0.68, tall, z + start + 0.7),
                (x + wide, waist, z + start),
            ],
            top,
        )
        canvas.face(
            [
                (x - wide + 0.12, waist + 0.03, z + start),
                (x - 0.6, tall - 0.08, z + start + 0.65),
                (x + 0.6, tall - 0.08, z + start + 0.65),
                (x + wide - 0.12, waist + 0.03, z + start),
            ],
            pane,
        )
        u, v = canvas.camera.project((x, 0.6, z))
        scale = canvas.camera.scale(z)
        local = (1 / (1.6 * scale), 0, -u / (1.6 * scale), 0, 1 / (0.8 * scale), -v / (0.8 * scale))
        panel = canvas.surface(paint, ROUND, plane=(rear, -z), local=local)
        dark = canvas.surface(RUBBER, depth=z, sun=0.3)
        for wheel in (x - 0.72, x + 0.72):
            canvas.face(
                [(wheel - 0.14, 0, z), (wheel - 0.14, 0.4, z), (wheel + 0.14, 0.4, z), (wheel + 0.14, 0, z)], dark
            )
        canvas.face(
            [
                (x - wide, sill, z),
                (x - wide, waist - 0.06, z),
                (x - wide + 0.08, waist, z),
                (x + wide - 0.08, waist, z),
                (x + wide, waist - 0.06, z),
                (x + wide, sill, z),
            ],
            panel,
        )
        canvas.face(
            [
                (x - wide + 0.04, sill - 0.06, z),
                (x - wide + 0.04, 0.42, z),
                (x + wide - 0.04, 0.42, z),
                (x + wide - 0.04, sill - 0.06, z),
            ],
            dark,
        )
        plate = canvas.surface((0.92, 0.92, 0.88), depth=z, sun=0.5)
        canvas.face([(x - 0.25, 0.44, z), (x - 0.25, 0.56, z), (x + 0.25, 0.56, z), (x + 0.25, 0.44, z)], plate)
        if front:
            lamp = canvas.surface((0.93, 0.93, 0.90), depth=z, sun=0.7, glow=(1.0, 0.97, 0.85))
            canvas.face([(x - 0.4, 0.6, z), (x - 0.4, 0.76, z), (x + 0.4, 0.76, z), (x + 0.4, 0.6, z)], dark)
        else:
            lamp = canvas.surface((0.62, 0.06, 0.06), depth=z, sun=0.6, glow=(0.95, 0.08, 0.05))
        for place in (x - 0.68, x + 0.68):
            canvas.face(
                [(place - 0.19, 0.6, z), (place - 0.19, 0.8, z), (place + 0.19, 0.8, z), (place + 0.19, 0.6, z)], lamp
            )

    return draw
