"""Packaged adapters: ``pocket:NAME`` where a path may stand, and what makes them."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ablation import trials
from commands import adapters, translate
from commands import evaluate as evaluate_command
from commands.cli import progress
from commands.train import configuration
from datamodules.scenes import render_state
from inference import Translator
from metrics.pixels import to_uint8
from networks.checkpoints.adapter import read_adapter
from packaged_adapters import FOLDER, packaged_adapter, packaged_names
from serving.catalogue import find_models

ROOT = Path(__file__).parents[2]
NAMES = ["clear2foggy", "day2night", "edge2image", "edit", "horse2zebra", "sketch2image"]


def test_one_of_each_experiment_is_there_small_and_with_scores():
    assert packaged_names() == NAMES
    for name in NAMES:
        folder = packaged_adapter(f"pocket:{name}")
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 2 * 2**20
        card = json.loads((folder / "adapter.json").read_text())
        assert card["experiment"] == name and card["base"] == "pocket"
        score = "lpips_truth" if name == "edit" else "fid"  # edits: inputs and targets are of the same domain
        for scores in card["metrics"].values():  # better than returning the input
            assert scores[score] < scores["copy_input"][score]


def test_other_texts_name_none_and_a_misspelt_one_says_what_there_is():
    assert packaged_adapter("runs/pocket:day2night") is None and packaged_adapter("owner/name") is None
    for wrong in ("pocket:day2nite", "pocket:", "pocket:../pocket"):
        with pytest.raises(FileNotFoundError, match=r"Known: pocket:clear2foggy, pocket:day2night"):
            packaged_adapter(wrong)
    with pytest.raises(FileNotFoundError, match="Did you mean 'day2night'"):
        packaged_adapter("pocket:day2nite")


def test_a_photograph_is_translated_at_its_size(tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (200, 264, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    words = [f"--in={tmp_path / 'photo.png'}", f"--out={tmp_path / 'night.png'}"]
    assert translate.main(["--ckpt=pocket:day2night", *words]) == 0
    assert "Resolution: lift" in capsys.readouterr().out
    found = np.asarray(Image.open(tmp_path / "night.png"))
    assert (found == Translator.load("pocket:day2night")(photo)).all() and found.shape == photo.shape
    assert found.mean() < photo.mean() - 20
    assert translate.main(["--ckpt=pocket:night", *words]) == 2
    assert capsys.readouterr().err.startswith("error: No packaged adapter pocket:night.")


def test_one_edits_by_words_and_says_what_it_was_trained_on(tmp_path, capsys):
    scene = render_state("street", ("day", "clear", "dry"), 0, 30_000, 128)
    translator = Translator.load("pocket:edit")
    night, fog, day = (
        translator(scene.numpy(), "a2b", f"a street {words}") for words in ("at night", "in dense fog", "by day")
    )
    assert night.mean() + 0.3 < scene.mean() < fog.mean() - 0.3
    truth = render_state("street", ("day", "foggy", "dry"), 0, 30_000, 128).numpy()
    assert np.abs(fog - truth).mean() < 0.25 * np.abs(scene.numpy() - truth).mean()
    assert np.abs(day - scene.numpy()).mean() < 0.1
    Image.fromarray(to_uint8(scene[None])[0].permute(1, 2, 0).numpy()).save(tmp_path / "day.png")
    words = [f"--in={tmp_path / 'day.png'}", f"--out={tmp_path / 'out.png'}", "--prompt=a purple street"]
    assert translate.main(["--ckpt=pocket:edit", *words]) == 0
    assert "That prompt was not trained, these were:\n  a street" in capsys.readouterr().out


def test_it_is_served_trained_from_and_evaluated_by_its_name(tmp_path, capsys, monkeypatch):
    assert find_models("pocket:day2night,pocket:clear2foggy") == {
        name: FOLDER / name for name in ("day2night", "clear2foggy")
    }
    _, _, arguments = configuration(["--exp=day2night", "--init=pocket:day2night"])
    assert arguments[-1].endswith(".init=pocket:day2night")
    measured = []
    monkeypatch.setattr(evaluate_command, "measure", lambda own, config, out, external: measured.append((config, out)))
    assert evaluate_command.main(["--ckpt=pocket:day2night"]) == 2  # never into the package
    assert "OUT=folder" in capsys.readouterr().err
    assert evaluate_command.main(["--ckpt=pocket:day2night", f"--out={tmp_path / 'scores'}"]) == 0
    ((config, out),) = measured
    assert config["data"]["class_path"] == "datamodules.DayNight" and out == tmp_path / "scores"


def test_one_is_packed_in_16_bits_with_the_scores_of_what_is_stored(adapter, tmp_path, monkeypatch, capsys):
    def scores(words):
        (ckpt, _, out) = (word.partition("=")[2] for word in words)
        stored = read_adapter(ckpt)
        assert {tensor.dtype for tensor in stored.tensors.values()} == {torch.float16}
        (tmp_path / "seen").write_text(stored.card.weights)
        (Path(out) / "metrics.json").write_text(json.dumps({"a2b": {"n_fake": 3, "fid": 7.5}}))
        return 0

    monkeypatch.setattr(adapters.evaluate, "main", scores)
    adapters.pack("day2night", adapter, tmp_path / "out")
    card = json.loads((tmp_path / "out" / "adapter.json").read_text())
    assert card["metrics"] == {"a2b": {"n_fake": 3, "fid": 7.5}}
    assert card["weights"] == (tmp_path / "seen").read_text() == read_adapter(tmp_path / "out").card.weights
    assert "CKPT=pocket:day2night" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr(adapters, "LIMIT", 1000)
    with pytest.raises(ValueError, match="a packaged one may take 2"):
        adapters.pack("day2night", adapter, tmp_path / "large")
    assert not (tmp_path / "large").exists()
    assert adapters.main(["--exp=day2nite"]) == 2
    assert "Did you mean 'day2night'?" in capsys.readouterr().err


def test_a_resumed_one_is_timed_by_what_is_new(tmp_path, monkeypatch, capsys):
    clock = [0.0]

    def sixty_then_seventy(trial, report):
        for images, new in ((60, 0), (70, 10)):
            clock[0] = 10.0 * new
            report({"images": images, "new": new, "seconds": clock[0]})

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(trials, "train", sixty_then_seventy)
    monkeypatch.setattr(adapters, "RECIPES", {"edge2image": adapters.Recipe(100)})
    adapters.train("edge2image", tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "0/100 images",
        "60/100 images",
        "70/100 images, 10 s per image, 05:00 left",
    ]


@pytest.mark.slow
def test_one_is_trained_packed_and_measured_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(adapters, "RECIPES", {"edge2image": adapters.Recipe(2)})
    words = ["--exp=edge2image", f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'out'}"]
    assert adapters.main(words) == 0
    card = read_adapter(tmp_path / "out" / "edge2image").card
    assert card.run.images_seen == 2 and card.settings.rank_vae == 7 and card.metrics["a2b"]["n_fake"] == 128
    assert "edge2image: training, log " in capfd.readouterr().out
    weights = (tmp_path / "out" / "edge2image" / "adapter.safetensors").read_bytes()
    assert adapters.main(words) == 0 and "training, log" not in capfd.readouterr().out
    assert (tmp_path / "out" / "edge2image" / "adapter.safetensors").read_bytes() == weights


def test_the_readme_has_their_scores():
    rows = re.findall(r"^\| `pocket:(\w+)` \| (a2b|b2a) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    shown = {(name, direction): text for name, direction, text in rows}
    expected = {}
    for name in NAMES:
        card = json.loads((FOLDER / name / "adapter.json").read_text())
        for direction, scores in card["metrics"].items():
            copied = scores["copy_input"]
            fid, lpips, psnr = "fid", "lpips_truth", "psnr_truth"
            expected[name, direction] = (
                f"{scores[fid]:.0f} ({copied[fid]:.0f}) | {scores[lpips]:.3f} ({copied[lpips]:.3f}) | "
                f"{scores[psnr]:.1f} ({copied[psnr]:.1f}) dB"
            )
    assert shown == expected
