import json
import sys
from pathlib import Path

import pytest

from ablation import trials
from ablation.trials import Trial
from benchmarks import base_models
from benchmarks.base_models import Plan
from benchmarks.base_table import build_report, markdown
from benchmarks.trial_queue import TrialQueue

WRITE = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(sys.argv[2])
"""


def metrics(fid=10.0, truth=0.1, images=100, wall=60.0, directions=("a2b", "b2a")):
    block = {
        "fid": fid, "kid": 0.1, "structure": 0.01, "lpips_truth": truth, "psnr_truth": 20.0, "fid_floor": 2.0,
        "fid_features": "lite0", "n_fake": 64,
        "copy_input": {"fid": 90.0, "kid": 0.9, "lpips_truth": 0.2, "psnr_truth": 12.0},
    }  # fmt: skip
    return {
        "images_seen": images, "wall_s": wall, "placeholders": [], "versions": {"torch": "2"},
        **{d: block for d in directions},
    }  # fmt: skip


def report(finished, seeds=1):
    return build_report(finished, "make bench-base", 100, seeds, {})


def verdicts(pocket, random, resnet):
    finished = {("t", m, 0): metrics(f) for m, f in (("pocket", pocket), ("random", random), ("resnet", resnet)) if f}
    (found,) = report(finished)["verdicts"]
    return found["at_most_half_of_random"], found["below_resnet"]


@pytest.mark.parametrize(
    ("fids", "wanted"),
    [
        ((10, 20, 11), (True, True)),
        ((10, 19, 10), (False, False)),
        ((10, None, 11), (None, True)),
        ((None, 20, 11), (None, None)),
    ],
)
def test_the_verdict_compares_fid(fids, wanted):
    assert verdicts(*fids) == wanted


def test_both_directions_must_hold():
    pocket, random = metrics(10.0), metrics(30.0)
    pocket["b2a"] = {**pocket["b2a"], "fid": 16.0}
    (found,) = report({("t", "pocket", 0): pocket, ("t", "random", 0): random})["verdicts"]
    assert found["at_most_half_of_random"] is False
    assert found["fid"] == {"a2b": {"pocket": 10.0, "random": 30.0}, "b2a": {"pocket": 16.0, "random": 30.0}}
    assert found["to_copy"] == {d: {"fid": fid / 90, "lpips_truth": 0.5} for d, fid in (("a2b", 10), ("b2a", 16))}


def test_seeds_give_mean_and_extremes():
    found = report({("t", "pocket", k): metrics(fid, directions=["a2b"]) for k, fid in enumerate((8, 10, 15))}, 3)
    (row,) = found["rows"]
    assert (row["n"], row["fid"]) == (3, {"mean": 11.0, "min": 8, "max": 15, "values": [8, 10, 15]})
    text = markdown(found)
    assert "11 (8 to 15)" in text
    assert "(n = " not in text


def test_baselines_measured_on_other_images_are_named():
    baseline = metrics(20.0)
    baseline["b2a"] = {**baseline["b2a"], "n_fake": 32}
    found = report({("t", "pocket", 0): metrics(), ("t", "random", 0): metrics(30.0), ("t", "resnet", 0): baseline})
    assert found["mismatches"] == ["t seed 0 b2a, resnet: n_fake: 64 and 32"]
    assert "NOT COMPARABLE" in markdown(found)
    assert "NOT COMPARABLE" not in markdown(report({("t", "pocket", 0): metrics()}))


def test_the_table_shows_every_row_and_what_is_missing():
    finished = {("fog", "pocket", 0): metrics(), ("edge", "pocket", 0): metrics(directions=["a2b"])}
    finished["edge", "pocket", 0]["a2b"] = {**finished["edge", "pocket", 0]["a2b"], "kid": None}
    found = build_report(finished, "make bench-base", 100, 2, {"runs/x": "out of memory"})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = [line for line in markdown(found).splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| fog a2b", "| fog a2b", "| fog b2a", "| fog b2a", "| edge a2b", "| edge a2b",
    ]  # fmt: skip
    assert rows[0] == "| fog a2b | pocket (n = 1) | 10 | 0.1 | 0.1 | 20 | 0.01 | 2 | 100 | 60 |"
    assert rows[1] == "| fog a2b | copy of the input | 90 | 0.9 | 0.2 | 12 | - | - | - | - |"
    assert "| 10 | - |" in rows[4]
    assert "- no figures from runs/x: out of memory" in markdown(found)
    assert "below resnet's: not known" in markdown(found)
    assert "of what a copy scores: a2b FID 0.11, LPIPS to truth 0.50; b2a" in markdown(found)


def test_placeholders_are_shouted():
    finished = {("t", "pocket", 0): {**metrics(), "placeholders": ["base", "data"]}}
    assert "PLACEHOLDER: base and data" in markdown(report(finished))


def planned(root, tasks, models, seeds=1, images=None, overrides=()):
    return Plan(root, images, list(overrides)).trials(tasks, models, seeds)


def test_pocket_comes_before_the_model_that_gets_its_time(tmp_path):
    found = planned(tmp_path, ["a", "b"], ["resnet", "pocket"], 2)
    assert [(t.seed, *t.labels.values()) for t in found] == [
        (s, t, m) for s in (0, 1) for t in ("a", "b") for m in ("pocket", "resnet")
    ]


def test_commands_differ_in_the_model_and_its_limit_only(tmp_path):
    found = planned(tmp_path, ["clear2foggy"], ["pocket", "random"], images=50, overrides=["--x=1"])
    words = {t.labels["model"]: t.command() for t in found}
    extra = set(words["random"]) - set(words["pocket"])
    assert extra == {
        "--model.init_args.generator.init_args.random_init=true",
        f"--run={tmp_path}/clear2foggy/random/seed0",
    }
    assert {"--model.init_args.max_images=50", "--seed_everything=0", "--x=1"} <= set(words["pocket"])
    resnet = Plan(tmp_path, 50, []).trial("clear2foggy", "resnet", 0, 90061.4)
    timed = resnet.command()
    assert {"--trainer.max_time=01:01:01:01", "--model.init_args.max_images=null", "--base=resnet"} <= set(timed)
    folder = Path(resnet.folder)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    assert resnet.command()[1:] == ["-m", "commands.resume", f"--run={folder}"]


def test_what_is_changed_on_the_command_line_wins_over_the_models_own_settings(tmp_path):
    (trial,) = planned(tmp_path, ["clear2foggy"], ["pocket"], images=50, overrides=["--model.init_args.max_images=9"])
    limits = [word for word in trial.arguments if "max_images" in word]
    assert limits == ["--model.init_args.max_images=50", "--model.init_args.max_images=9"]


def test_the_expected_time_is_that_of_the_nearest_finished_trial(tmp_path):
    queue = TrialQueue(planned(tmp_path, ["a", "b"], ["pocket", "random"]))
    pocket, random, other, _ = queue.trials
    assert queue.expected_seconds(pocket) is None
    queue.seconds = {pocket.name: 10.0, other.name: 50.0}
    assert queue.expected_seconds(pocket) == 10.0
    assert queue.expected_seconds(random) == 10.0
    queue.seconds = {pocket.name: 10.0, random.name: 30.0}
    assert queue.expected_seconds(other) == 20.0


def test_what_was_interrupted_before_its_first_checkpoint_is_removed(tmp_path, monkeypatch):
    (trial,) = planned(tmp_path, ["clear2foggy"], ["pocket"])
    (Path(trial.folder) / "left").mkdir(parents=True)
    monkeypatch.setattr(
        Trial, "command", lambda self: [sys.executable, "-c", WRITE, self.folder, json.dumps(metrics())]
    )
    assert TrialQueue([trial]).train(trial) == ""
    assert [path.name for path in Path(trial.folder).iterdir()] == ["metrics.json"]


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Trainings that write their metrics at once; the random one fails.  Lists the model and time of each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "POLL_SECONDS", 0.1)
    started = []

    def command(trial):
        limits = [word.partition("=")[2] for word in trial.arguments if word.startswith("--trainer.max_time=")]
        started.append((trial.labels["model"], *limits))
        if trial.labels["model"] == "random":
            return [sys.executable, "-c", "print('error: no room'); raise SystemExit(2)"]
        return [sys.executable, "-c", WRITE, trial.folder, json.dumps(metrics(wall=60.0, images=7))]

    monkeypatch.setattr(Trial, "command", command)
    return started


def test_a_failure_is_shown_and_the_rest_goes_on(pretended, capsys, tmp_path):
    flags = ["--tasks", "clear2foggy", "--images", "7", "--out", "copy.json"]
    assert base_models.main(flags) == 1
    assert pretended == [("pocket",), ("random",), ("resnet", "00:00:01:00")]
    written = json.loads((tmp_path / "copy.json").read_text())
    assert written == json.loads((tmp_path / "runs/bench-base/table.json").read_text())
    assert written["failures"] == {"runs/bench-base/clear2foggy/random/seed0": "error: no room"}
    assert (written["images"], written["seeds"], written["versions"]) == (7, 1, {"torch": "2"})
    assert "--images 7" in written["command"]
    assert "FAILED: error: no room" in capsys.readouterr().out
    # What is finished is not run again.
    assert base_models.main(flags) == 1
    assert pretended[3:] == [("random",)]


def test_resnet_waits_for_pocket(pretended, capsys):
    assert base_models.main(["--tasks", "clear2foggy", "--models", "resnet"]) == 1
    assert pretended == []
    assert "skipped, pocket" in capsys.readouterr().out


@pytest.mark.slow
def test_three_real_runs_and_their_table(tmp_path, monkeypatch):
    """The whole way at 64 px; resnet gets pocket's seconds and stops by them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(base_models.__file__).parents[1]))
    small = [f"--data.init_args.{k}" for k in ("train_scenes=8", "val_scenes=4", "test_scenes=4", "num_workers=0")]
    small += [f"--data.init_args.{k}=64" for k in ("resize", "crop", "eval_size")]
    flags = ["--tasks", "edge2image", "--images", "8", *small, "--trainer.accelerator=cpu"]
    assert base_models.main(flags) == 0
    rows = {r["model"]: r for r in json.loads((tmp_path / "runs/bench-base/table.json").read_text())["rows"]}
    assert set(rows) == {"pocket", "random", "resnet"}
    assert rows["pocket"]["images"]["mean"] == rows["random"]["images"]["mean"] == 8
    assert rows["resnet"]["seconds"]["mean"] == pytest.approx(rows["pocket"]["seconds"]["mean"], abs=5)
