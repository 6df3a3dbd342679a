"""Measure how much an exported model differs from PyTorch at float32, and refuse it beyond a tolerance."""

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from images.ranges import Array
from metrics.fid import frechet_distance
from metrics.functions import DescribedImages
from metrics.kid import kernel_distance
from networks.features import FeatureNetwork

Figures = dict[str, float]
ENOUGH = 64  # images from which on FID and KID are computed
PACKAGES = ("torch", "diffusers", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
PIXEL = 1.0  # 8-bit steps
TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "float32": {"max_difference": 1 * PIXEL},
    "bfloat16": {"mean_difference": 1.5 * PIXEL, "lpips": 0.01},
    "int8": {"lpips": 0.02, "fid_change": 0.05},
}
"""Largest allowed figure by precision; `fid_change` holds where FID is computed."""


class BeyondToleranceError(Exception):
    """An exported model differs from PyTorch by more than its precision may."""


class DirectionParity:
    """Compares both translations of the images of one direction.

    Args:
        lpips: network of the perceptual distance.
        features: network of FID and KID; None leaves them out.
        real: features of real images of the target domain, ``(n, D)``; None where there are none.
    """

    def __init__(self, lpips: FeatureNetwork, features: FeatureNetwork | None, real: Tensor | None = None) -> None:
        self.lpips, self.features, self.real = lpips, features, real
        self._differences: list[tuple[float, float, float]] = []
        self._embeddings: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, wanted: Array, found: Array) -> None:
        """Add one image.

        Args:
            wanted: by PyTorch, ``(1, 3, H, W)`` in [-1, 1].
            found: by the exported model, same shape.
        """
        a, b = (DescribedImages(torch.from_numpy(np.ascontiguousarray(image))) for image in (wanted, found))
        steps = (a.pixels.int() - b.pixels.int()).abs().float()
        distance = self.lpips.distance(a.stages(self.lpips), b.stages(self.lpips))
        self._differences.append((float(steps.max()), float(steps.mean()), float(distance)))
        if self.features is not None:
            self._embeddings.append((a.embedding(self.features), b.embedding(self.features)))

    def figures(self, pytorch: Sequence[float], exported: Sequence[float]) -> Figures:
        """Figures of parity.json; pixel differences in 8-bit steps, LPIPS as the mean over images.

        Args:
            pytorch: seconds of each image by PyTorch; the median is reported.
            exported: likewise, by the exported model.
        """
        most, mean, distance = zip(*self._differences, strict=True)
        found: Figures = {
            "images": len(most),
            "max_difference": max(most),
            "mean_difference": statistics.fmean(mean),
            "lpips": statistics.fmean(distance),
            "seconds_per_image_pytorch": statistics.median(pytorch),
            "seconds_per_image": statistics.median(exported),
        }
        if len(self._embeddings) >= ENOUGH:
            before, after = (torch.cat(rows) for rows in zip(*self._embeddings, strict=True))
            found |= _distances("to_pytorch", before, after)
            if self.real is not None:
                found |= _distances("pytorch", self.real, before) | _distances("", self.real, after)
                found["fid_change"] = abs(found["fid"] - found["fid_pytorch"]) / found["fid_pytorch"]
        return found


def _distances(of: str, real: Tensor, fake: Tensor) -> Figures:
    values = {"fid": frechet_distance(real, fake), "kid": kernel_distance(real, fake)[0]}
    return {f"{name}_{of}".rstrip("_"): float(value) for name, value in values.items()}


def timed(translate: Callable[[], Array], seconds: list[float]) -> Array:
    """Translate, and append how long it took."""
    start = time.perf_counter()
    result = translate()
    seconds.append(time.perf_counter() - start)
    return result


def described(network: FeatureNetwork, batches: Iterable[Tensor]) -> Tensor:
    """Features of images ``(B, 3, H, W)`` in [-1, 1], ``(n, D)``."""
    with torch.no_grad():
        return torch.cat([DescribedImages(batch).embedding(network) for batch in batches])


def check_tolerance(precision: str, direction: str, figures: Figures) -> None:
    """Refuse figures beyond the tolerance of a precision.

    Raises:
        BeyondToleranceError: one line with the figure and its limit.
    """
    for name, limit in TOLERANCES[precision].items():
        value = figures.get(name)
        if value is not None and not value <= limit:  # NaN is beyond
            raise BeyondToleranceError(
                f"{direction} at {precision} differs from PyTorch by {name} {value:.4g}, allowed is {limit:g} "
                f"(over {figures['images']} images; pixels in 8-bit steps). Nothing was written."
            )


def versions() -> dict[str, str]:
    """Of Python and of the packages that convert and run."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
