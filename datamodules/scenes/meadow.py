"""Layout of a meadow with horses: the same animals, poses and landscape carry a plain coat or stripes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datamodules.scenes.canvas import HIDE, LEAVES, Camera, Canvas, Colour, Piece, Point2, disc, scaled

COATS: dict[str, Colour] = {
    "chestnut": (0.56, 0.28, 0.13),
    "brown": (0.36, 0.20, 0.11),
    "black": (0.12, 0.11, 0.12),
    "grey": (0.56, 0.56, 0.58),
    "golden": (0.74, 0.55, 0.28),
}
GRASS: dict[str, Colour] = {
    "green": (0.36, 0.52, 0.20),
    "dry": (0.68, 0.60, 0.34),
    "sandy": (0.76, 0.66, 0.48),
}
TORSO = (
    (0.52, 0.82), (0.49, 0.64), (0.32, 0.54), (0.02, 0.50), (-0.26, 0.55), (-0.48, 0.60), (-0.60, 0.76),
    (-0.58, 0.92), (-0.43, 1.02), (-0.16, 0.97), (0.14, 0.96), (0.32, 1.02), (0.47, 0.97),
)  # fmt: skip
"""Outline of the trunk of an animal that faces right, its withers 1 above the ground."""


@dataclass
class Meadow:
    """A drawn meadow.

    Attributes:
        canvas: its surfaces.
        clouds: share of the sky that they cover.
        coats: names of the animals' colours, nearest first.
        grazing: whether the nearest one lowers its head.
        grass: name of the ground's colour.
    """

    canvas: Canvas
    clouds: float
    coats: list[str]
    grazing: bool
    grass: str


def draw_meadow(
    layout: np.random.Generator, texture: np.random.Generator, size: int, grass: str | None = None
) -> Meadow:
    """Draw one meadow; arguments as in `draw_street`, and the ground's colour, which else is drawn too."""
    camera = Camera(layout.uniform(0.9, 1.2), 0.5, layout.uniform(0.26, 0.46), layout.uniform(1.4, 2.0))
    canvas = Canvas(camera, size, texture)
    drawn = list(GRASS)[layout.integers(3)]
    grass = grass or drawn
    r, g, b = (float(layout.uniform(0.9, 1.1)) * c for c in GRASS[grass])
    canvas.ground((r, g, b))
    _hills(canvas, layout)
    pieces: list[Piece] = _trees(canvas, layout)
    if layout.random() < 0.35:
        z = layout.uniform(9, 14)
        pieces.append((z, _fence(canvas, z)))
    pieces += _tufts(canvas, layout, (0.8 * r, 0.85 * g, 0.8 * b))
    coats, grazing = [], False
    count = 1 + int(layout.integers(0, 3))
    # The nearest animal fills a good part of the image, as in photographs of one.
    depths = np.sort(layout.uniform(1.1, 2.2, count))
    depths[0] = min(depths[0], 1.3)
    depths *= layout.uniform(2.7, 3.8)
    for k, z in enumerate(depths.tolist()):
        # Beside each other rather than behind each other.
        u = 0.5 + layout.uniform(-0.10, 0.10) if k == 0 else (0.5 + (-1) ** k * layout.uniform(0.2, 0.45))
        coat = list(COATS)[layout.integers(len(COATS))]
        numbers = layout.uniform(0, 1, 10)
        x = (u - camera.centre) * z / camera.focal
        pieces.append((z, _horse(canvas, x, z, COATS[coat], numbers)))
        coats.append(coat)
        grazing = grazing or (k == 0 and numbers[0] < 0.4)
    for _, draw in sorted(pieces, key=lambda piece: -piece[0]):
        draw()
    return Meadow(canvas, layout.uniform(0, 1), coats, grazing, grass)


def _hills(canvas: Canvas, layout: np.random.Generator) -> None:
    horizon = canvas.camera.horizon
    for depth, colour, tall in ((400, (0.44, 0.52, 0.58), 0.13), (180, (0.34, 0.46, 0.30), 0.07)):
        bumps = np.interp(np.linspace(0, 1, 33), np.linspace(0, 1, 6), layout.uniform(0.0, tall, 6))
        hill = canvas.surface(colour, depth=depth, sun=0.6)
        outline = [(k / 32, horizon - float(bump)) for k, bump in enumerate(bumps)]
        canvas.fill([*outline, (1, horizon + 0.004), (0, horizon + 0.004)], hill)


def _trees(canvas: Canvas, layout: np.random.Generator) -> list[Piece]:
    pieces: list[Piece] = []
    for _ in range(int(layout.integers(0, 6))):
        z = layout.uniform(14, 60)
        x = layout.uniform(-0.6, 0.6) * z / canvas.camera.focal
        pieces.append((z, _tree(canvas, x, z, layout.uniform(3, 6), layout.uniform(0, 1, 9))))
    return pieces


def _tree(canvas: Canvas, x: float, z: float, height: float, shape: np.ndarray) -> Callable[[], None]:
    def draw() -> None:
        scale = canvas.camera.focal / z
        canvas.shadow(x + 0.8, z, 0.4 * height, 0.3 * height)
        trunk = canvas.surface((0.30, 0.23, 0.17), depth=z, sun=0.4)
        foot = 0.04 * height
        canvas.face(
            [(x - foot, 0, z), (x - foot, 0.6 * height, z), (x + foot, 0.6 * height, z), (x + foot, 0, z)], trunk
        )
        u, v = canvas.camera.project((x, 0.75 * height, z))
        radius = 0.4 * height * scale
        local = (1 / radius, 0, -u / radius, 0, 1 / radius, -v / radius)
        green = (0.20 + 0.14 * shape[0], 0.36 + 0.12 * shape[1], 0.14)
        leaves = canvas.surface(green, LEAVES, depth=z, local=local)
        for k in range(5):
            spot = (u + (k - 2) * 0.2 * height * scale, v + (shape[k] - 0.5) * 0.12 * height * scale)
            blob = (0.14 + 0.07 * shape[k + 4]) * height * scale
            canvas.fill(disc(spot, 1.25 * blob, blob, 14), leaves)

    return draw


def _fence(canvas: Canvas, z: float) -> Callable[[], None]:
    def draw() -> None:
        wood = canvas.surface((0.50, 0.40, 0.30), depth=z, sun=0.55)
        reach = z / canvas.camera.focal
        for rail in (0.5, 0.95):
            canvas.face([(-reach, rail, z), (-reach, rail + 0.12, z), (reach, rail + 0.12, z), (reach, rail, z)], wood)
        for post in np.arange(-reach, reach, 2.2).tolist():
            canvas.face([(post, 0, z), (post, 1.25, z), (post + 0.14, 1.25, z), (post + 0.14, 0, z)], wood)

    return draw


def _tufts(canvas: Canvas, layout: np.random.Generator, colour: Colour) -> list[Piece]:
    places = layout.uniform(0, 1, (14, 4)).tolist()

    def tuft(x: float, z: float, tall: float) -> Callable[[], None]:
        def draw() -> None:
            blade = canvas.surface(colour, depth=z, sun=0.45)
            for lean in (-0.10, 0.0, 0.11):
                canvas.face(
                    [(x + 0.5 * lean - 0.035, 0, z), (x + 2 * lean, tall, z), (x + 0.5 * lean + 0.035, 0, z)], blade
                )

        return draw

    return [
        (z, tuft((a - 0.5) * 1.1 * z / canvas.camera.focal, z, 0.14 + 0.2 * c))
        for a, b, c, _ in places
        for z in [2.2 + 14 * b * b]
    ]


def _smooth(points: tuple[Point2, ...], steps: int = 4) -> list[Point2]:
    # Closed Catmull-Rom spline.
    p = np.array(points)
    before, after, last = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p, before, after, last = p[:, None], before[:, None], after[:, None], last[:, None]
    curve = 0.5 * (
        2 * p + (after - before) * t + (2 * before - 5 * p + 4 * after - last) * t**2
        + (3 * p - before - 3 * after + last) * t**3
    )  # fmt: skip
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


def _horse(canvas: Canvas, x: float, z: float, coat: Colour, numbers: np.ndarray) -> Callable[[], None]:
    tall = 1.35 + 0.25 * numbers[1]  # metres at the withers
    facing = 1.0 if numbers[2] < 0.5 else -1.0
    scale = canvas.camera.focal / z * tall
    foot_u, foot_v = canvas.camera.project((x, 0, z))

    def place(point: Point2) -> Point2:
        return foot_u + facing * point[0] * scale, foot_v - point[1] * scale

    def hide(colour: Colour, origin: Point2, axis: Point2, half_width: float, params: tuple[float, ...]) -> int:
        # Coordinates of the part: along its axis in units of the withers' height, and across it in half widths, down
        # (or to the right) positive.
        ox, oy = place(origin)
        ax, ay = facing * axis[0], -axis[1]
        bx, by = (-ay, ax) if (ax > abs(ay) or ay < -0.3) else (ay, -ax)
        w = scale * half_width
        local = (
            ax / scale, ay / scale, -(ax * ox + ay * oy) / scale,
            bx / w, by / w, -(bx * ox + by * oy) / w,
        )  # fmt: skip
        return canvas.surface(colour, HIDE, depth=z, local=local, params=params)

    def limb(points: list[Point2], widths: list[float], surface: int) -> None:
        # A tapering tube along a line of points.
        p = np.array(points)
        run = np.gradient(p, axis=0)
        normal = np.stack([-run[:, 1], run[:, 0]], 1) / np.maximum(np.linalg.norm(run, axis=1, keepdims=True), 1e-6)
        w = np.array(widths)[:, None]
        outline = [*(p + normal * w).tolist(), *(p - normal * w)[::-1].tolist()]
        canvas.fill([place((a, b)) for a, b in outline], surface)

    def leg(hip: Point2, swing: float, bend: float, shade: float, thick: float) -> None:
        colour = scaled(coat, shade)
        knee = (hip[0] + 0.30 * swing, 0.5 * hip[1])
        hoof = (knee[0] + 0.30 * (swing - bend), 0.05)
        skin = hide(colour, hip, (0.0, -1.0), 0.07, (9.0, 0.1, 0.0, 0.0, 9.0))
        limb([hip, ((hip[0] + knee[0]) / 2, 0.76 * hip[1]), knee, hoof], [thick, 0.75 * thick, 0.046, 0.036], skin)
        horn = canvas.surface((0.13, 0.11, 0.10), depth=z, sun=0.4)
        canvas.fill(
            [
                place((hoof[0] - 0.045, 0.065)),
                place((hoof[0] + 0.045, 0.065)),
                place((hoof[0] + 0.065, 0.0)),
                place((hoof[0] - 0.055, 0.0)),
            ],
            horn,
        )

    def draw() -> None:
        canvas.shadow(x + 0.25, z, 0.85 * tall, 0.4)
        dark = scaled(coat, 0.45)
        hair = canvas.surface(dark, depth=z, sun=0.4)
        stride = 0.5 * (numbers[3] - 0.5) + (0.25 if numbers[3] > 0.5 else -0.25) * (numbers[4] > 0.45)
        leg((-0.40, 0.66), -stride, -0.12, 0.66, 0.10)
        leg((0.34, 0.62), stride, 0.06, 0.66, 0.08)
        sway = 0.10 * (numbers[5] - 0.3)
        limb(
            [(-0.58, 0.94), (-0.66, 0.82), (-0.68 - sway, 0.6), (-0.66 - 1.5 * sway, 0.42)],
            [0.025, 0.035, 0.045, 0.01],
            hair,
        )
        # Neck and head: lowered to graze, or raised.
        grazing = numbers[0] < 0.4
        lift = -0.72 - 0.15 * numbers[6] if grazing else 0.65 + 0.45 * numbers[6]
        reach = 0.66 if grazing else 0.58
        base = (0.40, 0.84)
        axis = (float(np.cos(lift)), float(np.sin(lift)))
        poll = (base[0] + reach * axis[0], base[1] + reach * axis[1])
        nod = lift - (0.55 if grazing else 1.45 + 0.2 * numbers[7])
        nose_axis = (float(np.cos(nod)), float(np.sin(nod)))
        nose = (poll[0] + 0.40 * nose_axis[0], poll[1] + 0.40 * nose_axis[1])
        up = (-axis[1], axis[0])
        neck = hide(coat, base, axis, 0.16, (7.0, 0.35, 0.0, 0.0, 9.0))
        crest = [
            (base[0] + t * reach * axis[0] + w * up[0], base[1] + t * reach * axis[1] + w * up[1])
            for t, w in ((-0.08, 0.16), (0.35, 0.155), (0.7, 0.13), (1.05, 0.11))
        ]
        mane = hide(dark, base, axis, 0.10, (7.0, 0.35, 0.0, 0.0, 9.0))
        limb(crest, [0.03, 0.05, 0.05, 0.03], mane)
        limb(
            [
                (base[0] - 0.12 * axis[0], base[1] - 0.12 * axis[1]),
                base,
                (base[0] + 0.5 * reach * axis[0], base[1] + 0.5 * reach * axis[1]),
                (base[0] + 1.04 * reach * axis[0], base[1] + 1.04 * reach * axis[1]),
            ],
            [0.20, 0.19, 0.125, 0.085],
            neck,
        )
        trunk = hide(coat, (0.0, 0.76), (1.0, 0.0), 0.26, (5.5, 0.2, 0.10, 0.0, 0.95))
        canvas.fill([place(point) for point in _smooth(TORSO)], trunk)
        face = hide(coat, poll, nose_axis, 0.09, (9.0, 0.0, 0.0, 0.0, 9.0))
        for ear in (0.0, 0.055):
            root = (poll[0] + ear * axis[0] - 0.02 * nose_axis[0], poll[1] + ear * axis[1] - 0.02 * nose_axis[1])
            tip = (root[0] + 0.09 * up[0] + 0.08 * axis[0], root[1] + 0.09 * up[1] + 0.08 * axis[1])
            canvas.fill([place((root[0] - 0.03, root[1])), place(tip), place((root[0] + 0.04, root[1]))], face)
        limb(
            [
                (poll[0] - 0.06 * nose_axis[0], poll[1] - 0.06 * nose_axis[1]),
                (poll[0] + 0.10 * nose_axis[0], poll[1] + 0.10 * nose_axis[1]),
                (poll[0] + 0.28 * nose_axis[0], poll[1] + 0.28 * nose_axis[1]),
                nose,
            ],
            [0.075, 0.10, 0.065, 0.055],
            face,
        )
        muzzle = canvas.surface((0.35 * coat[0] + 0.05, 0.33 * coat[1] + 0.05, 0.33 * coat[2] + 0.05), depth=z, sun=0.4)
        limb(
            [
                (poll[0] + 0.33 * nose_axis[0], poll[1] + 0.33 * nose_axis[1]),
                (poll[0] + 0.42 * nose_axis[0], poll[1] + 0.42 * nose_axis[1]),
            ],
            [0.06, 0.045],
            muzzle,
        )
        eye = canvas.surface((0.03, 0.03, 0.03), depth=z, sun=0.3)
        spot = (poll[0] + 0.10 * nose_axis[0] + 0.03 * axis[0], poll[1] + 0.10 * nose_axis[1] + 0.03 * axis[1])
        canvas.fill(disc(place(spot), 0.017 * scale, 0.017 * scale, 8), eye)
        leg((-0.47, 0.70), stride, -0.12, 1.0, 0.115)
        leg((0.37, 0.64), -stride, 0.06, 1.0, 0.085)

    return draw
