"""Canvas for deferred shading: records, for every pixel, which surface of the scene it shows.

Shapes are filled far to near with the number of their surface.  What a surface looks like under some light is computed
afterwards, for all pixels at once, so that one drawing serves both domains.  Lengths are metres: X to the right, Y up
from the ground, Z ahead of the camera.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Point2 = tuple[float, float]  # in units of the image's side, from its upper left corner
Point3 = tuple[float, float, float]
Colour = tuple[float, float, float]
Piece = tuple[float, Callable[[], None]]  # an object that may occlude others: its distance, a function that draws it
Objects = list[tuple[float, str]]  # what a caption can name, with its visual weight

PLAIN, GROUND, FACADE, LEAVES, ROUND, HIDE = range(6)
"""Kinds of surface: one colour; the ground plane; walls with windows; foliage; rounded bodies; an animal's coat."""

SUN = (-0.48, 0.78, -0.40)  # unit vector towards the sun: from the left, above and behind
SUPERSAMPLING = 2  # drawn at twice the size, then averaged
NEAREST = 0.25  # metres from the camera at which polygons are cut
SHIFT = 4  # fractional bits of vertex positions


def scaled(colour: Colour, factor: float) -> Colour:
    """A colour, darker or brighter by a factor."""
    red, green, blue = colour
    return factor * red, factor * green, factor * blue


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along Z, a little to one side.

    Attributes:
        focal: focal length in units of the image's side.
        centre: column of the vanishing point, likewise.
        horizon: its row.
        height: metres above the ground.
        place: its Z, metres: how far it has driven.
    """

    focal: float
    centre: float
    horizon: float
    height: float
    place: float = 0.0

    def scale(self, z: float) -> float:
        """Image units per metre at a Z before the camera."""
        return self.focal / (z - self.place)

    def project(self, point: Point3) -> Point2:
        """Metres to image units; the point must lie before the camera."""
        x, y, z = point
        z = z - self.place
        return self.centre + self.focal * x / z, self.horizon - self.focal * (y - self.height) / z

    def inverse_depth(self, normal: Point3, offset: float) -> tuple[float, float, float]:
        """``(a, b, c)`` such that ``1 / depth = a u + b v + c`` on the plane ``normal . P = offset``."""
        (nx, ny, nz), f = normal, self.focal
        scale = 1.0 / (offset - nz * self.place - ny * self.height)
        a, b = nx / f * scale, -ny / f * scale
        return a, b, nz * scale - a * self.centre - b * self.horizon


@dataclass
class Canvas:
    """A list of surfaces, and an image of their numbers.

    Attributes:
        camera: the view.
        size: pixels of the finished image's side.
        texture: seeded draws for textures; layout draws must not depend on them.
        lamps: places of street lamps.
    """

    camera: Camera
    size: int
    texture: np.random.Generator
    lamps: list[Point3] = field(default_factory=list)
    _rows: list[tuple[float, ...]] = field(default_factory=list)
    _ground: tuple[Colour, tuple[float, ...]] = ((0, 0, 0), ())

    def __post_init__(self) -> None:
        """Start with an empty image: surface 0 is the sky."""
        self.side = self.size * SUPERSAMPLING
        self.ids = np.zeros((self.side, self.side), np.int32)
        self.surface((0, 0, 0), depth=1e6)

    def surface(
        self,
        colour: Colour,
        kind: int = PLAIN,
        *,
        plane: tuple[Point3, float] | None = None,
        depth: float = 0.0,
        sun: float | None = None,
        local: tuple[float, float, float, float, float, float] = (0, 0, 0, 0, 0, 0),
        glow: Colour = (0, 0, 0),
        params: tuple[float, ...] = (),
    ) -> int:
        """Register a surface and return its number.

        Args:
            colour: reflectance, each in [0, 1].
            kind: one of the kinds above.
            plane: ``(unit normal, offset)``, or
            depth: Z of a surface that faces the camera, metres.
            sun: share of sunlight that it receives; computed from the plane's normal where None.
            local: rows of the affine map from image units to the surface's own coordinates.
            glow: light that it gives off at night.
            params: up to eight numbers that its kind reads.
        """
        if plane is None:
            coefficients: tuple[float, ...] = (0.0, 0.0, 1.0 / (depth - self.camera.place))
            normal: Point3 = (0.0, 0.0, -1.0)
        else:
            normal = plane[0]
            coefficients = self.camera.inverse_depth(*plane)
        if sun is None:
            sun = max(0.0, sum(n * s for n, s in zip(normal, SUN, strict=True)))
        padded = (*params, *[0.0] * (8 - len(params)))
        self._rows.append((*colour, kind, *coefficients, sun, *local, *glow, *padded))
        return len(self._rows) - 1

    def fill(self, points: Iterable[Point2], surface: int) -> None:
        """Fill a polygon given in image units."""
        points = list(points)
        if not points:
            return
        scaled = np.array(points, np.float64) * (self.side << SHIFT) - (1 << SHIFT) / 2
        limit = 1 << 24
        fixed = np.clip(np.rint(scaled), -limit, limit).astype(np.int32)
        cv2.fillPoly(self.ids, [fixed], surface, lineType=cv2.LINE_8, shift=SHIFT)

    def face(self, corners: Iterable[Point3], surface: int) -> None:
        """Fill the part of a flat polygon, given in metres, that lies before the camera."""
        self.fill([self.camera.project(corner) for corner in self._before(list(corners))], surface)

    def _before(self, corners: list[Point3]) -> list[Point3]:
        """Cut a polygon at a plane before the camera (Sutherland and Hodgman 1974)."""
        nearest = self.camera.place + NEAREST
        kept: list[Point3] = []
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            if start[2] >= nearest:
                kept.append(start)
            if (start[2] >= nearest) != (end[2] >= nearest):
                share = (nearest - start[2]) / (end[2] - start[2])
                x, y = (start[k] + share * (end[k] - start[k]) for k in range(2))
                kept.append((x, y, nearest))
        return kept

    def ground(self, colour: Colour, params: tuple[float, ...] = ()) -> None:
        """Fill everything below the horizon."""
        self._ground = colour, params
        surface = self.surface(colour, GROUND, plane=((0, 1, 0), 0), params=params)
        top = self.camera.horizon + 0.002
        self.fill([(-1, top), (2, top), (2, 3), (-1, 3)], surface)

    def shadow(self, x: float, z: float, half_x: float, half_z: float) -> None:
        """Ellipse of ground around ``(x, z)`` that the sun does not reach; by night it is lit like the rest."""
        colour, params = self._ground
        shade = self.surface(colour, GROUND, plane=((0, 1, 0), 0), sun=0.0, params=params)
        half_z = min(half_z, 0.8 * z - 0.3)
        self.face([(px, 0, pz) for px, pz in disc((x, z), half_x, half_z, 14)], shade)

    def table(self) -> Array:
        """``(surfaces, 25)`` float32, columns as `Columns` names them."""
        return np.array(self._rows, np.float32)


class Columns:
    """Columns of `Canvas.table`."""

    COLOUR = slice(0, 3)
    KIND = 3
    DEPTH = slice(4, 7)
    SUN = 7
    LOCAL = slice(8, 14)
    GLOW = slice(14, 17)
    PARAMS = 17


def disc(centre: Point2, radius_x: float, radius_y: float, corners: int = 16, turn: float = 0.0) -> list[Point2]:
    """Corners of an ellipse in image units, or in any plane coordinates."""
    angles = np.arange(corners) * (2 * np.pi / corners) + turn
    xs, ys = centre[0] + radius_x * np.cos(angles), centre[1] + radius_y * np.sin(angles)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))
