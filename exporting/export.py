"""Write a trained generator as a folder that `inference.backends.exported` serves, once its parity is measured."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from exporting.conversion import (
    multiple_of,
    quantize,
    to_openvino,
    to_program,
    write_onnx,
    write_openvino,
)
from exporting.parity import DirectionParity, Image, check_tolerance, described, timed, versions
from inference.backends.exported import (
    EMBEDDING,
    IMAGE,
    MANIFEST,
    SUFFIXES,
    ExportedBackend,
    Inputs,
    Manifest,
    file_digest,
)
from networks import ImageTranslator
from networks.checkpoints.card import AdapterCard
from networks.features import FeatureNetwork
from networks.one_step.prompts import PromptEncoder
from prompt_embeddings import DIRECTIONS, PROMPTS, PromptEmbeddings
from storage import atomic_folder, write_json

CARD, PARITY = "adapter.json", "parity.json"
NAMES = {
    *(MANIFEST, CARD, PARITY, PROMPTS),
    *(f"{direction}{suffix}" for direction in DIRECTIONS for pair in SUFFIXES.values() for suffix in pair),
}
"""Every file that an exported folder may have."""


@dataclass(frozen=True)
class Samples:
    """Images that parity is measured on.

    Attributes:
        images: inputs by direction, each ``(3, H, W)`` in [-1, 1], of any size.
        calibration: further inputs by direction, for the ranges of int8.
        real: batches of real images of the target domain by direction, ``(B, 3, H, W)``, for FID and KID.
    """

    images: Mapping[str, Sequence[Image]]
    calibration: Mapping[str, Sequence[Image]] = field(default_factory=dict)
    real: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """Feature networks of parity: of the perceptual distance, and of FID and KID."""

    lpips: FeatureNetwork
    features: FeatureNetwork


def export_folder(
    generator: ImageTranslator,
    card: AdapterCard,
    path: Path,
    backend: str,
    precision: str,
    directions: Sequence[str],
    samples: Samples,
    networks: Networks,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, float | int | None]]:
    """Convert, measure and write; the folder appears whole at the end, or not at all.

    Args:
        generator: as `load_generator` returns it; its LoRA is merged here, so it is used up.
        card: of its adapter.
        path: folder to write.
        backend: "onnx" or "openvino".
        precision: of those that `PRECISIONS` has for the backend.
        directions: those to convert.
        samples: what to measure on.
        networks: what to measure with.
        say: takes lines of progress.

    Returns:
        The figures of parity.json by direction.

    Raises:
        ValueError: the generator cannot be converted, or has no prompt for a direction.
        BeyondToleranceError: the model differs too much from PyTorch.
        OSError: the disk is full.
    """
    multiple = multiple_of(generator)
    prompts = _embed(generator, directions)
    embeddings = {
        d: np.empty((1, 0, 0), np.float32) if prompts is None else prompts.values[d][None] for d in directions
    }
    _, tokens, width = next(iter(embeddings.values())).shape
    generator = generator.merge().float()
    with atomic_folder(path, NAMES.__contains__) as part:
        parities, wanted, files = {}, {}, {}
        for direction, images in samples.images.items():
            say(f"{direction}: translating {len(images)} images by PyTorch")
            real = described(networks.features, samples.real[direction]) if direction in samples.real else None
            parities[direction] = DirectionParity(networks.lpips, networks.features, real)
            wanted[direction] = _by_pytorch(generator, direction, embeddings[direction], images, parities[direction])
        for direction, embedding in embeddings.items():
            say(f"{direction}: converting to {backend} at {precision}")
            calibration = [_inputs(image, embedding, multiple) for image in samples.calibration.get(direction, ())]
            names = _convert(generator, direction, (tokens, width), part, backend, precision, calibration)
            files[direction] = {name: file_digest(part / name) for name in names}
        del generator  # at full size gigabytes, which the exported model needs next
        gc.collect()
        if prompts is not None:
            (part / PROMPTS).write_bytes(prompts.to_bytes())
        manifest = Manifest(
            backend=backend,
            precision=precision,
            base=card.base_description or "",
            multiple=multiple,
            tokens=tokens,
            width=width,
            prompts={} if prompts is None else prompts.prompts,
            directions=files,
            embeddings=None if prompts is None else file_digest(part / PROMPTS),
            versions=versions(),
        )
        write_json(part / MANIFEST, manifest.to_json())
        write_json(part / CARD, replace(card, exported={"format": backend, "precision": precision}).to_json())
        exported, figures = ExportedBackend(part), {}
        for direction, parity in parities.items():
            say(f"{direction}: translating them by {backend}")
            for image, reference in zip(samples.images[direction], wanted[direction], strict=True):
                parity.add(reference, _by_export(exported, direction, embeddings[direction], image, parity))
            figures[direction] = parity.figures()
            check_tolerance(precision, direction, figures[direction])
        about = {"backend": backend, "precision": precision, "device": exported.device}
        used = {"lpips": networks.lpips.name, "features": networks.features.name}
        write_json(part / PARITY, {**about, **used, **figures, "files": files, "versions": versions()})
    return figures


def _by_pytorch(
    generator: ImageTranslator, direction: str, embedding: Image, images: Sequence[Image], parity: DirectionParity
) -> list[Image]:
    """Translate images one by one, ``(3, H, W)`` => ``(1, 3, H, W)``."""

    @torch.no_grad()
    def translate(image: Image) -> Image:
        return generator(torch.from_numpy(image), torch.from_numpy(embedding), direction).numpy()

    return [timed(translate, image[None], parity.pytorch) for image in images]


def _by_export(
    exported: ExportedBackend, direction: str, embedding: Image, image: Image, parity: DirectionParity
) -> Image:
    """Translate an image, ``(3, H, W)`` => ``(1, 3, H, W)``."""

    def translate(image: Image) -> Image:
        height, width = image.shape[-2:]
        return exported.translate(padded(image, exported.multiple), embedding, direction)[..., :height, :width]

    return timed(translate, image[None], parity.exported)


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


def _convert(
    generator: ImageTranslator,
    direction: str,
    shape: tuple[int, int],
    folder: Path,
    backend: str,
    precision: str,
    calibration: Sequence[Inputs],
) -> list[str]:
    """Convert one direction for prompt embeddings ``(L, D)`` of a shape; returns the names of the files."""
    program = to_program(generator, direction, shape)
    graph, weights = (f"{direction}{suffix}" for suffix in SUFFIXES[backend])
    if backend == "onnx":
        write_onnx(program, folder / graph)
    else:
        model = to_openvino(program)
        if precision == "int8":
            model = quantize(model, calibration)
        write_openvino(model, folder / graph, compress=precision != "float32")
    return [name for name in (graph, weights) if (folder / name).is_file()]


def _inputs(image: Image, embedding: Image, multiple: int) -> Inputs:
    inputs = {IMAGE: padded(image[None], multiple)}
    return inputs if embedding.size == 0 else {**inputs, EMBEDDING: embedding}


def padded(image: Image, multiple: int) -> Image:
    """Pad bottom and right to multiples, by reflection where the sides are long enough, as the generator does.

    Args:
        image: ``(B, 3, H, W)``.
        multiple: of both sides.
    """
    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    mode: Literal["reflect", "edge"] = "reflect" if down < height and right < width else "edge"
    return np.pad(image, ((0, 0), (0, 0), (0, down), (0, right)), mode=mode)
