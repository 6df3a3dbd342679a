"""A training that a signal stops is saved exactly, says how to go on, and ends with the signal's exit code."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import resume, train
from lightning_modules import CycleGANTurbo

from .conftest import arguments, chosen
from .test_train import same

# Six images make an epoch; validations follow the third, the sixth and the seventh, which is the last.
SETTINGS = ("--trainer.val_check_interval=3", "--model.init_args.accumulate=2", *chosen("min"))
STATE = ("state_dict", "optimizer_states", "progress", "rng", "gradients")


@pytest.fixture(scope="module")
def flags(two_level_base, folder_of_two_domains):
    """The command line of a run of seven images in a folder."""
    more = (*SETTINGS, "--model.init_args.max_images=7")
    return lambda run, *others: arguments(two_level_base, folder_of_two_domains, run, *more, *others)


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train.main(flags(folder)) == 0
    return folder


def last(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_equal_runs(a, b):
    x, y = last(a), last(b)
    for key in STATE:
        same(x[key], y[key], key)
    for name in ("CollapseAlarm", "MissingValidation"):
        same(x["callbacks"][name], y["callbacks"][name], name)
    x, y = (json.loads((run / "metrics.json").read_text()) for run in (a, b))
    assert (x["a2b"], x["b2a"], x["best"], x["images_seen"]) == (y["a2b"], y["b2a"], y["best"], y["images_seen"])
    assert [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (a, b)] == [
        ["best-3.ckpt", "last.ckpt"]
    ] * 2
    same(load_file(a / "adapter" / "adapter.safetensors"), load_file(b / "adapter" / "adapter.safetensors"))
    events = EventAccumulator(str(b)).Reload()
    assert [point.step for point in events.Scalars("val/fid_a2b")] == [3, 6, 7], "each validation counts once"


def signal_at(monkeypatch, owner, name, moment, number):
    """Send this process a signal when a method of the model is called at a moment: (phase, images seen)."""
    original = getattr(owner, name)

    def method(module, *args, **kwargs):
        if moment == (module.trainer.state.stage.value, module.images_seen):
            os.kill(os.getpid(), number)
        return original(module, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)


def saved(run):
    return last(run)["progress"]["images_seen"] if (run / "checkpoints" / "last.ckpt").is_file() else None


# Method of the model, moment, signal, exit code, images of the state that is saved.
STOPS = [
    ("on_fit_start", ("train", 0), signal.SIGTERM, 143, None),
    ("training_step", ("train", 0), signal.SIGTERM, 143, 1),
    ("training_step", ("train", 2), signal.SIGINT, 130, 3),
    ("validation_step", ("validate", 6), signal.SIGHUP, 129, 6),
    ("training_step", ("train", 6), signal.SIGUSR1, 138, 7),
    ("validation_step", ("validate", 7), signal.SIGTERM, 143, 7),
    ("test_step", ("test", 7), signal.SIGTERM, 143, 7),
]


@pytest.mark.long
def test_a_run_stopped_by_signals_at_many_moments_is_the_uninterrupted_one(whole, flags, monkeypatch, tmp_path, capsys):
    """Before the first batch, between two of a step, before and in a validation, at the last batch, in the test."""
    run = tmp_path / "run"
    command, words = train, flags(run)
    for method, moment, number, code, images in STOPS:
        before = signal.getsignal(number)
        with monkeypatch.context() as patch:
            signal_at(patch, CycleGANTurbo, method, moment, number)
            assert command.main(words) == code, (method, moment)
        assert signal.getsignal(number) is before
        state = "before the first batch" if images is None else f"after {images} images, all of them saved"
        assert capsys.readouterr().err.endswith(
            f"Stopped by {number.name} {state}. Continue with: make resume RUN={run}\n"
        )
        assert saved(run) == images
        if images:
            assert json.loads((run / "adapter" / "adapter.json").read_text())["images_seen"] == images
        assert not (run / "metrics.json").exists()
        command, words = resume, [f"--run={run}"]
    assert resume.main(words) == 0
    assert_equal_runs(whole, run)
    assert json.loads((run / "adapter" / "adapter.json").read_text())["experiment"] == "clear2foggy"
