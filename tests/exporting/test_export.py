"""An exported folder is whole, says what it is, and is not written where it differs from PyTorch."""

import json

import numpy as np
import pytest
import torch

from exporting import parity
from exporting.parity import BeyondToleranceError, check_tolerance
from inference.backends.exported import NAMES, ExportedBackend, file_digest
from networks.features import load_features
from prompt_embeddings import PromptEmbeddings

from .conftest import PROMPTS, export, images


@pytest.mark.long
def test_a_folder_says_what_it_is_and_how_far_from_pytorch(openvino_folder):
    assert {path.name for path in openvino_folder.iterdir()} == {
        *("export.json", "adapter.json", "parity.json", "prompts.safetensors", "a2b.xml", "a2b.bin"),
    }
    manifest, card, measured = (
        json.loads((openvino_folder / f"{name}.json").read_text()) for name in ("export", "adapter", "parity")
    )
    assert (manifest["backend"], manifest["precision"], manifest["multiple"]) == ("openvino", "float32", 2)
    assert manifest["directions"]["a2b"] == {n: file_digest(openvino_folder / n) for n in ("a2b.xml", "a2b.bin")}
    assert manifest["prompts"] == {"a2b": PROMPTS["a2b"]}
    assert (card["data"], card["exported"]) == ("made up", {"format": "openvino"})
    figures = measured["a2b"]
    assert figures["images"] == 2 and figures["max_difference"] <= 1 and figures["lpips"] < 1e-4
    assert 0 < figures["seconds_per_image"] and 0 < figures["seconds_per_image_pytorch"]
    assert measured["versions"]["openvino"] and "fid" not in figures
    found = PromptEmbeddings.read(openvino_folder / "prompts.safetensors")
    assert found.values["a2b"].shape == (manifest["tokens"], manifest["width"]) == (32, 16)


def test_beyond_the_tolerance_nothing_is_written(resnet_adapter, converted, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.TOLERANCES, "float32", {"max_difference": -1})
    (tmp_path / "out").mkdir()
    with pytest.raises(BeyondToleranceError, match=r"a2b at float32 differs .* max_difference 0, allowed is -1"):
        export(resnet_adapter, tmp_path / "out", "onnx", count=1)
    assert [*tmp_path.rglob("*")] == [tmp_path / "out"]


@pytest.mark.parametrize(
    ("precision", "figures", "beyond"),
    [
        ("float32", {"max_difference": 1.0, "mean_difference": 0.9}, None),
        ("float32", {"max_difference": 2.0, "mean_difference": 0.1}, "max_difference 2, allowed is 1"),
        ("bfloat16", {"max_difference": 9.0, "mean_difference": 1.4, "lpips": 0.009}, None),
        ("bfloat16", {"mean_difference": 1.6, "lpips": 0.009}, r"mean_difference 1.6, allowed is 1\.5"),
        ("bfloat16", {"mean_difference": 1.4, "lpips": float("nan")}, "lpips nan"),
        ("int8", {"mean_difference": 5.0, "lpips": 0.019, "fid_change": 0.049}, None),
        ("int8", {"lpips": 0.021}, r"lpips 0.021, allowed is 0\.02"),
        ("int8", {"lpips": 0.019, "fid_change": 0.051}, r"fid_change 0.051, allowed is 0\.05"),
    ],
)
def test_tolerances(precision, figures, beyond):
    if beyond is None:
        check_tolerance(precision, "b2a", {"images": 16, **figures})
    else:
        with pytest.raises(BeyondToleranceError, match=beyond):
            check_tolerance(precision, "b2a", {"images": 16, **figures})


def test_parity_counts_steps_of_8_bits_and_compares_fid_from_64_images():
    network = load_features("random")
    real = parity.described(network, [torch.from_numpy(np.stack(images(128, seed=1)[::2]))])
    measured = parity.DirectionParity(network, network, real)
    for k, image in enumerate(images(128)[::2]):
        changed = np.clip(image + (3 / 127.5 if k == 5 else 0), -1, 1)
        measured.add(image[None], changed[None])
        if k == 62:
            assert "fid" not in measured.figures([1], [1])
    figures = measured.figures([9, 2, 1], [0.5])
    assert figures["max_difference"] == 3 and figures["mean_difference"] == pytest.approx(3 / 64, rel=0.05)
    assert 0 < figures["lpips"] and figures["seconds_per_image_pytorch"] / figures["seconds_per_image"] == 4
    assert 0 < figures["fid_change"] < 0.05 and figures["fid_to_pytorch"] < figures["fid"]
    assert figures["fid_change"] == pytest.approx(abs(figures["fid"] / figures["fid_pytorch"] - 1))


def test_an_export_is_replaced_whole_and_nothing_else_is(onnx_folder, resnet_adapter, converted, tmp_path, full_at):
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("{}")
    (out / "b2a.xml").write_text("of an earlier export")
    with full_at(20_000), pytest.raises(OSError, match=r"out.* could not be written: File too large"):
        export(resnet_adapter, out, "onnx", count=1)
    assert {path.name for path in out.iterdir()} == {"export.json", "b2a.xml"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export(resnet_adapter, out, "onnx", count=1)
    assert {path.name for path in out.iterdir()} == {path.name for path in onnx_folder.iterdir()} <= NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    ExportedBackend(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not replaced: it holds 'notes.txt'"):
        export(resnet_adapter, out, "onnx", count=1)
