"""Write a trained adapter as a folder that `inference.backends.exported` serves, once its parity is measured."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from exporting.conversion import multiple_of, quantize, to_openvino, to_program, write_onnx, write_openvino
from exporting.parity import ENOUGH, DirectionParity, Figures, check_tolerance, described, timed, versions
from images.ranges import Array
from inference.backends.exported import (
    CARD,
    EMBEDDING,
    IMAGE,
    MANIFEST,
    NAMES,
    PARITY,
    SUFFIXES,
    ExportedBackend,
    Inputs,
    Manifest,
    file_digest,
)
from inference.backends.torch import TorchBackend
from inference.processing import pad
from inference.translator import Translator
from networks import ImageTranslator, load_generator
from networks.checkpoints.card import Adapter
from networks.features import FeatureNetwork
from networks.one_step.prompts import PromptEncoder
from prompt_embeddings import PROMPTS, PromptEmbeddings
from storage import atomic_folder, write_json


@dataclass(frozen=True)
class Format:
    """What is written.

    Attributes:
        backend: "onnx" or "openvino".
        precision: one of the backend's in `inference.backends.exported.EXPORTS`.
        directions: those to convert.
        most_bytes: largest size of a direction's weights; None for any.
    """

    backend: str
    precision: str
    directions: Sequence[str]
    most_bytes: int | None = None


@dataclass(frozen=True)
class Samples:
    """What parity is measured on, and by which feature networks.

    Attributes:
        images: inputs by direction, each ``(3, H, W)`` in [-1, 1], of any size.
        lpips: network of the perceptual distance.
        features: network of FID and KID; None leaves them out.
        calibration: further inputs by direction, for the ranges of int8.
        real: real images of the target domain by direction, in batches ``(B, 3, H, W)``, for FID and KID.
    """

    images: Mapping[str, Sequence[Array]]
    lpips: FeatureNetwork
    features: FeatureNetwork | None = None
    calibration: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    real: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


def export_folder(
    adapter: Adapter,
    base: str | None,
    path: Path,
    wanted: Format,
    samples: Samples,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Figures]:
    """Convert, measure and write; the folder appears whole at the end, or not at all.

    Args:
        adapter: trained; its prompts are those that the folder can translate with.
        base: overrides the base that the adapter names.
        path: folder to write.
        wanted: backend, precision and directions.
        samples: what to measure on.
        say: takes lines of progress.

    Returns:
        The figures of parity.json by direction.

    Raises:
        ValueError: the adapter cannot be converted, does not fit the base, is larger than `wanted` allows, or has no
            prompt for a direction.
        BeyondToleranceError: the model differs too much from PyTorch.
        OSError: the disk is full.
    """
    with atomic_folder(path, NAMES.__contains__) as part:
        # One after the other: at full size each of the three models takes gigabytes.
        write_models(adapter, base, part, wanted, samples, say)
        say(f"translating {sum(map(len, samples.images.values()))} images by PyTorch and by {wanted.backend}")
        translated, seconds = {}, {}
        for name in ("pytorch", wanted.backend):
            backend = TorchBackend(adapter, "float32", "cpu", base) if name == "pytorch" else ExportedBackend(part)
            for direction, images in samples.images.items():
                taken: list[float] = []
                translated[name, direction] = [_translate(backend, direction, image, taken) for image in images]
                seconds[name, direction] = taken
            device = backend.device
            del backend
            gc.collect()
        figures = {}
        for direction in wanted.directions:
            features = samples.features if len(samples.images[direction]) >= ENOUGH else None
            real = samples.real.get(direction)
            parity = DirectionParity(
                samples.lpips, features, None if features is None or real is None else described(features, real)
            )
            for found in zip(*(translated[name, direction] for name in ("pytorch", wanted.backend)), strict=True):
                parity.add(*found)
            figures[direction] = parity.figures(*(seconds[name, direction] for name in ("pytorch", wanted.backend)))
            check_tolerance(wanted.precision, direction, figures[direction])
        about = {"backend": wanted.backend, "precision": wanted.precision, "device": device}
        networks = {"lpips": samples.lpips.name, "features": samples.features and samples.features.name}
        hashes = {name: file_digest(part / name) for name in sorted(file.name for file in part.iterdir())}
        write_json(part / PARITY, {**about, **networks, **figures, "files": hashes, "versions": versions()})
    return figures


def _translate(backend: TorchBackend | ExportedBackend, direction: str, image: Array, seconds: list[float]) -> Array:
    """Translate ``(3, H, W)`` by the trained prompt, where the model reads one, to ``(1, 3, H, W)``."""
    prompt = backend.prompts.get(direction, "")
    return timed(lambda: Translator(backend).translate(image[None], prompt, direction), seconds)


def write_models(
    adapter: Adapter, base: str | None, folder: Path, wanted: Format, samples: Samples, say: Callable[[str], None]
) -> None:
    """Write the models, the embeddings of their prompts, the card and export.json; nothing is measured.

    Args:
        adapter: see `export_folder`.
        base: likewise.
        folder: to write into.
        wanted: see `export_folder`.
        samples: whose calibration images int8 needs.
        say: takes lines of progress.

    Raises:
        ValueError: see `export_folder`.
        OSError: the disk is full.
    """
    write_json(folder / CARD, replace(adapter.card, exported={"format": wanted.backend}).to_json())
    generator = load_generator(adapter, base)
    multiple = multiple_of(generator)
    _check_bytes(generator, wanted.most_bytes)
    prompts = _embed(generator, wanted.directions)
    tokens, width = (0, 0) if prompts is None else next(iter(prompts.values.values())).shape
    generator = generator.merge().float()
    files = {}
    for direction in wanted.directions:
        say(f"{direction}: converting to {wanted.backend} in {wanted.precision}")
        graph, weights = (f"{direction}{suffix}" for suffix in SUFFIXES[wanted.backend])
        program = to_program(generator, direction, (tokens, width))
        if wanted.backend == "onnx":
            write_onnx(program, folder / graph)
        else:
            write_openvino(to_openvino(program), folder / graph, compress=wanted.precision != "float32")
            if wanted.precision == "int8":
                del program  # at full size each model takes gigabytes
                embedding = None if prompts is None else prompts.values[direction]
                inputs = [_inputs(pad(image[None], multiple), embedding) for image in samples.calibration[direction]]
                _quantize(folder / graph, inputs)
        written = [name for name in (graph, weights) if (folder / name).is_file()]
        files[direction] = {name: file_digest(folder / name) for name in written}
    if prompts is not None:
        (folder / PROMPTS).write_bytes(prompts.to_bytes())
    manifest = Manifest(
        backend=wanted.backend,
        precision=wanted.precision,
        base=generator.base_description,
        multiple=multiple,
        tokens=tokens,
        width=width,
        prompts={d: generator.prompts[d] for d in wanted.directions if d in generator.prompts},
        directions=files,
        embeddings=None if prompts is None else file_digest(folder / PROMPTS),
        versions=versions(),
    )
    write_json(folder / MANIFEST, manifest.to_json())


def _check_bytes(generator: ImageTranslator, most: int | None) -> None:
    """Refuse a generator whose weights take more bytes in float32.

    Raises:
        ValueError: names both sizes, in MB.
    """
    size = 4 * sum(parameter.numel() for parameter in generator.parameters())
    if most is not None and size > most:
        raise ValueError(
            f"The model is too large for a page: its weights take {size / 1e6:,.0f} MB, and a browser gets at most "
            f"{most / 1e6:,.0f} MB. FORMAT=onnx exports it for ONNX Runtime."
        )


def _quantize(path: Path, inputs: Sequence[Inputs]) -> None:
    """Replace a model by its quantized one."""
    half = [path.with_suffix(suffix) for suffix in SUFFIXES["openvino"]]
    sources = [file.rename(file.with_name(f"half-{file.name}")) for file in half]
    write_openvino(quantize(sources[0], inputs), path, compress=True)
    for source in sources:
        source.unlink()


def _embed(generator: ImageTranslator, directions: Sequence[str]) -> PromptEmbeddings | None:
    """Embeddings of the trained prompts; None where the generator reads no prompt.

    Raises:
        ValueError: the adapter has no prompt for a direction.
    """
    encoder = generator.encode_prompts
    if not isinstance(encoder, PromptEncoder):
        return None
    for direction in directions:
        if direction not in generator.prompts:
            raise ValueError(
                f"The adapter names no prompt for {direction}, so there is none to export it with: give it (prompt=)."
            )
    prompts = {direction: generator.prompts[direction] for direction in directions}
    encoder(list(prompts.values()))
    found = encoder.embedded(prompts)
    encoder.release()
    assert found is not None
    return found


def _inputs(image: Array, embedding: Array | None) -> Inputs:
    return {IMAGE: image} if embedding is None else {IMAGE: image, EMBEDDING: np.ascontiguousarray(embedding[None])}
