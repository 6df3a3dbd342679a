"""examples/quick_start.ipynb, run as a reader does, with a shorter training."""

import os
import signal
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tensorboard import manager

ROOT = Path(__file__).parents[1]
SHORT = "max_images=2 --trainer.limit_val_batches=1 --trainer.limit_test_batches=2"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that is typed in as in the checkout; what runs is the checkout, what is written stays here."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where tensorboard notes what runs
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ONE_STEP_RUN_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for note in (tmp_path / ".tensorboard-info").glob("*.info"):
        os.kill(manager._info_from_string(note.read_text()).pid, signal.SIGTERM)


@pytest.mark.slow
def test_the_notebook_runs(checkout):
    notebook = nbformat.read(ROOT / "examples" / "quick_start.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before committing"
    (training,) = [cell for cell in notebook.cells if cell.source.startswith("!make train")]
    assert "max_images=60" in training.source
    training.source = training.source.replace("max_images=60", SHORT)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": checkout / "examples"}}).execute()
    cells = {cell.source.partition("\n")[0]: cell for cell in notebook.cells if cell.cell_type == "code"}
    pictures = [
        cell for cell in cells.values() if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert len(pictures) == 5
    said = "".join(output.get("text", "") for cell in cells.values() for output in cell.outputs)
    assert "a2b fid" in said and "b2a fid" in said and "error" not in said.lower()
    (tensorboard,) = [cell for cell in cells.values() if "%tensorboard" in cell.source]
    assert any("iframe" in output.get("data", {}).get("text/html", "") for output in tensorboard.outputs)
    (run,) = (checkout / "runs" / "day2night" / "pocket").iterdir()
    assert (run / "adapter" / "adapter.json").is_file()
    assert (checkout / "runs" / "night-onnx" / "parity.json").is_file()
