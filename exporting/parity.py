"""Measure how much an exported model differs from PyTorch at float32, and refuse it beyond a tolerance."""

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics.fid import frechet_distance
from metrics.functions import DescribedImages
from metrics.kid import kernel_distance
from networks.features import FeatureNetwork

Image = NDArray[np.float32]
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


@dataclass
class DirectionParity:
    """Both translations of the images of one direction.

    Args:
        lpips: network of the perceptual distance.
        features: network of FID and KID.
        real: features of real images of the target domain, ``(n, D)``; None where there are none.

    Attributes:
        pytorch: seconds of each image by PyTorch at float32.
        exported: seconds of each image by the exported model.
    """

    lpips: FeatureNetwork
    features: FeatureNetwork
    real: Tensor | None = None
    pytorch: list[float] = field(default_factory=list)
    exported: list[float] = field(default_factory=list)
    _differences: list[tuple[float, float, float]] = field(default_factory=list)
    _embeddings: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @torch.no_grad()
    def add(self, wanted: Image, found: Image) -> None:
        """Add one image.

        Args:
            wanted: by PyTorch, ``(1, 3, H, W)`` in [-1, 1].
            found: by the exported model, same shape.
        """
        a, b = (DescribedImages(torch.from_numpy(image)) for image in (wanted, found))
        steps = (a.pixels.int() - b.pixels.int()).abs().float()
        distance = self.lpips.distance(a.stages(self.lpips), b.stages(self.lpips))
        self._differences.append((float(steps.max()), float(steps.mean()), float(distance)))
        self._embeddings.append((a.embedding(self.features), b.embedding(self.features)))

    def figures(self) -> dict[str, float | int | None]:
        """Figures of parity.json; pixel differences in 8-bit steps, LPIPS as the mean over images."""
        most, mean, distance = zip(*self._differences, strict=True)
        found: dict[str, float | int | None] = {
            "images": len(most),
            "max_difference": max(most),
            "mean_difference": statistics.fmean(mean),
            "lpips": statistics.fmean(distance),
            "seconds_per_image_pytorch": statistics.median(self.pytorch),
            "seconds_per_image": statistics.median(self.exported),
        }
        if len(most) >= ENOUGH:
            wanted, exported = (torch.cat(rows) for rows in zip(*self._embeddings, strict=True))
            found["fid_to_pytorch"] = float(frechet_distance(wanted, exported))
            found["kid_to_pytorch"] = float(kernel_distance(wanted, exported)[0])
            if self.real is not None:
                before, after = (float(frechet_distance(self.real, rows)) for rows in (wanted, exported))
                found |= {"fid_pytorch": before, "fid": after, "fid_change": abs(after - before) / before}
                found |= {
                    "kid_pytorch": float(kernel_distance(self.real, wanted)[0]),
                    "kid": float(kernel_distance(self.real, exported)[0]),
                }
        return found


def timed(translate: Callable[[Image], Image], image: Image, seconds: list[float]) -> Image:
    """Translate an image and note how long it took."""
    start = time.perf_counter()
    result = translate(image)
    seconds.append(time.perf_counter() - start)
    return result


def described(network: FeatureNetwork, batches: Iterable[Tensor]) -> Tensor:
    """Features of images ``(B, 3, H, W)`` in [-1, 1], ``(n, D)``."""
    with torch.no_grad():
        return torch.cat([DescribedImages(batch).embedding(network) for batch in batches])


def check_tolerance(precision: str, direction: str, figures: Mapping[str, float | int | None]) -> None:
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
