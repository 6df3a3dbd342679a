"""The images of an evaluation with their scores, as small JPEGs for the report."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image
from torch import Tensor

from datamodules.batches import Translation
from evaluation.collapse import Floors
from images.ranges import to_pixels
from images.resizing import resize_short_side

THUMBNAIL = 256  # pixels of the short side at most
FAILURES = {
    "saturated": "a tenth of the pixels or more at 0 or 255, and twice as many as in the input",
    "near-duplicate": "the nearest other translation is nearer than a fifth of the inputs' usual distance",
    "copy": f"nearer to the input than a tenth of the usual identity gap, or than {Floors.identity}",
}


@dataclass
class Record:
    """A translated image with its scores.

    Attributes:
        name: of the input.
        images: JPEG, base64, by "real", "fake" and, where there is ground truth, "truth".
        saturated: share of pixels at 0 or 255 in all channels, of the translation and of the input.
        scores: by name; see `TranslationMetrics.per_image`.
    """

    name: str
    images: dict[str, str]
    saturated: tuple[float, float]
    scores: dict[str, float] = field(default_factory=dict)

    def failures(self, usual_nearest: float, usual_gap: float) -> list[str]:
        """Keys of `FAILURES` that apply.

        Args:
            usual_nearest: median distance of an input to the nearest other one.
            usual_gap: median identity gap.
        """
        fake, real = self.saturated
        found = {
            "saturated": fake >= 0.1 and fake >= 2 * real,
            "near-duplicate": self.scores.get("nearest", usual_nearest) < 0.2 * usual_nearest,
            # The floor finds copies where copying is usual.
            "copy": self.scores.get("identity_gap", math.inf) < max(0.1 * usual_gap, Floors.identity),
        }
        return [name for name, applies in found.items() if applies]


class Gallery:
    """Collects the images of one direction as the evaluation goes; memory: three small JPEGs per image."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}

    def add(self, done: Translation) -> None:
        """Add a batch of translations."""
        for k, place in enumerate(done.index.tolist()):
            found = {"real": done.real[k], "fake": done.fake[k]}
            if done.truth is not None:
                found["truth"] = done.truth[k]
            images = {role: _jpeg(image) for role, image in found.items()}
            self._records[place] = Record(done.names[k], images, (_saturated(done.fake[k]), _saturated(done.real[k])))

    def records(self, per_image: Mapping[str, Tensor]) -> list[Record]:
        """All images in the order of the split, with their scores.

        Args:
            per_image: `(n,)` by name, ordered by index.
        """
        ordered = [record for _, record in sorted(self._records.items())]
        for name, values in per_image.items():
            for record, value in zip(ordered, values.tolist(), strict=True):
                if value == value:  # not NaN
                    record.scores[name] = value
        return ordered


def _jpeg(image: Tensor) -> str:
    small = image.float().clamp(-1, 1).cpu().numpy()
    if min(small.shape[-2:]) > THUMBNAIL:
        small = resize_short_side(small, THUMBNAIL)
    buffer = BytesIO()
    Image.fromarray(to_pixels(small)).save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def _saturated(image: Tensor) -> float:
    levels = ((image.float() + 1) * 127.5).round()
    return float(((levels <= 0) | (levels >= 255)).all(dim=0).float().mean())
