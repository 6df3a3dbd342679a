"""`make export FORMAT=onnx|openvino`: from an adapter to a folder that translate and evaluate take."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from commands import evaluate, export, translate
from exporting import parity
from networks import ResnetGenerator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.card import RunFacts


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    torch.manual_seed(0)
    generator = ResnetGenerator(["a2b", "b2a"], width=4, blocks=1)
    generator.prompts = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}
    return save_adapter(generator, tmp_path_factory.mktemp("adapter"), RunFacts(preprocessing={"eval_size": 16}))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 30 + k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def exported(adapter, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "out"
    assert export.main([*arguments(adapter, out), f"--data={photos}", "--n=2", "--direction=b2a"]) == 0
    return out


def arguments(adapter, out, wanted="onnx"):
    return [f"--ckpt={adapter}", f"--format={wanted}", f"--out={out}"]


def test_a_folder_of_images_measures_an_adapter_outside_of_a_run(exported, adapter, photos, tmp_path):
    """Then the folder is translated with like the adapter, to the same bytes."""
    assert {path.name for path in exported.iterdir()} == {"export.json", "adapter.json", "parity.json", "b2a.onnx"}
    figures = json.loads((exported / "parity.json").read_text())["b2a"]
    assert figures["images"] == 2 and figures["max_difference"] <= 1
    for ckpt, name in ((adapter, "torch"), (exported, "onnx")):
        words = [f"--ckpt={ckpt}", f"--in={photos}", f"--out={tmp_path / name}", "--direction=b2a"]
        assert translate.main([*words, "--precision=float32"]) == 0
    for k in range(3):
        a, b = (np.asarray(Image.open(tmp_path / name / f"{k}.png")).astype(int) for name in ("torch", "onnx"))
        assert a.shape == (20, 30 + k, 3) and np.abs(a - b).max() <= 1 and a.std() > 1


def test_beyond_the_tolerance_the_exit_code_is_1(exported, adapter, photos, tmp_path, capsys, monkeypatch):
    def copy(adapter, base, folder, *rest):
        for name in ("b2a.onnx", "export.json", "adapter.json"):
            shutil.copy(exported / name, folder)

    monkeypatch.setattr("exporting.export.write_models", copy)
    monkeypatch.setitem(parity.TOLERANCES, "float32", {"max_difference": -1})
    words = [*arguments(adapter, tmp_path / "out"), f"--data={photos}", "--direction=b2a"]
    assert export.main(words) == 1
    assert capsys.readouterr().err.startswith("error: b2a at float32 differs from PyTorch by max_difference 0, allowed")
    assert [*tmp_path.iterdir()] == []


def test_bad_input_gets_a_line(adapter, photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    data = f"--data={photos}"
    for words, message in (
        (
            [*arguments(adapter, out), data, "--precision=int8"],
            "PRECISION=int8 of FORMAT=onnx: FORMAT=onnx has float32;",
        ),
        ([*arguments(adapter, out), data, "--precision=int4"], "Unknown precision 'int4'. Did you mean 'int8'?"),
        ([*arguments(adapter, out), data, "--direction=b2c"], "Unknown DIRECTION 'b2c'"),
        ([*arguments(adapter, out), data, "--n=0"], "N must be an integer of at least 1"),
        (arguments(adapter, out), "is not part of a run (no config.yaml)"),
        ([*arguments(adapter, out), f"--data={tmp_path / 'no'}"], "There is no folder"),
        ([*arguments(adapter, out), f"--data={tmp_path / 'empty'}"], "No images in"),
        ([*arguments(adapter, tmp_path / "mine"), data], "it holds 'notes.txt'"),
        ([*arguments(adapter, photos / "0.png"), data], "is a file"),
        ([*arguments(adapter, out), data, "--prompt=fog"], "names its own prompts"),
        ([*arguments(adapter, out, "diffusers"), "--precision=float32"], "FORMAT=diffusers takes no PRECISION"),
        ([*arguments(photos, out), data], "No adapter in"),
    ):
        assert export.main(words) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert export.main([*arguments(adapter, out, "openvino"), data, "--precision=int8"]) == 2
    assert "openvino and nncf is not installed: pip install -e '.[export]' adds it." in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_is_measured_on_its_own_test_images(finished, tmp_path, precision, capsys):
    words = [*arguments(finished, tmp_path / "out", "openvino"), f"--precision={precision}", "--n=64"]
    assert export.main(words) == 0
    printed = capsys.readouterr().out
    assert "a2b: the test split has 5 images, so N=64 is 5." in printed and "a2b: over 5 images at most" in printed
    assert len([*(tmp_path / "out").glob("*.bin")]) == 2


def test_an_exported_model_is_evaluated_like_its_adapter(exported, adapter, folder_of_two_domains, tmp_path, capsys):
    scores = {}
    for ckpt, name in ((adapter, "torch"), (exported, "onnx")):
        words = [f"--ckpt={ckpt}", "--exp=clear2foggy", f"--data={folder_of_two_domains}", f"--out={tmp_path / name}"]
        assert evaluate.main(words) == 0
        assert f"computed by: {name} in float32 on cpu" in capsys.readouterr().out
        scores[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert scores["onnx"]["backend"] == "onnx" and "a2b" not in scores["onnx"], "one direction was exported"
    assert scores["onnx"]["b2a"]["identity_gap"] == pytest.approx(scores["torch"]["b2a"]["identity_gap"], rel=1e-3)
    assert evaluate.main([f"--ckpt={exported}", "--exp=clear2foggy", "--precision=bfloat16", f"--out={tmp_path}"]) == 2
    assert "float32" in capsys.readouterr().err
