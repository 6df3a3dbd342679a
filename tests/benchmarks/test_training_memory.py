import json

import pytest

from benchmarks.training_memory import main

EVERY = ("exp", "memory", "size", "batch", "precision")


def rows(tmp_path, *arguments):
    main([*arguments, "--batches", "1", "--sizes", "64", f"--out={tmp_path / 'memory.json'}"])
    return json.loads((tmp_path / "memory.json").read_text())["rows"]


@pytest.mark.long
def test_every_row_is_a_step_of_its_own(tmp_path):
    found = rows(tmp_path, "--base=pocket", "--exp", "edge2image", "--memory", "none", "8gb")
    assert [tuple(row[k] for k in EVERY) for row in found] == [
        ("edge2image", "none", 64, 1, "32-true"),
        ("edge2image", "8gb", 64, 1, "bf16-mixed"),
    ]
    assert all(0.3 < row["peak_gb"] < 4 and row["seconds"] > 0 for row in found)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["none", "8gb"])
def test_a_full_size_step_runs_in_14_gb_on_a_cpu(tmp_path, memory):
    """SD-Turbo's whole architecture, both models at the paper's ranks."""
    found = rows(tmp_path, "--exp", "clear2foggy", "edge2image", "--memory", memory)
    assert [row["exp"] for row in found] == ["clear2foggy", "edge2image"]
    assert all(3 < row["peak_gb"] <= 14 for row in found)
