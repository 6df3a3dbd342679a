"""Convert a generator to one graph per direction by torch.export, and write it for ONNX Runtime or OpenVINO.

The graph takes ``image`` ``(B, 3, H, W)`` in [-1, 1] and ``embedding`` ``(B, L, D)`` and returns ``translated``, of the
image's shape.  B, H and W are dynamic, H and W in multiples of the generator's factor: padding is the caller's.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from inference.backends.exported import EMBEDDING, IMAGE, TRANSLATED, Inputs
from inference.backends.openvino import import_openvino, load_runtime
from networks import ImageTranslator, OneStepGenerator, ResnetGenerator
from networks.resnet import FACTOR
from storage import free_space

if TYPE_CHECKING:
    import openvino
    from onnxscript.ir import Graph

OPSET = 20  # version of ONNX's operators
MOST_IMAGES = 63  # diffusers' upsampling asks whether there are 64, which would become a condition of the graph
MOST_STEPS = 4096  # of a side, in multiples: 32,768 pixels
FEW_CHANNELS = 32  # pixels have 3, latents 4; of a full-size base all other convolutions have 128 or more
NEVER_DIVIDES = 40  # 2^40: see `_sizes_from_skips`


def multiple_of(generator: ImageTranslator) -> int:
    """Heights and widths that the graph takes are multiples of this number.

    Raises:
        ValueError: the generator cannot be converted; see `check_convertible`.
    """
    check_convertible(generator)
    return generator.factor if isinstance(generator, OneStepGenerator) else FACTOR


def check_convertible(generator: ImageTranslator) -> None:
    """Refuse a generator that has no graph of image and prompt alone.

    Raises:
        ValueError: it reads a noise map, or is of a class of the user's own.
    """
    if generator.reads_noise:
        raise ValueError(
            "conditioning=controlnet and conditioning=t2i_adapter read a noise map beside the image, which no exported "
            "graph takes. Only conditioning=direct is exported."
        )
    if not isinstance(generator, OneStepGenerator | ResnetGenerator):
        raise ValueError(f"A generator of your own ({type(generator).__name__}) is not exported by this version.")


class _Graph(nn.Module):
    """One direction of a generator, of positional tensors."""

    def __init__(self, generator: ImageTranslator, direction: str) -> None:
        super().__init__()
        self.generator, self.direction = generator, direction

    def forward(self, image: Tensor, embedding: Tensor | None = None) -> Tensor:
        if embedding is None:
            embedding = image.new_empty(1, 0, 0)
        return self.generator(image, embedding, self.direction)


@torch.no_grad()
def to_program(generator: ImageTranslator, direction: str, embedding: tuple[int, int]) -> ExportedProgram:
    """Trace one direction with dynamic batch, height and width.

    Args:
        generator: float32, on the CPU, its LoRA merged.
        direction: "a2b" or "b2a".
        embedding: ``(L, D)`` of a prompt; (0, 0) where the generator reads none.

    Raises:
        ValueError: see `check_convertible`.
    """
    multiple = multiple_of(generator)
    batch = Dim("batch", max=MOST_IMAGES)
    # A ResNet reflects a pixel of maps of a quarter of the size, so they have two.
    fewest = 2 if isinstance(generator, ResnetGenerator) else 1
    height, width = (Dim(name, min=fewest, max=MOST_STEPS) for name in ("height", "width"))
    # Three different sizes above 1, so that none is taken for another or for a constant.
    example = {IMAGE: torch.zeros(2, 3, 9 * multiple, 10 * multiple)}
    dynamic: dict[str, dict[int, Dim]] = {IMAGE: {0: batch, 2: multiple * height, 3: multiple * width}}
    if embedding[0]:
        example[EMBEDDING], dynamic[EMBEDDING] = torch.zeros(2, *embedding), {0: batch}
    graph = _Graph(generator, direction).eval()
    with _sizes_from_skips(generator), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own pytree, about its future
        return torch.export.export(graph, tuple(example.values()), dynamic_shapes=tuple(dynamic.values()))


@contextmanager
def _sizes_from_skips(generator: ImageTranslator) -> Iterator[None]:
    """Context in which the UNet takes the size of every level from the skip that it meets.

    diffusers does so where a side of the latent is not divisible by 2 to the number of upsamplings, and doubles the
    size elsewhere; both give the same result, but the graph can hold only one of them, and this one fits all sizes.
    """
    if not isinstance(generator, OneStepGenerator):
        yield
        return
    unet = generator.unet
    before = unet.num_upsamplers
    unet.num_upsamplers = NEVER_DIVIDES
    try:
        yield
    finally:
        unet.num_upsamplers = before


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write float32 ONNX; above 1.5 GB the weights go to ``<name>.onnx.data`` beside it, since one file holds 2 GB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, output_names=[TRANSLATED], opset_version=OPSET
        )
    assert converted is not None
    _name_sizes(converted.model.graph)
    converted.save(path)


def _name_sizes(graph: "Graph") -> None:
    """Call the dynamic sizes of inputs and output what they are; torch names them by numbers."""
    image = graph.inputs[0]
    assert image.shape is not None
    names = {str(image.shape[axis]): name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        for axis, size in enumerate(value.shape):
            if str(size) in names:
                value.shape[axis] = names[str(size)]


def to_openvino(program: ExportedProgram) -> "openvino.Model":
    """Convert to an OpenVINO model, nothing compressed."""
    ov = import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(program)
    for port, name in zip(model.inputs, (IMAGE, EMBEDDING), strict=False):
        port.tensor.set_names({name})
    model.outputs[0].tensor.set_names({TRANSLATED})
    return model


def write_openvino(model: "openvino.Model", path: Path, compress: bool) -> None:
    """Write ``<name>.xml`` and the weights, ``<name>.bin``, beside it.

    Args:
        model: converted, maybe quantized.
        path: of the .xml.
        compress: store float weights in 16 bits.

    Raises:
        OSError: the disk is full, or the file larger than it may be.
    """
    try:
        import_openvino().save_model(model, path, compress_to_fp16=compress)
    except RuntimeError as error:  # OpenVINO says neither why nor that it was the disk, and removes what it wrote
        free = free_space(path.parent) / 2**20
        raise OSError(
            f"The OpenVINO model could not be written: {error}. {free:,.1f} MiB are free in {path.parent.parent}; free "
            "some space there or name another folder."
        ) from error


def quantize(path: Path, samples: Sequence[Inputs]) -> "openvino.Model":
    """Quantize weights and activations of convolutions to 8 bits (NNCF, post-training).

    Convolutions alone, which take most of the time: 8-bit attention, sums and norms change images far more.  Those of
    few channels stay as they are too.

    Args:
        path: .xml of a model of `to_openvino`, written with its weights in 16 bits: what is not quantized keeps these.
        samples: inputs by name, to measure the ranges of activations on.

    Raises:
        ValueError: NNCF is not installed.
    """
    import_openvino()  # first: it keeps NNCF's telemetry out as well
    try:
        import nncf
    except ImportError as error:
        raise ValueError("NNCF, which quantizes, is not installed: pip install -e '.[export]' adds it.") from error
    nncf.set_log_level(logging.ERROR)
    model = load_runtime("cpu")[0][0].read_model(path)
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    few = [
        node.get_friendly_name()
        for node in convolutions
        if min(node.input(1).get_partial_shape().to_shape()[:2]) <= FEW_CHANNELS
    ]
    others = {node.get_type_name() for node in model.get_ops()} - {"Convolution", "Constant", "Parameter", "Result"}
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED,  # activations unsymmetric, as SiLU makes them
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(names=few, types=sorted(others)),
    )
