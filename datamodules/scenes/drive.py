"""A drive through a street of the twin world: frames in both domains, and the true optical flow between them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datamodules.scenes.canvas import SUPERSAMPLING, Array, Canvas
from datamodules.scenes.shading import Surfaces, reproject, resolve
from datamodules.scenes.world import check_world, develop_scene, draw_scene

MOST_METRES = 4.0  # then the camera would pass what stands nearest to it


@dataclass(frozen=True)
class Frame:
    """One frame of a drive.

    Attributes:
        a: the scene in domain A, ``(size, size, 3)`` uint8.
        b: in domain B.
        flow: where each pixel was in the frame before, relative to its place now, ``(size, size, 2)``: columns to the
            right and rows down, pixels; 0 in the first frame.
        visible: the pixels that showed the same surface there, ``(size, size)`` bool; none in the first frame.
    """

    a: NDArray[np.uint8]
    b: NDArray[np.uint8]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]


def drive(task: str, seed: int, index: int, size: int, frames: int, step: float = 0.12) -> Iterator[Frame]:
    """Render a drive along a street, in which nothing but the camera moves.

    Args:
        task: "day_night" or "clear_foggy".
        seed: of the whole world.
        index: of the scene, which is the first frame.
        size: pixels of the square's side.
        frames: number of frames.
        step: metres between two frames; 0.12 at 25 frames per second are 11 km/h.

    Raises:
        ValueError: there is no such street, or the drive is longer than 4 m.
    """
    check_world(task, "a")
    if task == "horse_zebra":
        raise ValueError("A drive leads along a street, which horse_zebra has none of.")
    if not 0 < (frames - 1) * step <= MOST_METRES:
        raise ValueError(f"A drive has at most {MOST_METRES:g} m, got {frames} frames of {step:g} m.")
    before: Canvas | None = None
    for k in range(frames):
        domains = []
        for domain in ("a", "b"):
            scene = draw_scene(task, seed, index, size, k * step)  # drawn again: its textures are draws in order
            surfaces = resolve(scene.canvas)
            domains.append(develop_scene(task, domain, scene, surfaces))
        flow, visible = _flow(scene.canvas, surfaces, before)
        yield Frame(domains[0], domains[1], flow, visible)
        before = scene.canvas


def _flow(canvas: Canvas, surfaces: Surfaces, before: Canvas | None) -> tuple[Array, Array]:
    size, side = canvas.size, canvas.side
    if before is None:
        return np.zeros((size, size, 2), np.float32), np.zeros((size, size), bool)
    u, v = reproject(replace(canvas.camera, place=before.camera.place), surfaces)
    rows, columns = np.mgrid[:side, :side]
    there = np.stack([u, v], axis=-1) * side - 0.5
    motion = np.where(surfaces.sky[..., None], 0, there - np.stack([columns, rows], axis=-1)).astype(np.float32)
    nearest = np.rint(np.where(surfaces.sky[..., None], np.stack([columns, rows], axis=-1), there)).astype(int)
    inside = ((nearest >= 0) & (nearest < side)).all(axis=-1)
    nearest = nearest.clip(0, side - 1)
    same = inside & (before.ids[nearest[..., 1], nearest[..., 0]] == canvas.ids)
    # A pixel of the image is a square of drawn ones, which must show one surface.
    squares = (size, SUPERSAMPLING, size, SUPERSAMPLING)
    ids = canvas.ids.reshape(squares)
    visible = same.reshape(squares).all(axis=(1, 3)) & (ids.max(axis=(1, 3)) == ids.min(axis=(1, 3)))
    return motion.reshape(*squares, 2).mean(axis=(1, 3)) / SUPERSAMPLING, visible
