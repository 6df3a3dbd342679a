"""High resolution: translate an image that is larger than those that an adapter was trained on; numpy and cv2 only.

``direct`` gives the network the whole image.  ``lift`` gives it the image at the trained size, and carries the change
to full resolution by local affine colour models of the full-resolution image: the fast guided filter (He & Sun 2015,
arXiv 1505.00996, eq. 3 to 6) with a colour guide (He et al. 2013, "Guided Image Filtering", Sec. 3.4); in a video, the
models are averaged over time.  ``tiles`` gives it overlapping tiles of the whole image, larger than the trained size,
and blends their results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from images.ranges import Array
from images.resizing import check_resized, resized_shape
from inference.backends import Training
from storage import atomic_write, did_you_mean

RESOLUTIONS = ("auto", "lift", "tiles", "direct")
UNKNOWN_SIZE = 512
"""Short side at which an adapter translates whose card does not tell the trained one: SD-Turbo's own, pixels."""
MEGAPIXEL = 1024 * 1024  # pixels; what one call of the network takes at most where no size was given

RADIUS = 4  # of lift's windows, pixels of the small image
EPSILON = 1e-3  # ridge penalty of lift's models, for colours in [-1, 1]
STRIP = 1 << 18  # pixels that are lifted at once
BEFORE = 0.5  # weight of the models before, where nothing changed
# Changes of the input, in [-1, 1], by which that weight falls to 1 / e: in a window, and on average over the image.
LOCAL_CHANGE, WHOLE_CHANGE = 0.2, 0.1
OVERLAP = 3  # neighbouring tiles share at least 1 / OVERLAP of their side
TILE, MOST_TILE = 2, 768  # side of a tile: so many times the trained size, and pixels at most
BESIDE = 8  # pixels from a seam up to which gradients are compared with it

Shape = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Layout:
    """How an image is translated.

    Attributes:
        mode: "lift", "tiles" or "direct".
        shape: height and width of the result, pixels.
        network_shape: those of what the network gets: the whole image, the small one of lift, or one tile.
    """

    mode: str
    shape: Shape
    network_shape: Shape

    def __str__(self) -> str:
        """What is done, for logs: "lift from 128 x 192"."""
        height, width = self.network_shape
        return {"direct": "direct", "lift": f"lift from {width} x {height}"}.get(
            self.mode, f"tiles of {width} x {height}"
        )


def choose_layout(
    resolution: str, image: object, shape: Shape, size: int | None, training: Training, draws_lines: bool
) -> Layout:
    """Choose how to translate an image.

    Args:
        resolution: one of `RESOLUTIONS`.
        image: its name, for messages.
        shape: height and width of the image, pixels.
        size: short side of the result, pixels; None keeps the image's own.
        training: what the adapter's card tells.
        draws_lines: whether the input is a line drawing.

    Raises:
        ValueError: there is no such resolution, the image is too large for it, or it cannot work for this input.
    """
    check_resolution(resolution)
    if resolution == "lift" and draws_lines:
        raise ValueError(
            "resolution=lift carries a change of colours to full resolution, which a line drawing has none of: "
            "use tiles or direct."
        )
    height, width = shape if size is None else check_resized(f"{image}", *shape, size)
    best = training.size or UNKNOWN_SIZE
    mode = resolution
    if mode == "auto":
        mode = "direct" if min(height, width) <= best else training.resolution
    if mode == "tiles":
        side = max(best, min(TILE * best, MOST_TILE))
        return Layout(mode, (height, width), (min(side, height), min(side, width)))
    network = (height, width)
    if mode == "lift":
        network = resized_shape(height, width, min(best, height, width))
    elif size is not None:
        return Layout(mode, network, network)
    if network[0] * network[1] > MEGAPIXEL:
        raise ValueError(
            f"{image} has {width} x {height} pixels, and the network would get {network[1]} x {network[0]}. Above one "
            "megapixel its memory and time grow steeply, far from the sizes trained at: say at which size to "
            "translate, e.g. 512 (short side, pixels), or resolution=tiles."
        )
    return Layout(mode, (height, width), network)


def check_resolution(name: str) -> None:
    """Refuse a resolution that is not known.

    Raises:
        ValueError: names those that are.
    """
    if name not in RESOLUTIONS:
        raise ValueError(
            f"Unknown resolution={name!r}.{did_you_mean(name, RESOLUTIONS)} Known: {', '.join(RESOLUTIONS)}."
        )


@dataclass(frozen=True)
class AffineModels:
    """Local affine models of a colour change: in each place, ``change = A colour + b``.

    Attributes:
        coefficients: ``(h, w, 12)``, for each channel of the change the three factors of a row of A, then its b.
    """

    coefficients: Array

    @classmethod
    def fit(cls, image: Array, translated: Array, radius: int = RADIUS, epsilon: float = EPSILON) -> "AffineModels":
        """Fit the change in the window around each pixel, then average the models of all windows that hold a pixel.

        The change is modelled, not the result: the ridge penalty then pulls towards keeping the image's detail.

        Args:
            image: ``(3, h, w)`` in [-1, 1].
            translated: its translation, likewise.
            radius: of the square windows, pixels.
            epsilon: ridge penalty on the factors.
        """
        colour = np.ascontiguousarray(image.transpose(1, 2, 0))
        change = np.ascontiguousarray(translated.transpose(1, 2, 0)) - colour
        mean, mean_change = _window_mean(colour, radius), _window_mean(change, radius)
        both = np.concatenate([colour, change], axis=2)
        products = _window_mean((colour[..., :, None] * both[..., None, :]).reshape(*colour.shape[:2], 18), radius)
        products = products.reshape(*colour.shape[:2], 3, 6)
        products -= mean[..., :, None] * np.concatenate([mean, mean_change], axis=2)[..., None, :]
        covariance = products[..., :3] + np.float32(epsilon) * np.eye(3, dtype=np.float32)
        factors = np.linalg.solve(covariance, products[..., 3:])  # (h, w, colour, change)
        offset = mean_change - (mean[..., None, :] @ factors)[..., 0, :]
        models = np.concatenate([factors.swapaxes(2, 3), offset[..., None]], axis=3)
        return cls(_window_mean(models.reshape(*colour.shape[:2], 12).astype(np.float32), radius))

    def apply(self, image: Array) -> Array:
        """Add the change to an image of any resolution; the models are interpolated bilinearly.

        Args:
            image: ``(3, H, W)`` in [-1, 1], of the whole view that the models were fitted on.

        Returns:
            ``(3, H, W)`` in [-1, 1].
        """
        _, height, width = image.shape
        result = np.empty_like(image)
        rows = max(1, STRIP // width)
        for top in range(0, height, rows):
            strip = image[:, top : top + rows]
            models = self._rows(top, strip.shape[1], height, width)
            for channel in range(3):
                a, b, c, offset = (models[..., 4 * channel + k] for k in range(4))
                result[channel, top : top + rows] = strip[channel] + a * strip[0] + b * strip[1] + c * strip[2] + offset
        return result.clip(-1, 1, out=result)

    def _rows(self, top: int, count: int, height: int, width: int) -> Array:
        """Models of some rows of an image of height x width, ``(count, width, 12)``."""
        small_height = len(self.coefficients)
        place = ((np.arange(top, top + count, dtype=np.float32) + 0.5) * (small_height / height) - 0.5).clip(
            0, small_height - 1
        )
        above = place.astype(int)
        below = np.minimum(above + 1, small_height - 1)
        share = (place - above).astype(np.float32)[:, None, None]
        rows = self.coefficients[above] * (1 - share) + self.coefficients[below] * share
        # Same number of rows, so this interpolates along them only.
        return np.asarray(cv2.resize(rows, (width, count), interpolation=cv2.INTER_LINEAR), np.float32)


@dataclass
class SmoothedModels:
    """Averages lift's models over the frames of a video, so that the result flickers less.

    The weight of the models before is ``BEFORE * exp(-(d / LOCAL_CHANGE)^2 - (D / WHOLE_CHANGE)^2)``: d is the absolute
    difference of the input to the frame before, averaged over a window, D over the image.  So it falls where something
    moves, and to nothing at a cut, also where both scenes have the same colour.

    Attributes:
        image: input of the last frame at the trained size, ``(3, h, w)`` in [-1, 1]; None before the first.
        models: its averaged models; None before the first.
    """

    image: Array | None = None
    models: AffineModels | None = None

    def add(self, image: Array, models: AffineModels) -> AffineModels:
        """Average a frame's models with those of the frames before.

        Args:
            image: ``(3, h, w)`` in [-1, 1], of one shape for all frames.
            models: fitted on it.
        """
        if self.image is not None and self.models is not None:
            change = np.abs(image - self.image).mean(axis=0)[..., None]
            local, whole = _window_mean(change, RADIUS) / LOCAL_CHANGE, change.mean() / WHOLE_CHANGE
            weight = BEFORE * np.exp(-np.square(local) - np.square(whole))
            models = AffineModels(weight * self.models.coefficients + (1 - weight) * models.coefficients)
        self.image, self.models = image, models
        return models

    def write(self, path: Path) -> None:
        """Write the state after the last frame, which `read` goes on from; nothing before the first.

        Raises:
            OSError: the disk is full, read-only or gone.
        """
        if self.image is not None and self.models is not None:
            with atomic_write(path) as part, part.open("wb") as file:
                np.savez(file, image=self.image, coefficients=self.models.coefficients)

    @classmethod
    def read(cls, path: Path) -> "SmoothedModels":
        """The state that was written; without a file, the one before the first frame."""
        if not path.is_file():
            return cls()
        with np.load(path) as arrays:
            return cls(arrays["image"], AffineModels(arrays["coefficients"]))


def _window_mean(values: Array, radius: int) -> Array:
    """Means over square windows, ``(h, w, C)``; windows are mirrored at the border."""
    side = 2 * radius + 1
    mean = cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT)
    return np.asarray(mean, np.float32).reshape(values.shape)


def translate_tiles(image: Array, tile: Shape, batch: int, translate: Callable[[Array], Array]) -> Array:
    """Translate an image by overlapping tiles and blend the results.

    Args:
        image: ``(3, H, W)`` in [-1, 1].
        tile: height and width of a tile, pixels, at most those of the image.
        batch: tiles translated together.
        translate: the network: ``(n, 3, h, w)`` => the same, in [-1, 1].

    Returns:
        ``(3, H, W)`` in [-1, 1].
    """
    (tops, weights_y), (lefts, weights_x) = (
        _places(side, part) for side, part in zip(image.shape[1:], tile, strict=True)
    )
    places = [(y, x) for y in range(len(tops)) for x in range(len(lefts))]
    result = np.zeros_like(image)
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        windows = [
            (slice(None), slice(tops[y], tops[y] + tile[0]), slice(lefts[x], lefts[x] + tile[1])) for y, x in some
        ]
        translated = translate(np.stack([image[window] for window in windows]))
        for (y, x), window, one in zip(some, windows, translated, strict=True):
            result[window] += one * (weights_y[y][:, None] * weights_x[x])
    return result.clip(-1, 1, out=result)


def _places(side: int, tile: int) -> tuple[list[int], Array]:
    """Where tiles start along one side, evenly spread, and their blending weights ``(tiles, tile)``.

    The weights of all tiles on a pixel sum to 1; they rise linearly over the overlap.
    """
    overlap = tile // OVERLAP
    count = 1 if side <= tile else -(-(side - overlap) // (tile - overlap))
    starts = np.linspace(0, side - tile, count).round().astype(int).tolist()
    # Distance to the nearer end of the tile, up to the overlap; ends at the image's border do not fade.
    place = np.arange(tile, dtype=np.float32) + 0.5
    weights = np.empty((count, tile), np.float32)
    total = np.zeros(side, np.float32)
    for k, start in enumerate(starts):
        left = place if k > 0 else np.full_like(place, overlap)
        right = place[::-1] if k < count - 1 else np.full_like(place, overlap)
        weights[k] = np.minimum(np.minimum(left, right), overlap) if overlap else 1
        total[start : start + tile] += weights[k]
    for k, start in enumerate(starts):
        weights[k] /= total[start : start + tile]
    return starts, weights


def seam_gradients(image: Array, tile: Shape) -> tuple[float, float]:
    """Mean absolute gradients across the lines where tiles start or end, and across the lines beside them.

    A seam raises the first alone; what the image shows, on average over several images, raises both.

    Args:
        image: ``(3, H, W)``, of more than one tile.
        tile: height and width of the tiles, pixels, as in `translate_tiles`.
    """
    at_seams, beside = [], []
    for axis, part in ((1, tile[0]), (2, tile[1])):
        gradient = np.abs(np.diff(image, axis=axis)).mean(axis=(0, 3 - axis))
        side = image.shape[axis]
        starts, _ = _places(side, part)
        seams = [line - 1 for start in starts for line in (start, start + part) if 0 < line < side]
        distance = np.abs(np.arange(side - 1)[:, None] - np.array(seams, int)).min(axis=1, initial=side)
        at_seams.append(gradient[distance == 0])
        beside.append(gradient[(distance > 1) & (distance <= BESIDE)])
    return float(np.concatenate(at_seams).mean()), float(np.concatenate(beside).mean())
