"""Write a trained adapter as a page that translates photographs in the browser, without a server."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.compose import add_prefix, merge_models
from onnx.inliner import inline_local_functions
from onnx.numpy_helper import from_array

from exporting.export import Format, Samples, export_folder
from exporting.parity import Figures
from exporting.pixel_graph import after, before
from exporting.site_files import NAMES, PAGE, write_site_files
from images.ranges import Array
from inference.backends import Training
from inference.backends.exported import CARD, IMAGE, PARITY, TRANSLATED, Manifest
from inference.high_resolution import MOST_TILE, TILE, UNKNOWN_SIZE
from networks.checkpoints.card import Adapter
from prompt_embeddings import PROMPTS, PromptEmbeddings
from storage import atomic_folder, read_json, write_json

MOST_BYTES = 200_000_000  # of a direction's model, which a visitor downloads and a browser holds several times
LONGEST = {"lift": 3072, "direct": 1024}  # side of an image that a page translates, pixels
PIXELS, RESULT = "pixels", "result"  # names of the graph's input and output
EVERY_SIZE = 1 << 30  # pixels: no image is larger, so none is lifted


def write_page(
    adapter: Adapter,
    base: str | None,
    path: Path,
    directions: Sequence[str],
    samples: Samples,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Figures]:
    """Convert, measure and write a page; its folder appears whole at the end, or not at all.

    Args:
        adapter: trained.
        base: overrides the base that the adapter names.
        path: folder to write.
        directions: those to convert.
        samples: what the difference to PyTorch is measured on.
        say: takes lines of progress.

    Returns:
        The figures of parity.json by direction.

    Raises:
        ValueError: see `export_folder`; the model is too large for a page; onnxruntime-web cannot be fetched.
        BeyondToleranceError: see `export_folder`.
        OSError: the disk is full.
    """
    with atomic_folder(path, NAMES.__contains__) as part:
        write_site_files(part)
        models = part / "models"
        figures = export_folder(adapter, base, models, Format("onnx", "float32", directions, MOST_BYTES), samples, say)
        say("putting pixels around the models")
        _write_models(models, part)
        shutil.copyfile(models / PARITY, part / PARITY)
        shutil.rmtree(models)
    return figures


def _write_models(exported: Path, folder: Path) -> None:
    """Write the models of an exported folder as models of pixels, and what the page has to know of them."""
    manifest = Manifest.read(exported)
    training = Training.from_card(read_json(exported / CARD))
    embeddings = None if manifest.embeddings is None else PromptEmbeddings.read(exported / PROMPTS).values
    described: list[dict[str, object]] = []
    for direction in manifest.directions:
        name = f"{direction}.onnx"
        model = over_pixels(
            onnx.load(exported / name),
            (training.size or UNKNOWN_SIZE) if training.resolution == "lift" else EVERY_SIZE,
            manifest.multiple,
            None if embeddings is None else embeddings[direction],
        )
        onnx.save(model, folder / name)
        prompt, size = manifest.prompts.get(direction), (folder / name).stat().st_size
        described.append({"name": direction, "prompt": prompt, "model": name, "bytes": size})
    write_json(folder / PAGE, {"longest": longest_side(training), "directions": described})


def longest_side(training: Training) -> int:
    """The longest side of an image that a page translates, pixels; the browser scales larger ones down to it.

    With lift the network's image is small, whatever the photograph.  Tiles are not cut on a page: there an image is at
    most one tile.
    """
    if training.resolution == "tiles":
        size = training.size or UNKNOWN_SIZE
        return max(size, min(TILE * size, MOST_TILE))
    return LONGEST[training.resolution]


def over_pixels(network: onnx.ModelProto, size: int, multiple: int, embedding: Array | None) -> onnx.ModelProto:
    """Give a graph of images pixels to read and to write.

    Args:
        network: of `exporting.conversion`: ``image`` ``(B, 3, H, W)`` in [-1, 1], and maybe ``embedding``.
        size: short side above which the network gets a smaller image, whose change is lifted, pixels.
        multiple: sides of the network's images are multiples of it.
        embedding: ``(L, D)`` of the prompt, which becomes a constant; None where the network reads none.

    Returns:
        A graph from ``pixels`` ``(H, W, 4)`` uint8, red, green, blue and opacity, to ``result``, likewise.
    """
    parts = [inline_local_functions(part.to_model_proto(ir_version=network.ir_version)) for part in (before, after)]
    first, last = (add_prefix(part, f"{name}/") for part, name in zip(parts, ("before", "after"), strict=True))
    padded = first.graph.output[2].name
    kept = [first.graph.output[k].name for k in (0, 1, 3)]
    merged = merge_models(first, network, [(padded, IMAGE)], outputs=[*kept, TRANSLATED])
    taken = [value.name for value in last.graph.input]
    merged = merge_models(merged, last, list(zip([*kept, TRANSLATED], taken, strict=True)))
    constants: list[Array | NDArray[np.int64]] = [np.array([size], np.int64), np.array([multiple], np.int64)]
    if embedding is not None:
        constants.append(embedding[None])
    graph = merged.graph
    pixels, *inputs = graph.input
    for value, constant in zip(inputs, constants, strict=True):
        graph.initializer.append(from_array(constant, value.name))
        graph.input.remove(value)
    _rename(graph, {pixels.name: PIXELS, graph.output[0].name: RESULT})
    for node in graph.node:  # traces of the code that wrote it, with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    return merged


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename an input and an output, of which no graph of a branch speaks."""
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    for node in graph.node:
        for words in (node.input, node.output):
            words[:] = [names.get(word, word) for word in words]
