"""Serve a folder that `make export` wrote, by ONNX Runtime or OpenVINO; neither torch nor diffusers is imported.

Such a folder holds export.json (`Manifest`), one model per direction, the trained prompts' embeddings
(prompts.safetensors), the adapter's card (adapter.json) and the measured difference to PyTorch (parity.json).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from images.ranges import Array
from inference.backends import Backend, Training
from prompt_embeddings import DIRECTIONS, PROMPTS, PromptEmbeddings
from storage import digest, read_json, shortened

FORMAT = 1
MANIFEST = "export.json"
MANIFEST_BYTES = 1 << 20  # it has some kilobytes
IMAGE, EMBEDDING, TRANSLATED = "image", "embedding", "translated"  # names of the graph's inputs and output
CARD, PARITY = "adapter.json", "parity.json"
EXPORTS = {"onnx": ("float32",), "openvino": ("float32", "bfloat16", "int8")}
"""Precisions by backend."""
SUFFIXES = {"onnx": (".onnx", ".onnx.data"), "openvino": (".xml", ".bin")}  # of a model: its graph, its weights
NAMES = {
    *(MANIFEST, CARD, PARITY, PROMPTS, "metrics.json", "report.html"),
    *(f"{direction}{suffix}" for direction in DIRECTIONS for pair in SUFFIXES.values() for suffix in pair),
}
"""Every file that an exported folder may have, the results of its evaluation included."""
MAX_TOKENS, MAX_WIDTH, MAX_MULTIPLE = 4096, 65_536, 256
DIGEST_DIGITS = 64

Inputs = dict[str, Array]
Model = Callable[[Inputs], Array]
"""A compiled graph: inputs by name => the translated images."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of export.json.

    Attributes:
        backend: "onnx" or "openvino".
        precision: "float32", "bfloat16" or "int8": of the computation.
        base: one line on the base that the weights came from.
        multiple: heights and widths of the graph's images are multiples of it.
        tokens: L of an embedding ``(L, D)``; 0 where the graph reads no prompt.
        width: D likewise.
        prompts: trained prompt by direction.
        directions: SHA-256 of each file of the model, by file name, by direction.
        embeddings: SHA-256 of prompts.safetensors; None where the graph reads no prompt.
        versions: of Python and of the packages that wrote the folder.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    backend: str
    precision: str
    base: str
    multiple: int
    tokens: int
    width: int
    prompts: Mapping[str, str]
    directions: Mapping[str, Mapping[str, str]]
    embeddings: str | None
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Validate."""
        known = EXPORTS.get(self.backend) if isinstance(self.backend, str) else None
        _require(known is not None, "backend", " or ".join(EXPORTS), self.backend)
        assert known is not None
        _require(self.precision in known, f"precision of {self.backend}", " or ".join(known), self.precision)
        _require(isinstance(self.base, str) and len(self.base) <= 10_000, "base", "a text", self.base)
        for name, low, high in (("multiple", 1, MAX_MULTIPLE), ("tokens", 0, MAX_TOKENS), ("width", 0, MAX_WIDTH)):
            value = getattr(self, name)
            fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
            _require(fits, name, f"an integer from {low} to {high:,}", value)
        _require((self.tokens == 0) == (self.width == 0), "tokens and width", "both 0 or neither", self.width)
        for name in ("prompts", "versions"):
            texts = getattr(self, name)
            fits = isinstance(texts, Mapping) and all(isinstance(text, str) for text in texts.values())
            _require(fits, name, "texts by name", texts)
        fits = isinstance(self.directions, Mapping) and bool(self.directions) and {*self.directions} <= {*DIRECTIONS}
        _require(fits, "directions", f"an object of {' and '.join(DIRECTIONS)}", self.directions)
        _require({*self.prompts} <= {*self.directions}, "prompts", "given by direction", self.prompts)
        for direction, files in self.directions.items():
            graph, weights = (f"{direction}{suffix}" for suffix in SUFFIXES[self.backend])
            allowed = ({graph, weights}, {graph} if self.backend == "onnx" else {graph, weights})
            fits = isinstance(files, Mapping) and {*files} in allowed and all(map(_is_digest, files.values()))
            _require(fits, f"files of {direction}", f"the SHA-256 of {graph} and {weights}", files)
        fits = self.embeddings is None if self.tokens == 0 else _is_digest(self.embeddings)
        _require(fits, "embeddings", f"the SHA-256 of {PROMPTS}, or null without tokens", self.embeddings)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and validate the export.json of a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, of another format, or a value is invalid; one line.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"No exported model in {folder}: looked for {MANIFEST} there.")
        content = read_json(path, MANIFEST_BYTES)
        if (found := content.pop("format", None)) != FORMAT or isinstance(found, bool):
            raise ValueError(
                f"{path} has format {shortened(found)}; this version reads format {FORMAT}. Export the adapter again."
            )
        try:
            return cls(**content)
        except TypeError as error:  # a missing or an unknown key
            raise ValueError(f"{path} cannot be read: {str(error).removeprefix('Manifest.__init__() ')}.") from error
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def to_json(self) -> dict[str, object]:
        """Content of export.json."""
        return {
            "format": FORMAT,
            "backend": self.backend,
            "precision": self.precision,
            "base": self.base,
            "multiple": self.multiple,
            "tokens": self.tokens,
            "width": self.width,
            "prompts": dict(self.prompts),
            "directions": {direction: dict(files) for direction, files in self.directions.items()},
            "embeddings": self.embeddings,
            "versions": dict(self.versions),
        }


class ExportedBackend(Backend):
    """An exported folder; see `Backend`.  A direction's model is opened when it is first used.

    Args:
        folder: that `make export` wrote.
        precision: "auto", or the one that it was exported at.
        device: "auto" is the CPU; else a device of the backend, such as "cpu".

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is damaged or of another version, the precision is another, the backend's package is not
            installed, or there is no such device.
    """

    trained_only = True

    def __init__(self, folder: str | Path, precision: str = "auto", device: str = "auto") -> None:
        self.folder = Path(folder)
        self._manifest = manifest = Manifest.read(self.folder)
        if precision not in ("auto", manifest.precision):
            raise ValueError(
                f"{folder} was exported at {manifest.precision}, so it cannot compute at {precision}: leave precision "
                f"out, or export the adapter again (precision={precision})."
            )
        card = read_json(self.folder / CARD, MANIFEST_BYTES)
        self._embeddings = self._read_embeddings()
        self._open, self.device = _opener(manifest.backend, device)
        self.name, self.precision, self.multiple = manifest.backend, manifest.precision, manifest.multiple
        self.prompts, self.directions = manifest.prompts, tuple(manifest.directions)
        self.base_description = manifest.base
        self.base_fingerprint = str(card.get("base_fingerprint"))
        self.weights = digest(json.dumps(manifest.to_json(), sort_keys=True))
        self.training = Training.from_card(card)
        self._models: dict[str, Model] = {}
        self.weight_bytes = 0

    def embed(self, prompts: Sequence[str]) -> Array:
        """Embeddings of trained prompts, which are all that a folder holds.

        Args:
            prompts: n texts.

        Returns:
            ``(n, L, D)``; ``(n, 0, 0)`` where the model reads no prompt.

        Raises:
            ValueError: a text is none of `prompts`.
        """
        if self._embeddings is None:
            return np.empty((len(prompts), 0, 0), np.float32)
        known = {text: self._embeddings.values[direction] for direction, text in self.prompts.items()}
        for text in prompts:
            if text not in known:
                raise ValueError(
                    f"Unknown prompt {shortened(text)}: {self.folder} was exported with "
                    f"{' and '.join(map(repr, known))} only. Leave the prompt out, or translate by the adapter."
                )
        return np.stack([known[text] for text in prompts])

    def release(self) -> None:
        """Do nothing: there is no text encoder."""

    def translate(
        self,
        images: Array,
        embedding: Array,
        direction: str,
        strength: float = 1.0,
        seed: int = 0,
    ) -> Array:
        """Translate a batch.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1], H and W multiples of `multiple`.
            embedding: ``(1, L, D)`` or ``(B, L, D)``.
            direction: "a2b" or "b2a".
            strength: must be 1.
            seed: not read.

        Returns:
            ``(B, 3, H, W)`` in [-1, 1].

        Raises:
            ValueError: an unknown direction, a strength below 1, or the model's files are damaged or fail to compute.
        """
        if strength != 1:
            raise ValueError(
                f"strength={strength:g} needs the adapter: an exported model translates at strength 1, since its LoRA "
                "is merged."
            )
        if direction not in self.directions:
            raise ValueError(
                f"Unknown direction {direction!r}: {self.folder} was exported for {' and '.join(self.directions)}."
            )
        model = self._models.get(direction) or self._opened(direction)
        inputs = {IMAGE: np.ascontiguousarray(images)}
        if self._embeddings is not None:
            shape = (len(images), *embedding.shape[1:])
            inputs[EMBEDDING] = np.ascontiguousarray(np.broadcast_to(embedding, shape))
        try:
            result = model(inputs)
        except Exception as error:  # of whatever kind a runtime raises
            count, _, height, width = images.shape
            raise ValueError(
                f"{self.folder} could not translate {count} x {width} x {height} pixels: {_reason(error)}."
            ) from error
        if result.shape != images.shape or result.dtype != np.float32:
            raise ValueError(
                f"{self.folder} is damaged: its {direction} gives {result.dtype} {result.shape} for {images.shape}."
            )
        return result

    def _read_embeddings(self) -> PromptEmbeddings | None:
        manifest, path = self._manifest, self.folder / PROMPTS
        if manifest.embeddings is None:
            return None
        found = PromptEmbeddings.read(path)
        _check_digest(path, manifest.embeddings)
        shapes = {value.shape for value in found.values.values()}
        if shapes != {(manifest.tokens, manifest.width)} or dict(found.prompts) != dict(manifest.prompts):
            raise ValueError(f"{path} holds other prompts than {MANIFEST} names. Export the adapter again.")
        return found

    def _opened(self, direction: str) -> Model:
        for name, wanted in self._manifest.directions[direction].items():
            _check_digest(self.folder / name, wanted)
        path = self.folder / f"{direction}{SUFFIXES[self.name][0]}"
        inputs = {IMAGE} if self._embeddings is None else {IMAGE, EMBEDDING}
        try:
            model, found = self._open(path, self.precision)
        except Exception as error:  # of whatever kind a runtime raises that reads a file which is none of its own
            raise ValueError(f"{path} is damaged, or no model: {_reason(error)}.") from error
        if found != inputs:
            raise ValueError(f"{path} is refused: it takes {shortened(sorted(found))}, not {sorted(inputs)}.")
        self._models[direction] = model
        self.weight_bytes += sum((self.folder / name).stat().st_size for name in self._manifest.directions[direction])
        return model


Opener = Callable[[Path, str], tuple[Model, set[str]]]


def _opener(backend: str, device: str) -> tuple[Opener, str]:
    """What opens model files at a precision, and the device's name; libraries are imported here.

    Raises:
        ValueError: the package is not installed, or there is no such device.
    """
    module: Any = import_module(f"inference.backends.{backend}")
    runtime, name = module.load_runtime(device)
    return partial(module.open_model, runtime), name


def _reason(error: Exception) -> str:
    """What a runtime says; OpenVINO names places of its sources first."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return shortened(lines[-1])


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return digest(iter(lambda: file.read(1 << 20), b""), DIGEST_DIGITS)


def _check_digest(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {MANIFEST} names it. Export the adapter again.")
    if file_digest(path) != wanted:
        raise ValueError(f"{path} is damaged: it is not the file that {MANIFEST} names. Export the adapter again.")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{DIGEST_DIGITS}}}", value) is not None


def _require(fits: bool, name: str, wanted: str, value: object) -> None:
    if not fits:
        raise ValueError(f"{name} must be {wanted}, got {shortened(value)}.")
