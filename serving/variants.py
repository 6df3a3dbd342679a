"""Translations of a photograph as the web page shows them: files of several seeds, and a line on how they were made."""

import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from images.ranges import Array
from images.reading import read_image_with_alpha
from images.resizing import resize
from images.writing import encode_image
from inference import Translator
from serving.catalogue import Facts
from serving.models import LoadedModels

BACKENDS = {"torch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
KEPT = 50  # folders of results and previews; the oldest is removed
PREVIEW = 1600  # pixels of the long side of what the page shows; the download has all


@dataclass(frozen=True)
class Variant:
    """One translation, as files.

    Attributes:
        label: what tells it from the others, or empty.
        preview: JPEG of at most `PREVIEW` pixels.
        full: PNG of all pixels.
    """

    label: str
    preview: Path
    full: Path


@dataclass(frozen=True)
class Result:
    """Translations of one image.

    Attributes:
        before: preview of what was translated.
        variants: at least one.
        summary: time, backend and resolution in one line.
    """

    before: Path
    variants: Sequence[Variant]
    summary: str


class DemoTranslator:
    """What the page does, without its widgets.

    Args:
        models: what is served.
        facts: of each name.
        folder: for uploads and the files that the page shows; the caller removes it.
    """

    def __init__(self, models: LoadedModels, facts: Mapping[str, Facts], folder: Path) -> None:
        self._models, self._facts, self._folder = models, dict(facts), folder
        self._made: deque[Path] = deque()

    @property
    def names(self) -> tuple[str, ...]:
        """What can be chosen."""
        return tuple(self._facts)

    def facts(self, name: str) -> Facts:
        """Facts of a model; a checkpoint has to be loaded for them.

        Raises:
            OSError: see `Translator.load`.
            ValueError: likewise.
        """
        known = self._facts[name]
        if not known.directions:
            backend = self._models.get(name).backend
            known = self._facts[name] = replace(
                known,
                base=backend.base_description,
                directions=tuple(backend.directions),
                prompts=dict(backend.prompts),
                training=backend.training,
            )
        return known

    def check_uploaded(self, photo: Path) -> None:
        """Refuse another file of this machine: requests name files by their paths.

        Raises:
            ValueError: it is not in the folder for uploads.
        """
        if not photo.resolve().is_relative_to(self._folder.resolve()):
            raise ValueError(f"{photo.name} was not uploaded here.")

    def translate(
        self,
        photo: Path,
        name: str,
        direction: str,
        prompt: str | None = None,
        draw_lines: bool = False,
        strength: float = 1.0,
        variants: int = 1,
        seed: int = 0,
        size: int | None = None,
        resolution: str = "auto",
    ) -> Result:
        """Translate an image file; see `Translator.__call__`.

        Args:
            photo: the file, in the folder for uploads.
            name: of the model.
            direction: "a2b" or "b2a".
            prompt: None or blank takes the trained one.
            draw_lines: whether the adapter's kind of lines is drawn from the image first.
            strength: in [0, 1]; 1 gives one variant.
            variants: number of them, with seeds from `seed` on.
            seed: see above.
            size: short side, pixels.
            resolution: see `Translator.__call__`.

        Raises:
            OSError: model or file is not there.
            ValueError: the file is no image, or an argument is out of range.
            MemoryError: the device's memory does not suffice.
        """
        self.check_uploaded(photo)
        facts = self.facts(name)
        started = time.monotonic()
        translator = self._models.get(name)
        loaded = time.monotonic()
        lines = facts.training.line_drawing if draw_lines else "none"
        prepared = translator.prepare(photo, size, lines, resolution)
        folder = self._new_folder()
        stem = f"{_file_name(photo.stem)}-{name}-{direction}"
        shown, seconds = [], time.monotonic() - loaded
        for one in range(seed, seed + (variants if strength < 1 else 1)):
            begin = time.monotonic()
            (output,) = translator.compute([prepared], prompt or None, direction, strength, one)
            image = translator.finish(prepared, output)
            seconds += time.monotonic() - begin
            label, ending = (f"seed {one}", f"-{one}") if strength < 1 else ("", "")
            full, preview = folder / f"{stem}{ending}.png", folder / f"{stem}{ending}.jpg"
            full.write_bytes(encode_image(image, ".png", prepared.alpha))
            preview.write_bytes(_preview(image, prepared.alpha))
            shown.append(Variant(label, preview, full))
        before = folder / "before.jpg"
        before.write_bytes(_preview(prepared.image, prepared.alpha))
        summary = f"{seconds:.1f} s, {_computed_by(translator)}, {prepared.layout} px"
        if prepared.layout.mode == "direct":
            height, width = prepared.layout.shape
            summary = summary.replace("direct px", f"directly at {width} x {height} px")
        if loaded - started > 0.1:
            summary += f"; {loaded - started:.1f} s to load the model"
        return Result(before, shown, summary)

    def preview(self, photo: Path) -> Path:
        """A JPEG of at most `PREVIEW` pixels a side, of an image file that browsers do not show.

        Raises:
            OSError: there is no such file.
            ValueError: it cannot be decoded, or is too large.
        """
        file = self._new_folder() / "preview.jpg"
        file.write_bytes(_preview(*read_image_with_alpha(photo)))
        return file

    def _new_folder(self) -> Path:
        """A folder whose name nobody guesses: its files are served to whoever names them."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir()
        self._made.append(folder)
        while len(self._made) > KEPT:
            shutil.rmtree(self._made.popleft(), ignore_errors=True)
        return folder


def _preview(image: Array, alpha: Array | None) -> bytes:
    """JPEG of at most `PREVIEW` pixels a side, white through transparency.

    Args:
        image: ``(3, H, W)`` in [-1, 1].
        alpha: ``(1, H, W)`` in [0, 1], or None.
    """
    if alpha is not None:
        image = image * alpha + (np.float32(1) - alpha)
    height, width = image.shape[1:]
    share = min(1.0, PREVIEW / max(height, width))
    return encode_image(resize(image, (max(1, round(height * share)), max(1, round(width * share)))), ".jpg")


def _computed_by(translator: Translator) -> str:
    backend = translator.backend
    return f"{BACKENDS.get(backend.name, backend.name)} {backend.precision} on {backend.device}"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)[:80] or "image"
