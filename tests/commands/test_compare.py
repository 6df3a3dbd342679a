import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import compare
from commands.compare import main

BLOCK = {
    "fid": 123.456,
    "fid_floor": 50.5,
    "kid": 0.25,
    "structure": 0.01,
    "identity_gap": 0.07,
    "diversity": None,
    "n_fake": 5,
    "n_real": 5,
    "fid_features": "lite0",
    "structure_features": "lite0",
    "lpips_features": "lite0",
    "network_hashes": {"lite0": "0123456789ab"},
    "copy_input": {"fid": 500.0},
    "protocol": {"split": "test", "translated": "5 images, names and sizes aa", "rendered_with_seed": None},
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs of both directions, and a writer of further ones."""
    monkeypatch.chdir(tmp_path)

    def write(name, change=lambda metrics: None):
        metrics = {"images_seen": 9, "base": "pocket", "a2b": copy.deepcopy(BLOCK), "b2a": copy.deepcopy(BLOCK)}
        change(metrics)
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        return name

    write("one")
    write("two", lambda m: m["a2b"].update(fid=77.0))
    return write


def test_runs_stand_side_by_side(runs, capsys):
    runs("paired", lambda m: m.pop("b2a"))
    assert main(["one", "two/metrics.json", "paired"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:6]] == ["one", "two/metrics.json", "paired", "input unchanged"]
    assert [line.split(" | ")[4:7] for line in lines[2:6]] == [
        ["123.5", "50.5", "0.25"],
        ["77", "50.5", "0.25"],
        ["123.5", "50.5", "0.25"],
        ["500", "-", "-"],
    ]
    assert "split test" in lines[-1] and "lite0 0123456789ab" in lines[-1] and "None" not in lines[-1]


def test_the_command_itself_prints_the_table(runs):
    root = Path(compare.__file__).parents[1]
    command = [sys.executable, "-m", "commands.compare", "one", "two"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0 and "| a2b | two |" in done.stdout


def test_facts_that_do_not_decide_are_only_shown(runs, capsys):
    """Versions, folders and names of networks: digests and numbers stand beside them."""
    unimportant = {
        "direction": "a2b",
        "versions": "torch 3",
        "reference_folder": "/elsewhere",
        "networks": "x",
        "seed": 1,
    }
    runs("other", lambda m: [m[d]["protocol"].update(unimportant) for d in ("a2b", "b2a")])
    assert main(["one", "other"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == ["Measured with different versions:", "- one: not known", "- other: torch 3"]
    assert main(["one", "two"]) == 0
    assert "versions" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.update(n_fake=4), "n_fake: 5 and 4"),
        (lambda b: b.update(fid_features="inception"), "fid_features: lite0 and inception"),
        (lambda b: b["network_hashes"].update(lite0="ff"), "0123456789ab"),
        (lambda b: b["protocol"].update(feature_resize="clean, to 224 x 224"), "feature_resize: None and clean"),
        (lambda b: b["protocol"].update(split="validate"), "split: test and validate"),
        (lambda b: b["protocol"].update(rendered_with_seed=3), "rendered_with_seed: None and 3"),
        (lambda b: b["protocol"].pop("translated"), "names and sizes aa and None"),
    ],
)
def test_another_protocol_is_refused_with_the_difference(runs, capsys, change, words):
    runs("odd", lambda m: change(m["b2a"]))
    assert main(["one", "odd"]) == 2
    error = capsys.readouterr().err
    assert words in error and "(b2a)" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one"], "two runs or more"),
        (["one", "one"], "named twice"),
        (["one", "nowhere"], "No metrics at nowhere"),
        (["one", "old"], "make evaluate CKPT=old"),
        (["one", "broken"], "broken/metrics.json is damaged, or no JSON"),
        (["b", "a"], "no direction in common"),
    ],
)
def test_bad_input_gets_a_line(runs, capsys, arguments, words, tmp_path):
    runs("old", lambda m: m["a2b"].pop("protocol"))
    runs("a", lambda m: m.pop("b2a"))
    runs("b", lambda m: m.pop("a2b"))
    (tmp_path / runs("broken") / "metrics.json").write_text("{")
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
