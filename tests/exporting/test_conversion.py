"""A converted graph computes what PyTorch does, at every batch and size."""

import numpy as np
import onnx as onnx_library
import pytest
import torch

from exporting.conversion import quantize, to_openvino, to_program, write_onnx, write_openvino
from inference.backends import onnx, openvino
from inference.backends.exported import ExportedBackend
from networks.one_step.text_conditioning import PromptAndSize

from .conftest import one_step, resnet

# batch, height, width in multiples: divisible by all levels of a UNet, odd numbers, equal sides, and a single latent
SHAPES = ((2, 8, 8), (1, 5, 7), (3, 16, 12), (1, 1, 1))


def inputs(batch, height, width, embedding, seed=0):
    rng = np.random.default_rng(seed)
    found = {"image": rng.uniform(-1, 1, (batch, 3, height, width)).astype(np.float32)}
    if embedding[0]:
        found["embedding"] = rng.normal(size=(batch, *embedding)).astype(np.float32)
    return found


def differences(run, generator, multiple, embedding, shapes=SHAPES, direction="a2b"):
    """Largest difference to PyTorch at each shape, in 8-bit steps."""
    for batch, height, width in shapes:
        feeds = inputs(batch, multiple * height, multiple * width, embedding)
        tensors = [torch.from_numpy(feeds[name]) if name in feeds else None for name in ("image", "embedding")]
        wanted = generator(*tensors, direction).numpy()
        result = run(feeds)
        assert result.shape == wanted.shape and result.dtype == np.float32
        yield float(np.abs(result - wanted).max() * 127.5)


def open_at(backend, path, precision="float32"):
    runtime, _ = backend.load_runtime("cpu")
    return backend.open_model(runtime, path, precision)


def written(program, folder):
    """Both files of a program, opened."""
    write_onnx(program, folder / "a2b.onnx")
    write_openvino(to_openvino(program), folder / "a2b.xml", compress=False)
    for backend, name in ((onnx, "a2b.onnx"), (openvino, "a2b.xml")):
        yield open_at(backend, folder / name)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_a_graph_computes_what_pytorch_does(backend, small_base, request):
    """A gated one-step generator by OpenVINO and a ResNet by ONNX Runtime; the slow tests do the rest."""
    exported = ExportedBackend(request.getfixturevalue(f"{backend}_folder"))
    generator = one_step(small_base, directions=["a2b"], prompt_gates=2) if backend == "openvino" else resnet()
    embedding = (32, 16) if backend == "openvino" else (0, 0)

    def run(feeds):
        return exported.translate(feeds["image"], feeds.get("embedding"), "a2b")

    shapes = SHAPES if backend == "openvino" else ((2, 8, 8), (1, 5, 7), (1, 2, 2))
    assert max(differences(run, generator, exported.multiple, embedding, shapes)) < 0.05
    for shape in shapes:  # OpenVINO compiles for the first shape that it gets
        exported = ExportedBackend(exported.folder)
        assert max(differences(run, generator, exported.multiple, embedding, [shape])) < 0.05
    if backend == "onnx":
        graph = onnx_library.load(exported.folder / "a2b.onnx", load_external_data=False).graph
        for value in (*graph.input, *graph.output):
            sizes = value.type.tensor_type.shape.dim
            assert [size.dim_param or size.dim_value for size in sizes] == ["batch", 3, "height", "width"]


def test_what_has_no_graph_is_refused_in_words(two_level_base):
    with pytest.raises(ValueError, match=r"conditioning=controlnet .* read a noise map"):
        to_program(one_step(two_level_base, conditioning="controlnet"), "a2b", (32, 16))


def test_the_sizes_of_sdxl_are_symbols_of_the_same_numbers():
    embedding = torch.arange(2 * 3 * 8.0).view(2, 3, 8)
    kwargs = PromptAndSize(5).unet_inputs(embedding, 24, 40)
    assert kwargs["added_cond_kwargs"]["time_ids"].tolist() == [[24, 40, 0, 0, 24, 40]] * 2


@pytest.mark.slow
def test_a_resnet_by_openvino(tmp_path):
    generator = resnet()
    for run, names in written(to_program(generator, "b2a", (0, 0)), tmp_path):
        assert names == {"image"}
        assert max(differences(run, generator, 4, (0, 0), ((2, 8, 8), (1, 5, 7), (1, 2, 2)), "b2a")) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny_base", "sdxl_base"])
def test_other_bases(kind, request, tmp_path):
    generator = one_step(request.getfixturevalue(kind), frozen_dtype="bfloat16").merge()
    embedding = tuple(generator.encode_prompts(["x"]).shape[1:])
    for run, _ in written(to_program(generator.float(), "a2b", embedding), tmp_path):
        assert max(differences(run, generator, generator.factor, embedding)) < 0.05


@pytest.mark.slow
def test_a_gated_generator_by_onnx_and_openvino(small_base, tmp_path):
    generator = one_step(small_base, directions=["a2b"], prompt_gates=2)
    for run, _ in written(to_program(generator.merge(), "a2b", (32, 16)), tmp_path):
        assert max(differences(run, generator, generator.factor, (32, 16))) < 0.05


@pytest.mark.slow
def test_pocket_at_every_precision(tmp_path):
    generator = one_step("pocket", rank_unet=16).merge()
    program = to_program(generator, "a2b", (32, 128))
    for run, _ in written(program, tmp_path):
        assert max(differences(run, generator, 8, (32, 128))) < 0.05
    write_openvino(to_openvino(program), tmp_path / "half.xml", compress=True)
    samples = [inputs(1, 64, 64, (32, 128), seed=k) for k in range(4)]
    write_openvino(quantize(tmp_path / "half.xml", samples), tmp_path / "int8.xml", compress=True)
    sizes = [(tmp_path / f"{name}.bin").stat().st_size for name in ("a2b", "half", "int8")]
    assert sizes[0] > 1.9 * sizes[1] and sizes[1] > 1.3 * sizes[2]
    for name, precision in (("half", "bfloat16"), ("int8", "int8")):
        run, _ = open_at(openvino, tmp_path / f"{name}.xml", precision)
        # Its LoRA is noise, and so are the largest differences.
        assert 0 < max(differences(run, generator, 8, (32, 128), SHAPES[:3]))
