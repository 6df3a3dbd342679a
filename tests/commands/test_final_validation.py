"""The last state of a training is validated once, whatever ends it."""

import itertools
import json

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import resume, train

from .conftest import arguments
from .test_train import same


def validated(run):
    """Images seen at each validation, of all event files."""
    found = []
    for path in sorted(run.glob("events.*")):
        events = EventAccumulator(str(path)).Reload()
        found += [s.step for s in events.Scalars("val/fid_a2b")] if "val/fid_a2b" in events.Tags()["scalars"] else []
    return sorted(found)


@pytest.mark.parametrize(
    ("limit", "interval", "images"),
    [
        ("max_images=4", 3, [3, 4]),
        ("max_images=4", 2, [2, 4]),
        ("max_epochs=1", 100, [6]),
        ("max_epochs=1", 4, [4, 6]),
        ("max_epochs=1", 3, [3, 6]),
        ("max_steps=6", 100, [3]),  # two optimisers: two steps a batch
        ("max_time=00:00:00:03", 100, [3]),
    ],
)
def test_the_last_state_is_validated_once(
    limit, interval, images, two_level_base, folder_of_two_domains, tmp_path, monkeypatch, capsys
):
    ticks = itertools.count()  # a second when the timer starts, then one per batch
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": next(ticks) if stage == "train" else 0)
    owner = "model.init_args" if "images" in limit else "trainer"
    more = (f"--{owner}.{limit}", f"--trainer.val_check_interval={interval}")
    run = tmp_path / "run"
    assert train.main(arguments(two_level_base, folder_of_two_domains, run, *more)) == 0
    said = capsys.readouterr().out
    assert ("steps of generator and discriminators together" in said) is limit.startswith("max_steps")
    assert validated(run) == images
    assert json.loads((run / "metrics.json").read_text())["best"]["images_seen"] in images
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["progress"]["images_seen"] == images[-1]


def test_a_run_extended_behind_its_final_validation_is_the_uninterrupted_one(
    two_level_base, folder_of_two_domains, tmp_path, capsys
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train.main(arguments(two_level_base, folder_of_two_domains, whole, "--trainer.max_epochs=2")) == 0
    assert train.main(arguments(two_level_base, folder_of_two_domains, broken, "--trainer.max_epochs=1")) == 0
    assert resume.main([f"--run={broken}", "--trainer.max_epochs=2"]) == 0
    a, b = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (whole, broken))
    for key in ("state_dict", "optimizer_states", "progress", "rng"):
        same(a[key], b[key], key)
    assert (validated(whole), validated(broken)) == ([12], [6, 12])
    assert "nothing left" not in capsys.readouterr().out
    assert resume.main([f"--run={broken}"]) == 0
    said = capsys.readouterr().out
    assert "nothing left to train: 12 images were seen and trainer.max_epochs is 2; a larger value extends" in said
