"""``make evaluate``: repeats a run's own figures, measures any other program's pictures, spoils no run."""

import json
import shutil

import pytest
import torch

from commands import compare, evaluate, export
from commands.cli.recipes import Recipe, read_settings
from evaluation.external import ExternalTranslations
from images.writing import write_image


def test_evaluate_repeats_the_runs_own_figures(finished, tmp_path):
    before = json.loads((finished / "metrics.json").read_text())
    assert evaluate.main([f"--ckpt={finished}", f"--out={tmp_path / 'again'}"]) == 0
    after = json.loads((tmp_path / "again" / "metrics.json").read_text())
    for direction in ("a2b", "b2a"):
        for key in ("fid", "kid", "structure", "identity_gap", "fid_floor"):
            assert after[direction][key] == pytest.approx(before[direction][key], rel=1e-3, abs=1e-5), key


def test_evaluate_resizes_for_fid_as_asked(finished, tmp_path, capsys):
    before = json.loads((finished / "metrics.json").read_text())["a2b"]
    assert evaluate.main([f"--ckpt={finished}", f"--out={tmp_path / 'other'}", "--resize=legacy"]) == 0
    after = json.loads((tmp_path / "other" / "metrics.json").read_text())["a2b"]
    assert "a2b: FID (random-legacy)" in capsys.readouterr().out
    assert after["fid"] != pytest.approx(before["fid"], rel=1e-2)
    assert after["structure"] == pytest.approx(before["structure"], rel=1e-3)
    assert after["protocol"]["feature_resize"] == "legacy, to 224 x 224"
    assert compare.main([str(finished), str(tmp_path / "other")]) == 2
    assert "feature_resize: None and legacy" in capsys.readouterr().err


def test_evaluate_at_full_resolution(finished, tmp_path, capsys):
    size = 2 * json.loads((finished / "metrics.json").read_text())["preprocessing"]["eval_size"]
    scores = {}
    for resolution in ("lift", "direct", "auto"):
        out = tmp_path / resolution
        words = [f"--ckpt={finished}", f"--out={out}", f"--size={size}", f"--resolution={resolution}"]
        assert evaluate.main(words) == 0
        report = json.loads((out / "metrics.json").read_text())
        assert report["a2b"]["protocol"]["size"].startswith(f"short side {size},")
        assert report.get("resolution") == (None if resolution == "direct" else "lift")
        assert f"resolution: {'direct' if resolution == 'direct' else 'lift from'}" in capsys.readouterr().out
        scores[resolution] = report["a2b"]["identity_gap"]
    assert scores["auto"] == scores["lift"] != pytest.approx(scores["direct"], rel=1e-3)


def test_evaluate_in_place_keeps_what_only_training_knows(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = json.loads((run / "metrics.json").read_text())
    assert evaluate.main([f"--ckpt={run}"]) == 0
    after = json.loads((run / "metrics.json").read_text())
    assert after.keys() == before.keys()
    assert all(after[k] == before[k] for k in ("batches", "wall_s", "seconds_per_batch", "peak_memory_mb"))


def test_evaluate_measures_pictures_of_any_other_program(finished, folder_of_two_domains, tmp_path):
    """The inputs handed back as translations score what copying scores."""
    given = folder_of_two_domains / "test_A"
    config = [f"--data={folder_of_two_domains}", "--exp=clear2foggy", f"--out={tmp_path / 'scores'}"]
    assert evaluate.main([f"--ckpt={given}", *config]) == 0
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())["a2b"]
    assert scores["fid"] == pytest.approx(scores["copy_input"]["fid"])
    assert scores["identity_gap"] == pytest.approx(0, abs=1e-6)


def test_pictures_are_found_by_path_before_name(tmp_path):
    for name in ("a/0.png", "b/0.png", "1.png", "b/2.png"):
        write_image(tmp_path / name, torch.zeros(3, 4, 4))
    external = ExternalTranslations(tmp_path, short_side=4)
    assert external.find("test/a/0.jpg", "a2b") == tmp_path / "a" / "0.png"
    assert external.find("test/b/0.jpg", "a2b") == tmp_path / "b" / "0.png"
    assert external.find("c/1.jpg", "a2b") == tmp_path / "1.png"
    assert external.find("2.jpg", "a2b") == tmp_path / "b" / "2.png"
    for name, error, words in (
        ("3.jpg", FileNotFoundError, "No image for 3.jpg"),
        ("0.jpg", ValueError, "could both be the translation of 0.jpg"),
        ("d/1.jpg", ValueError, "translation of c/1.jpg and of d/1.jpg"),
    ):
        with pytest.raises(error, match=words):
            external.find(name, "a2b")


def test_a_released_file_takes_the_prompts_of_the_data(finished, two_level_base, folder_of_two_domains, tmp_path):
    """It holds none, and two directions need one each."""
    assert export.main([f"--ckpt={finished}", "--format=released", f"--out={tmp_path}"]) == 0
    flags = [f"--ckpt={tmp_path / 'released.pkl'}", f"--base={two_level_base}", "--exp=clear2foggy"]
    # The pocket recipe's feature networks, on images as small as the run's.
    config = read_settings(finished / "config.yaml")
    scores = {}
    for out, arguments in (("run", [f"--ckpt={finished}"]), ("pkl", flags)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "compose", lambda *_: Recipe("clear2foggy", "own", layers=[config]))
            assert evaluate.main([*arguments, f"--out={tmp_path / out}", f"--data={folder_of_two_domains}"]) == 0
        scores[out] = json.loads((tmp_path / out / "metrics.json").read_text())
    for direction in ("a2b", "b2a"):
        assert scores["pkl"][direction]["structure"] == pytest.approx(scores["run"][direction]["structure"], rel=1e-2)
