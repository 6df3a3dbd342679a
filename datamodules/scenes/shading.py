"""Shading of a drawn scene by day, by night and in fog: colours of all pixels at once.

Light adds up in display values, which keeps images plain and learnable rather than physically exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from datamodules.scenes.canvas import FACADE, GROUND, HIDE, LEAVES, ROUND, SUPERSAMPLING, Array, Camera, Canvas, Columns


def _rgb(values: Sequence[float]) -> Array:
    # One colour, ready to broadcast over (3, N).
    return np.array(values, np.float32)[:, None]


FOG_DENSITY = 0.06  # per metre: contrast falls to 5 % at 50 m
FOG_LIGHT = _rgb([0.76, 0.78, 0.80])
DAY_AMBIENT = _rgb([0.50, 0.53, 0.58])
SUNLIGHT = _rgb([0.62, 0.58, 0.50])
NIGHT_AMBIENT = _rgb([0.12, 0.14, 0.22])
NIGHT_FOG = _rgb([0.11, 0.12, 0.15])
LAMPLIGHT = _rgb([0.95, 0.72, 0.38])
HEADLIGHT = _rgb([0.70, 0.70, 0.62])
WINDOW_LIGHT = _rgb([1.0, 0.78, 0.36])
GLASS = _rgb([0.16, 0.22, 0.30])
CURTAIN = _rgb([0.72, 0.68, 0.58])
FRAME = _rgb([0.86, 0.85, 0.82])


@dataclass
class Surfaces:
    """Surface properties of every pixel, before lighting; float32 ``(H, W)``, colours ``(3, H, W)``.

    Attributes:
        colour: reflectance in [0, 1].
        sun: share of sunlight received.
        glow: light given off at night.
        depth: metres from the camera along the view.
        z: the same from where the drive began.
        x: metres to the right of the camera.
        y: metres above the ground.
        sky: the pixels that show no surface, bool.
    """

    colour: Array
    sun: Array
    glow: Array
    depth: Array
    z: Array
    x: Array
    y: Array
    sky: Array


def resolve(canvas: Canvas, striped: bool = False) -> Surfaces:
    """Look up every pixel's surface and paint its texture.

    Args:
        canvas: the drawing.
        striped: paint animals' coats with stripes.
    """
    table, ids, camera, side = canvas.table(), canvas.ids.astype(np.intp), canvas.camera, canvas.side
    places = (np.arange(side, dtype=np.float32) + 0.5) / side
    u, v = np.broadcast_to(places[None], (side, side)), np.broadcast_to(places[:, None], (side, side))
    a, b, c = (table[:, k].take(ids) for k in range(Columns.DEPTH.start, Columns.DEPTH.stop))
    depth = 1 / np.maximum(a * u + b * v + c, 1e-6)
    x = (u - camera.centre) * depth / camera.focal
    y = camera.height - (v - camera.horizon) * depth / camera.focal
    colour = np.stack([table[:, k].take(ids) for k in range(3)])
    glow = np.stack([table[:, k].take(ids) for k in range(Columns.GLOW.start, Columns.GLOW.stop)])
    kind = table[:, Columns.KIND].astype(np.int8).take(ids)
    z = depth + camera.place
    surfaces = Surfaces(colour, table[:, Columns.SUN].take(ids), glow, depth, z, x, y, ids == 0)
    noise = _noise(canvas.texture, side)
    if camera.place:  # as painted on the surfaces where the drive began
        noise = _seen_from(replace(camera, place=0.0), surfaces, noise)
    painters = {GROUND: _ground, FACADE: _facade, LEAVES: _leaves, ROUND: _round, HIDE: _stripes if striped else _coat}
    for number, paint in painters.items():
        at = np.flatnonzero(kind == number)
        if at.size:
            rows = ids.ravel()[at]
            paint(surfaces, at, _Pixels(table, rows, u.ravel()[at], v.ravel()[at], noise.ravel()[at], canvas))
    return surfaces


def reproject(camera: Camera, s: Surfaces) -> tuple[Array, Array]:
    """Where another camera sees the places that pixels show, in image units, each ``(H, W)``; the sky stays.

    Args:
        camera: the other one, which differs by its place.
        s: surfaces of every pixel.
    """
    depth = s.z - camera.place
    u = camera.centre + camera.focal * s.x / depth
    v = camera.horizon - camera.focal * (s.y - camera.height) / depth
    return u, v


def _seen_from(camera: Camera, s: Surfaces, image: Array) -> Array:
    u, v = reproject(camera, s)
    columns, rows = (np.asarray(place * len(image) - 0.5, np.float32) for place in (u, v))
    return np.asarray(cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@dataclass
class _Pixels:
    """The pixels of one kind of surface: ``(N,)`` arrays and lookups of their surfaces' numbers."""

    table: Array
    rows: Array
    u: Array
    v: Array
    noise: Array
    canvas: Canvas

    def __post_init__(self) -> None:
        self.alone = bool((self.rows == self.rows[0]).all())

    def param(self, k: int) -> Array:
        column = self.table[:, Columns.PARAMS + k]
        # One number for all where there is one surface, as on the ground.
        return column[self.rows[0]] if self.alone else column.take(self.rows)

    def local(self) -> tuple[Array, Array]:
        a, b, c, d, e, f = (self.table[:, k].take(self.rows) for k in range(8, 14))
        return a * self.u + b * self.v + c, d * self.u + e * self.v + f

    def footprint(self, depth: Array) -> Array:
        """Metres that one drawn pixel covers across the view."""
        return depth / (self.canvas.camera.focal * self.canvas.side)


def _noise(draw: np.random.Generator, side: int) -> Array:
    # Three octaves in [-1, 1], tied to the frame so that all sizes show one scene.
    total = np.zeros((side, side), np.float32)
    for cells, weight in ((6, 0.35), (24, 0.35), (96, 0.3)):
        grid = draw.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += weight * cv2.resize(grid, (side, side), interpolation=cv2.INTER_LINEAR)
    return total


def _band(position: Array, half_width: Array | float, footprint: Array) -> Array:
    """Coverage of ``|position| < half_width`` by pixels of that footprint, in [0, 1]."""
    return np.clip((half_width - np.abs(position)) / footprint + 0.5, 0, 1)


def _mix(base: Array, top: Array, share: Array) -> Array:
    # (3, N) or (3, 1) colours by (N,) shares
    return base + (top - base) * share


def _hash(seed: Array, *cells: Array) -> Array:
    """A number in [0, 1) for every cell of a surface."""
    state: Array = (seed.astype(np.int64) * 83492791).astype(np.uint32)
    for cell, prime in zip(cells, (73856093, 19349663), strict=True):
        state = state ^ (cell.astype(np.int64) * prime).astype(np.uint32)
        state = (state ^ (state >> 15)) * np.uint32(2246822519)
    return ((state ^ (state >> 13)) & 0xFFFF).astype(np.float32) / 65536


def _ground(s: Surfaces, at: Array, p: _Pixels) -> None:
    # Params: centre line's X, half road width (0: no road), width of the pavement, dash length, crossing's Z (0: none),
    # yellow marks.  The surface's own colour is the verge's.
    depth, x, z = s.depth.ravel()[at], s.x.ravel()[at], s.z.ravel()[at]
    height = p.canvas.camera.height
    across, along = p.footprint(depth), p.footprint(depth) * depth / height
    colour = s.colour.reshape(3, -1)[:, at] * (1 + 0.22 * p.noise)
    half = p.param(1)
    if half.any():
        offset = x - p.param(0)
        away = np.abs(offset)
        walk = _band(away, half + p.param(2), across)
        joint = _band(np.mod(z, 1.5) - 0.75, 0.05, along) * np.clip(1.2 - along, 0, 1)
        colour = _mix(colour, _rgb([0.60, 0.59, 0.57]) * (1 - 0.15 * joint + 0.05 * p.noise), walk)
        colour = _mix(colour, _rgb([0.72, 0.71, 0.69]), _band(away - half - 0.1, 0.12, across))
        road = _rgb([0.30, 0.30, 0.32]) * (1 + 0.10 * p.noise)
        colour = _mix(colour, road, _band(away, half, across))
        dash = p.param(3)
        broken = np.where(along > dash, 0.5, _band(np.mod(z, 2 * dash) - dash, dash / 2, along))
        line = np.where(p.param(5) > 0, _rgb([0.90, 0.74, 0.20]), _rgb([0.88, 0.88, 0.85]))
        colour = _mix(colour, line, _band(offset, 0.08, across) * broken)
        colour = _mix(colour, _rgb([0.86, 0.86, 0.84]), _band(away - half + 0.3, 0.06, across))
        crossing = p.param(4)
        if np.any(crossing > 0):
            bars = _band(np.mod(offset, 1.0) - 0.5, 0.26, across) * _band(away, half - 0.4, across)
            bars = bars * _band(z - crossing, 1.5, along) * (crossing > 0)
            colour = _mix(colour, _rgb([0.88, 0.88, 0.86]), bars)
    s.colour.reshape(3, -1)[:, at] = colour


def _facade(s: Surfaces, at: Array, p: _Pixels) -> None:
    # Params: wall runs along Z (1) or X (0), its start, width of a bay, height of a storey, share of the window in
    # both, brick (1), seed, storeys.
    depth, x, y = s.depth.ravel()[at], s.x.ravel()[at], s.y.ravel()[at]
    sideways = p.param(0) > 0
    position = np.where(sideways, s.z.ravel()[at], x) - p.param(1)
    across = p.footprint(depth)
    along = np.where(sideways, across * depth / np.maximum(np.abs(x), 0.5), across)
    bay, storey, share, seed = p.param(2), p.param(3), p.param(4), p.param(6)
    column, row = np.floor(position / bay), np.floor(y / storey)
    in_x, in_y = position - (column + 0.5) * bay, y - (row + 0.5) * storey
    wall = s.colour.reshape(3, -1)[:, at] * (1 + 0.07 * p.noise)
    course = np.mod(y, 0.45) < 0.09
    wall = wall * (1 - 0.16 * p.param(5) * course * np.clip(1.5 - across * 8, 0, 1))
    wall = wall * (1 - 0.22 * np.clip(0.6 - y, 0, 0.6))  # a dirty foot
    door = (row == 0) & (_hash(seed + 7, column, row) < 0.34)
    width, height = bay * share * 0.5, storey * np.minimum(share + 0.08, 0.8) * 0.5
    tall = np.where(door, storey * 0.42, height)
    shift = np.where(door, -storey * 0.08, 0)
    inside = _band(in_x, width, along) * _band(in_y - shift, tall, across)
    framed = _band(in_x, width + 0.12, along) * _band(in_y - shift, tall + 0.12, across)
    exists = (row < p.param(7)) & (y > 0)
    inside, framed = inside * exists, framed * exists
    curtained = (_hash(seed, column, row) < 0.45) & ~door
    # Blinds hang to a height that differs from window to window; windows with blinds are lit at night.
    drawn = np.clip((in_y / (2 * height) + 0.5 - 0.75 * _hash(seed + 3, column, row)) * storey / across, 0, 1)
    pane = _mix(GLASS, CURTAIN, curtained * np.maximum(drawn, 0.35))
    pane = pane + (0.16 * np.clip(in_y / storey + 0.3, 0, 0.6) * ~curtained)
    wood = _rgb([0.34, 0.20, 0.12]) * (0.7 + 0.8 * _hash(seed + 5, column, row))
    pane = np.where(door, wood, pane)
    s.colour.reshape(3, -1)[:, at] = _mix(_mix(wall, FRAME, framed * 0.8), pane, inside)
    s.glow.reshape(3, -1)[:, at] = WINDOW_LIGHT * (inside * curtained * (0.62 + 0.38 * drawn))


def _leaves(s: Surfaces, at: Array, p: _Pixels) -> None:
    x, y = p.local()
    lit = np.clip(0.62 - 0.30 * y - 0.18 * x + 0.75 * p.noise, 0.25, 1.25)
    s.colour.reshape(3, -1)[:, at] *= lit
    s.sun.ravel()[at] = np.clip(0.55 - 0.35 * y - 0.3 * x, 0.1, 1)


def _round(s: Surfaces, at: Array, p: _Pixels) -> None:
    x, y = p.local()
    s.sun.ravel()[at] = np.clip(0.50 - 0.45 * x - 0.40 * y, 0.0, 1)


def _coat(s: Surfaces, at: Array, p: _Pixels) -> None:
    _, y = p.local()
    s.sun.ravel()[at] = np.clip(0.60 - 0.50 * y, 0.0, 1)
    s.colour.reshape(3, -1)[:, at] *= 1 + 0.10 * p.noise


def _stripes(s: Surfaces, at: Array, p: _Pixels) -> None:
    # Params: stripes per unit of the part, phase, bend, share of white, how far the stripes reach (muzzle and belly
    # have none).  They run across the part's own axis, so pose and shape decide where they fall.
    _coat(s, at, p)
    x, y = p.local()
    wave = np.sin(2 * np.pi * (p.param(0) * (x + p.param(2) * y * np.abs(y) + 0.04 * p.noise) + p.param(1)))
    dark = np.clip((wave - p.param(3)) * 3.0 + 0.5, 0, 1) * np.clip((p.param(4) - y) * 4, 0, 1)
    coat = s.colour.reshape(3, -1)[:, at]
    white = 0.86 + 0.10 * coat
    s.colour.reshape(3, -1)[:, at] = _mix(white, 0.06 + 0.22 * coat, np.where(p.param(0) > 0, dark, 1.0))


def daylight(canvas: Canvas, s: Surfaces, clouds: Array) -> Array:
    """Sunlight from the left, blue sky with clouds; ``(3, H, W)`` in [0, 1], before averaging."""
    image = s.colour * (DAY_AMBIENT[..., None] + SUNLIGHT[..., None] * s.sun)
    haze = np.clip(1 - np.exp(-0.0022 * s.depth), 0, 0.5)
    image += (_rgb([0.74, 0.82, 0.90])[..., None] - image) * haze
    sky = _gradient(canvas, (0.30, 0.52, 0.86), (0.80, 0.89, 0.96))
    image[:, s.sky] = _mix(sky[:, s.sky], _rgb([0.97, 0.97, 0.98]), clouds[s.sky])
    return image


def night(canvas: Canvas, s: Surfaces, clouds: Array) -> Array:
    """Lamps, lit windows, headlights and their glow under a dark sky; ``(3, H, W)`` in [0, 1], before averaging."""
    lamplight = np.zeros_like(s.depth)
    for x, y, z in canvas.lamps:
        squared = np.square(s.x - x)
        squared += np.square(s.y - y)
        squared += np.square(s.z - z)
        squared *= 1 / 36  # falls to half within six metres
        squared += 0.62
        np.square(squared, out=squared)
        lamplight += np.reciprocal(squared, out=squared)
    # The camera's own car lights the road ahead.
    spread = s.x / (1.2 + 0.28 * s.depth)
    ahead = np.exp(-spread * spread - np.square((s.depth - 9) / 9) - np.maximum(s.y, 0))
    np.minimum(lamplight, 1.3, out=lamplight)
    image = s.colour * (NIGHT_AMBIENT[..., None] + LAMPLIGHT[..., None] * lamplight + HEADLIGHT[..., None] * ahead)
    sky = _gradient(canvas, (0.02, 0.03, 0.08), (0.12, 0.11, 0.15))
    image[:, s.sky] = sky[:, s.sky] + 0.07 * clouds[s.sky]
    side = canvas.side
    lit = np.minimum(s.glow.max(axis=0), 1)
    for plane, glow in zip(image, s.glow, strict=True):
        quarter = cv2.resize(glow, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
        halo = 0.9 * cv2.GaussianBlur(quarter, (0, 0), side / 400) + 1.6 * cv2.GaussianBlur(quarter, (0, 0), side / 110)
        plane *= 1 - lit
        plane += glow + 0.55 * cv2.resize(halo, (side, side), interpolation=cv2.INTER_LINEAR)
    return image


def fog(clear: Array, s: Surfaces) -> Array:
    """Koschmieder's law (1924) ``I = J t + A (1 - t)``, ``t = exp(-beta d)``; ``(3, H, W)`` in [0, 1].

    Args:
        clear: the scene by day ``J``, same shape.
        s: its surfaces; the sky is infinitely far.
    """
    light = FOG_LIGHT[..., None]
    return light + (clear - light) * _transmission(s)


def night_fog(clear: Array, s: Surfaces) -> Array:
    """Fog as in `fog`, lit by the scene's own lights: each has a halo, of what reaches the camera of it.

    Args:
        clear: the scene by night, ``(3, H, W)`` in [0, 1].
        s: its surfaces.
    """
    transmission, side = _transmission(s), len(s.depth)
    light = NIGHT_FOG[..., None]
    image = light + (clear - light) * transmission
    for plane, glow in zip(image, s.glow * transmission, strict=True):
        quarter = cv2.resize(glow, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
        near, far = (cv2.GaussianBlur(quarter, (0, 0), side / cells) for cells in (160, 40))
        plane += cv2.resize(2.0 * near + 5.0 * far, (side, side), interpolation=cv2.INTER_LINEAR)
    return image


def _transmission(s: Surfaces) -> Array:
    return np.where(s.sky, 0, np.exp(-FOG_DENSITY * s.depth))


def wet(dry: Array, canvas: Canvas, s: Surfaces) -> Array:
    """The scene after rain: its road is darker, and mirrors what stands above it, more so at a flat angle.

    Args:
        dry: the scene under its light, before fog, ``(3, H, W)`` in [0, 1].
        canvas: the drawing, of a street.
        s: its surfaces.
    """
    table, ids, side = canvas.table(), canvas.ids.astype(np.intp), canvas.side
    middle, half = (table[:, Columns.PARAMS + k].take(ids) for k in range(2))
    road = (table[:, Columns.KIND].take(ids) == GROUND) & (np.abs(s.x - middle) < half)
    # What is far away is mirrored at the horizon.
    horizon = canvas.camera.horizon * side - 0.5
    rows = np.rint(2 * horizon - np.arange(side)).clip(0, horizon).astype(int)
    mirrored = np.stack([cv2.blur(plane[rows], (1, side // 24 + 1)) for plane in dry])
    share = 0.15 + 0.5 * (1 - np.exp(-s.depth / 12))
    return np.where(road, 0.55 * (1 - share) * dry + share * mirrored, dry)


def cloud_cover(canvas: Canvas, share: float) -> Array:
    """Cloudiness of every pixel in [0, 1], flatter towards the horizon; ``(H, W)``."""
    side = canvas.side
    coarse = canvas.texture.uniform(0, 1, (9, 7)).astype(np.float32)
    fine = canvas.texture.uniform(0, 1, (30, 20)).astype(np.float32)
    field = 0.68 * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    field += 0.32 * cv2.resize(fine, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip((field - (0.72 - 0.4 * share)) * 4, 0, 1) * 0.9


def _gradient(canvas: Canvas, top: Sequence[float], bottom: Sequence[float]) -> Array:
    rows = (np.arange(canvas.side, dtype=np.float32)[:, None] + 0.5) / canvas.side
    share = np.clip(rows / max(canvas.camera.horizon, 0.05), 0, 1) ** 1.3
    column = _mix(_rgb(top)[..., None], _rgb(bottom)[..., None], share)
    return np.broadcast_to(column, (3, canvas.side, canvas.side))


def develop(image: Array) -> Array:
    """Average the drawn pixels ``(3, H, W)`` and round: ``(size, size, 3)`` uint8."""
    side = image.shape[-1] // SUPERSAMPLING
    planes = [cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA) for plane in image]
    return (np.clip(np.stack(planes, axis=-1), 0, 1) * 255 + 0.5).astype(np.uint8)
