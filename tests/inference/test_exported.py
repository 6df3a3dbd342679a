"""Exported folders are validated before a model is opened, served without torch, and refuse what they cannot do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from openvino import opset13

from inference.backends.exported import MANIFEST, ExportedBackend, Manifest, file_digest
from inference.backends.openvino import _Compiled
from prompt_embeddings import PROMPTS, PromptEmbeddings

ROOT = Path(__file__).parents[2]
TEXTS = {"a2b": "a street at night", "b2a": "a street by day"}
VALUES = {"a2b": np.full((2, 3), 0.25, np.float32), "b2a": np.full((2, 3), -0.5, np.float32)}


def write_onnx(path, weight=None, output=TensorProto.FLOAT):
    """``translated = image * weight + mean(embedding)``, the weight in the file unless another tensor is given."""
    weight = weight or helper.make_tensor("weight", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("ReduceMean", ["embedding", "axes"], ["mean"], keepdims=1),
        helper.make_node("Unsqueeze", ["mean", "last"], ["shift"]),
        helper.make_node("Mul", ["image", "weight"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["translated"], to=output),
    ]
    axes, last = (helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in (("axes", [1, 2]), ("last", [3])))
    shapes = {"image": ["b", 3, "h", "w"], "embedding": ["b", 2, 3]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    result = helper.make_tensor_value_info("translated", output, shapes["image"])
    graph = helper.make_graph(nodes, "graph", inputs, [result], [weight, axes, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def write_openvino(path):
    image = opset13.parameter([-1, 3, -1, -1], np.float32, name="image")
    embedding = opset13.parameter([-1, 2, 3], np.float32, name="embedding")
    mean = opset13.reduce_mean(embedding, np.array([1, 2]), keep_dims=True)
    scaled = opset13.multiply(image, opset13.constant(np.array([0.5], np.float32)))
    result = opset13.add(scaled, opset13.unsqueeze(mean, np.array([3])))
    for node, name in ((image, "image"), (embedding, "embedding")):
        node.output(0).tensor.set_names({name})
    openvino.save_model(openvino.Model([result], [image, embedding]), path, compress_to_fp16=False)


@pytest.fixture(params=["onnx", "openvino"])
def folder(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    for direction in TEXTS:
        if request.param == "onnx":
            write_onnx(folder / f"{direction}.onnx")
        else:
            write_openvino(folder / f"{direction}.xml")
    (folder / PROMPTS).write_bytes(PromptEmbeddings("0e7490166411", TEXTS, VALUES).to_bytes())
    (folder / "adapter.json").write_text('{"data": "photos", "preprocessing": {"preprocess": "canny"}}')
    seal(folder)
    return folder


def seal(folder, **changes):
    """Write an export.json of the files that are there now."""
    backend = folder.name
    files = {d: {p.name: file_digest(p) for p in folder.glob(f"{d}.*")} for d in TEXTS}
    manifest = {
        **{
            "backend": backend,
            "precision": "float32",
            "base": "pocket",
            "multiple": 8,
            "tokens": 2,
            "width": 3,
        },
        **{"prompts": TEXTS, "directions": files, "embeddings": file_digest(folder / PROMPTS), "versions": {}},
    }
    content = {**Manifest(**manifest).to_json(), **changes}
    (folder / MANIFEST).write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))


def translated(folder, direction="a2b", **options):
    backend = ExportedBackend(folder)
    image = np.linspace(-1, 1, 2 * 3 * 8 * 16, dtype=np.float32).reshape(2, 3, 8, 16)
    result = backend.translate(image, backend.embed([TEXTS["a2b"]]), direction, **options)
    return image, result


def test_it_serves_the_model_with_the_trained_prompts(folder):
    backend = ExportedBackend(folder)
    assert (backend.name, backend.precision, backend.device) == (folder.name, "float32", "cpu")
    assert (backend.multiple, backend.directions, backend.prompts) == (8, ("a2b", "b2a"), TEXTS)
    assert (backend.training.data, backend.training.line_drawing, backend.base_description) == (
        "photos",
        "canny",
        "pocket",
    )
    image, result = translated(folder)
    np.testing.assert_allclose(result, image * 0.5 + 0.25, atol=1e-6)
    embedding = backend.embed([TEXTS["b2a"], TEXTS["a2b"]])
    both = backend.translate(image, embedding, "b2a")
    np.testing.assert_allclose(both, image * 0.5 + np.float32([-0.5, 0.25])[:, None, None, None], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: ExportedBackend(f).embed(["fog"]),
            "prompt 'fog': .* 'a street at night' and 'a street by day' only",
        ),
        (lambda f: translated(f, strength=0.5), r"strength=0.5 needs the adapter"),
        (lambda f: translated(f, "b2c"), "Unknown direction 'b2c': .* for a2b and b2a"),
        (lambda f: ExportedBackend(f, "int8"), r"exported at float32, so it cannot compute at int8: .*precision=int8"),
        (lambda f: ExportedBackend(f, device="npu"), "No device 'npu' for .* here: it has"),
        (lambda f: ExportedBackend(f.parent), "No exported model in"),
    ],
)
def test_what_a_folder_cannot_do_is_one_line(folder, call, message):
    ExportedBackend(folder, "float32", "cpu")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        call(folder)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(folder, monkeypatch):
    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"is not installed: pip install -e '.\[export\]'"):
        ExportedBackend(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2; this version reads format 1"),
        ({"format": "gone"}, "has format None"),
        ({"format": True}, "has format True"),
        ({"backend": "tensorrt"}, "backend must be onnx or openvino, got 'tensorrt'"),
        ({"backend": ["onnx"]}, "backend must be"),
        ({"precision": "int4"}, r"precision of \w+ must be .*, got 'int4'"),
        ({"precision": None}, "precision"),
        ({"multiple": 0}, "multiple must be an integer from 1 to 256, got 0"),
        ({"multiple": 8.0}, "multiple"),
        ({"multiple": True}, "multiple"),
        ({"tokens": 10**12}, "tokens"),
        ({"width": 0}, "tokens and width"),
        ({"width": 4}, "holds other prompts than export.json names"),
        ({"prompts": {"a2b": 1}}, "prompts must be texts by name"),
        ({"prompts": {"a2b": "another", "b2a": TEXTS["b2a"]}}, "holds other prompts"),
        ({"prompts": {**TEXTS, "c2d": "x"}}, "prompts must be given by direction"),
        ({"directions": {}}, "directions must be an object of a2b and b2a"),
        ({"directions": {"../b": {}}}, "directions"),
        ({"directions": {"a2b": {"../secret.onnx": "0" * 64}}, "prompts": {}}, "files of a2b must be the SHA-256 of"),
        ({"directions": {"a2b": ["a2b.onnx"]}, "prompts": {}}, "files of a2b"),
        ({"embeddings": "0" * 63}, "embeddings must be the SHA-256"),
        ({"embeddings": "0" * 64}, "prompts.safetensors is damaged: it is not the file"),
        ({"embeddings": None}, "embeddings"),
        ({"base": "gone"}, "missing .*'base'"),
        ({"extra": 1}, "unexpected keyword argument 'extra'"),
    ],
)
@pytest.mark.parametrize("folder", ["onnx"], indirect=True)
def test_a_changed_manifest_is_one_line(folder, changes, message):
    seal(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        ExportedBackend(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 and str(folder) in str(error.value)


def graph_of(folder):
    return folder / ("a2b.onnx" if folder.name == "onnx" else "a2b.xml")


@pytest.mark.parametrize("damage", ["a byte", "cut off", "gone"])
def test_files_that_are_not_those_of_the_manifest_are_not_opened(folder, damage):
    path = folder / ("a2b.onnx" if folder.name == "onnx" else "a2b.bin")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "a byte" else content[:-1])
    if damage == "gone":
        path.unlink()
    with pytest.raises(
        (ValueError, FileNotFoundError), match="is missing: export.json" if damage == "gone" else "not the file"
    ):
        translated(folder)
    translated(folder, "b2a")


@pytest.mark.parametrize("content", [b"", b"\x08\x09garbage" * 99, b"<net><layers/></net>", "cut"])
def test_a_file_that_is_no_model_is_one_line_though_its_digest_fits(folder, content):
    path = graph_of(folder)
    path.write_bytes(path.read_bytes()[:-40] if content == "cut" else content)
    seal(folder)
    with pytest.raises(ValueError, match=f"{path.name} is damaged, or no model") as error:
        translated(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("folder", ["onnx"], indirect=True)
@pytest.mark.parametrize("where", ["../secret", "absolute", "link", "shape"])
def test_weights_outside_of_the_folder_or_of_impossible_shapes_are_not_read(folder, where):
    (folder.parent / "secret").write_bytes(bytes(64))
    os.symlink(folder.parent / "secret", folder / "link")
    location = {"absolute": str(folder.parent / "secret"), "shape": "a2b.onnx.data"}.get(where, where)
    (folder / "a2b.onnx.data").write_bytes(bytes(64))
    weight = onnx.TensorProto(name="weight", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weight.dims.extend([1 << 31, 1 << 20] if where == "shape" else [1])
    weight.external_data.add(key="location", value=location)
    write_onnx(folder / "a2b.onnx", weight)
    seal(folder)
    with pytest.raises(ValueError, match=r"a2b\.onnx is damaged, or no model"):
        translated(folder)


def test_a_model_of_other_inputs_or_another_output_is_refused(folder):
    for name in folder.glob("a2b.*"):
        content = name.read_bytes()
        name.write_bytes(content.replace(b"embedding", b"embeddinG"))
    seal(folder)
    with pytest.raises(ValueError, match=r"refused: it takes \['embeddinG', 'image'\], not \['embedding', 'image'\]"):
        translated(folder)
    with pytest.raises(ValueError, match=r"could not translate 1 x 8 x 8 pixels"):
        ExportedBackend(folder).translate(np.zeros((1, 5, 8, 8), np.float32), VALUES["a2b"][None], "b2a")


@pytest.mark.parametrize("folder", ["onnx"], indirect=True)
@pytest.mark.parametrize(
    ("changed", "gives"),
    [
        ({"output": TensorProto.FLOAT16}, r"float16 \(2, 3, 8, 16\)"),
        (
            {"weight": helper.make_tensor("weight", TensorProto.FLOAT, [2, 1, 1, 1, 1], [0.5, 0.5])},
            r"float32 \(2, 2, 3, 8, 16\)",
        ),
    ],
)
def test_what_is_no_image_of_the_input_s_shape_is_refused(folder, changed, gives):
    write_onnx(folder / "a2b.onnx", **changed)
    seal(folder)
    with pytest.raises(ValueError, match=rf"is damaged: its a2b gives {gives} for \(2, 3, 8, 16\)"):
        translated(folder)


def test_one_model_serves_shapes_in_any_order(folder, monkeypatch):
    compiled = []
    compile_model = _Compiled._compile
    monkeypatch.setattr(_Compiled, "_compile", lambda *args: (compiled.append(1), compile_model(*args)))
    backend = ExportedBackend(folder)
    for shape in [(1, 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 16), (1, 3, 8, 8), (1, 3, 16, 8)]:
        image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        result = backend.translate(image, VALUES["a2b"][None], "a2b")
        np.testing.assert_allclose(result, image * 0.5 + 0.25, atol=1e-6)
    assert len(compiled) == (2 if folder.name == "openvino" else 0)


WITHOUT_TORCH = """
import socket, sys
import numpy as np
from PIL import Image

class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "peft", "lightning", "torchvision"}:
            raise ImportError(name)

def no_network(*args, **kwargs):
    raise AssertionError("a socket was opened")

sys.meta_path.insert(0, Refuse())
socket.socket = no_network
from inference import Translator

for folder in sys.argv[1:]:
    result = Translator.load(folder)(Image.new("RGB", (13, 9)), "b2a")
    assert result.size == (13, 9) and not np.asarray(result).any()
assert "torch" not in sys.modules and "openvino_telemetry.main" not in sys.modules
"""


def test_neither_torch_nor_the_network_is_needed(folder):
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, folder], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
