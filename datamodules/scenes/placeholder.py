"""A small seeded renderer that stands in for photographs: flat shapes, one scene in either of two domains.

It shows that the machinery runs and gives true counterparts to measure against.  Nothing learned from it holds for
photographs, so everything that uses it says "placeholder".
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images import from_pixels

Picture = NDArray[Any]  # float32, (H, W, 3) or (H, W), in [0, 1]
FAR = 40.0  # depth of the sky; the nearest road has depth 1


def _street(draw: np.random.Generator, size: int) -> tuple[Picture, Picture, Picture]:
    """Colours by daylight, depth, and lamps (both ``(H, W)``)."""
    horizon = int(size * draw.uniform(0.4, 0.55))
    rows = np.arange(size, dtype=np.float32)[:, None]
    sky = np.clip(rows / horizon, 0, 1)[..., None]
    image: Picture = np.broadcast_to(
        (1 - sky) * draw.uniform(0.4, 0.7, 3) * (0.7, 0.9, 1.2) + sky * 0.9, (size, size, 3)
    )
    image = np.clip(image, 0, 1).astype(np.float32).copy()
    depth = np.full((size, size), FAR, np.float32)
    lamps = np.zeros((size, size), np.float32)
    # Flat ground: depth falls with the distance below the horizon.
    ground = np.clip((size - horizon) / np.maximum(rows[horizon:] - horizon, 1e-3), 1, FAR)
    depth[horizon:] = ground
    image[horizon:] = draw.uniform(0.3, 0.5, 3) * (0.9, 1.0, 0.7)
    vanish = int(size * draw.uniform(0.35, 0.65))
    left, right = int(-0.2 * size), int(1.2 * size)
    cv2.fillPoly(image, [np.array([[vanish, horizon], [left, size], [right, size]])], (0.38, 0.38, 0.4))
    for near in (0.35, 0.65):  # lane marks point at the vanishing point
        foot = int(size * near)
        cv2.line(image, (foot, size), (vanish, horizon), (0.85, 0.85, 0.8), max(1, size // 90))
    for depth_here in sorted(draw.uniform(2, 12, 6), reverse=True):
        side = 1 if draw.random() < 0.5 else -1
        base = horizon + (size - horizon) / depth_here
        x = vanish + side * size * draw.uniform(0.75, 1.1) / depth_here
        width, height = size * draw.uniform(0.4, 0.9) / depth_here, size * draw.uniform(0.8, 1.6) / depth_here
        box = [int(min(x, x + side * width)), int(base - height), int(max(x, x + side * width)), int(base)]
        cv2.rectangle(image, tuple(box[:2]), tuple(box[2:]), draw.uniform(0.3, 0.8, 3).tolist(), -1)
        cv2.rectangle(depth, tuple(box[:2]), tuple(box[2:]), float(depth_here), -1)
        pane = max(2, int(size * 0.12 / depth_here))
        for wx in range(box[0] + pane, box[2] - pane, 2 * pane):
            for wy in range(box[1] + pane, box[3] - 2 * pane, 2 * pane):
                cv2.rectangle(image, (wx, wy), (wx + pane - 1, wy + pane), (0.2, 0.25, 0.3), -1)
                if draw.random() < 0.4:
                    cv2.rectangle(lamps, (wx, wy), (wx + pane - 1, wy + pane), 0.7, -1)
    for depth_here in sorted(draw.uniform(1.6, 6, 3), reverse=True):
        base = horizon + (size - horizon) / depth_here
        x, width = vanish + size * draw.uniform(-0.35, 0.35) / depth_here, size * 0.35 / depth_here
        box = [int(x - width / 2), int(base - 0.7 * width), int(x + width / 2), int(base)]
        cv2.rectangle(image, tuple(box[:2]), tuple(box[2:]), draw.uniform(0.1, 0.9, 3).tolist(), -1)
        cv2.rectangle(depth, tuple(box[:2]), tuple(box[2:]), float(depth_here), -1)
        for wheel in (box[0] + width / 5, box[2] - width / 5):
            cv2.circle(image, (int(wheel), box[3]), max(1, int(width / 9)), (0.05, 0.05, 0.05), -1)
            cv2.circle(lamps, (int(wheel), int(base - 0.35 * width)), max(1, int(width / 14)), 1.0, -1)
    return image, depth, lamps


def _night(image: Picture, lamps: Picture) -> Picture:
    # Little bluish light, and lamps that glow.
    glow = cv2.GaussianBlur(lamps, (0, 0), max(1.0, image.shape[0] / 40))[..., None] * 1.5 + lamps[..., None]
    return image * np.array([0.10, 0.12, 0.2], np.float32) + glow * np.array([1.0, 0.85, 0.5], np.float32)


def _fog(image: Picture, depth: Picture, density: float) -> Picture:
    # Koschmieder 1924: I = J t + L (1 - t), transmission t = exp(-density * depth).
    transmission = np.exp(-density * depth)[..., None]
    return image * transmission + np.array([0.78, 0.79, 0.8], np.float32) * (1 - transmission)


def _animal(draw: np.random.Generator, size: int, striped: bool) -> Picture:
    image = np.empty((size, size, 3), np.float32)
    horizon = int(size * draw.uniform(0.25, 0.5))
    image[:horizon], image[horizon:] = draw.uniform(0.6, 0.95, 3), draw.uniform(0.25, 0.6, 3) * (0.9, 1.1, 0.5)
    body = np.zeros((size, size), np.float32)
    x, y, scale = size * draw.uniform(0.4, 0.6), size * draw.uniform(0.5, 0.62), size * draw.uniform(0.18, 0.26)
    facing = 1 if draw.random() < 0.5 else -1

    def ellipse(dx: float, dy: float, half_width: float, half_height: float, angle: float = 0) -> None:
        centre = (int(x + facing * dx * scale), int(y + dy * scale))
        axes = (max(1, int(half_width * scale)), max(1, int(half_height * scale)))
        cv2.ellipse(body, centre, axes, facing * angle, 0, 360, 1.0, -1)

    ellipse(0, 0, 1, 0.5)
    ellipse(1.05, -0.55, 0.6, 0.22, -50)
    ellipse(1.5, -0.9, 0.38, 0.17, 20)
    for leg in (-0.75, -0.5, 0.5, 0.75):
        ellipse(leg, 0.75, 0.1, 0.55)
    brown, period, slant = draw.uniform(0.2, 0.6), draw.uniform(0.16, 0.26) * scale, draw.uniform(-0.4, 0.4)
    coat: Picture = np.broadcast_to(np.array([brown + 0.2, brown, brown * 0.6], np.float32), image.shape)
    if striped:
        columns, rows = np.meshgrid(np.arange(size), np.arange(size))
        wave = np.sin(2 * np.pi * (columns + slant * rows) / max(period, 2.0))
        coat = np.where(wave > 0, 0.95, 0.08)[..., None].repeat(3, axis=2).astype(np.float32)
    return image * (1 - body[..., None]) + coat * body[..., None]


TASKS = ("day_night", "clear_foggy", "horse_zebra")


def render(task: str, domain: str, seed: int, index: int, size: int) -> Tensor:
    """Draw one scene in one of its two domains.

    Args:
        task: one of `TASKS`.
        domain: "a" or "b"; both show the same scene of equal seed, index and size.
        seed: of the whole world.
        index: of the scene.
        size: pixels of the square's side.

    Returns:
        ``(3, size, size)`` in [-1, 1].

    Raises:
        ValueError: unknown task or domain.
    """
    if task not in TASKS or domain not in ("a", "b"):
        raise ValueError(f"No scenes {task!r} in domain {domain!r}: tasks are {', '.join(TASKS)}, domains a and b.")
    draw = np.random.default_rng([seed, TASKS.index(task), index])
    if task == "horse_zebra":
        image = _animal(draw, size, striped=domain == "b")
    else:
        image, depth, lamps = _street(draw, size)
        if domain == "b":
            image = _night(image, lamps) if task == "day_night" else _fog(image, depth, draw.uniform(0.25, 0.6))
    return from_pixels((image.clip(0, 1) * 255).round().astype(np.uint8))


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

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def read(self, index: int) -> Tensor:
        """The scene, ``(3, H, W)`` in [-1, 1]."""
        return render(self.task, self.domain, self.seed, self.first + index, self.side)
