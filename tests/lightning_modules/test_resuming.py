"""A checkpoint that lacks part of a training's state is refused before anything is built."""

from pathlib import Path

import pytest
import torch

from commands import resume
from lightning_modules.resuming import ENTRIES, check_resumable
from networks.checkpoints.adapter import read_checkpoint

RUN = Path(__file__).parents[1] / "networks" / "checkpoints" / "version_0_run"


@pytest.fixture(scope="module")
def checkpoint():
    return read_checkpoint(RUN / "checkpoints" / "last.ckpt")


def test_a_whole_one_passes_and_leaves_the_random_states(checkpoint):
    before = torch.get_rng_state()
    check_resumable(checkpoint, "last.ckpt")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", ["missing", None, "x", [1]])
def test_entries_that_are_missing_or_of_another_type_are_named(checkpoint, entry, value):
    if value == "missing":
        broken = {name: content for name, content in checkpoint.items() if name != entry}
    elif isinstance(value, ENTRIES[entry]) and ENTRIES[entry] is str:
        pytest.skip("a text is right")
    else:
        broken = checkpoint | {entry: value}
    if entry == "lr_schedulers" and value == [1]:
        pytest.skip("a list is right")
    with pytest.raises(ValueError, match=r"^last\.ckpt cannot be resumed: ") as caught:
        check_resumable(broken, "last.ckpt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("progress", {"images_seen": -1, "batches_seen": 0}, "progress.images_seen is -1"),
        ("progress", {"images_seen": 1}, "progress.batches_seen is None"),
        ("rng", [], "random states"),
        ("rng", [{"torch": torch.zeros(3)}], "random states"),
        ("gradients", {"a": 1}, "'gradients' must hold tensors"),
        ("optimizer_states", [{"state": {}}], "an optimiser's state"),
    ],
)
def test_values_that_no_training_writes_are_named(checkpoint, entry, value, words):
    with pytest.raises(ValueError, match=words):
        check_resumable(checkpoint | {entry: value}, "last.ckpt")


def test_resume_says_it_in_a_line(tmp_path, capsys):
    run = tmp_path / "exp" / "base" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text((RUN / "config.yaml").read_text())
    content = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({k: v for k, v in content.items() if k != "rng"}, run / "checkpoints" / "last.ckpt")
    assert resume.main([f"--run={run}"]) == 2
    assert "cannot be resumed: its entry 'rng' is missing" in capsys.readouterr().err
