"""A learning rate far too high: one line says so, and what is said of the last checkpoint is true."""

import pytest
import torch

from commands import train
from networks.checkpoints.adapter import read_checkpoint

from .conftest import arguments


@pytest.fixture
def said(monkeypatch):
    """Lines of Lightning's logger, whose level and handlers are the process's: earlier tests change them."""
    lines = []
    monkeypatch.setattr("lightning_modules.callbacks.run_folder.rank_zero_info", lines.append)
    return lines


def diverge(base, data, run, capsys, *more):
    """Train with an absurd learning rate, which is one line."""
    rate = "--model.init_args.optimizer_g.init_args.lr=1000000"
    words = arguments(base, data, run, rate, "--model.init_args.warmup_images=0", *more)
    assert train.main(words) == 1
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "not finite" in error and "Mostly the learning rate is too high" in error
    assert "optimizer_g.init_args.lr and model.init_args.optimizer_d.init_args.lr" in error, "of both players"


def test_a_diverging_training_before_the_first_validation_says_that_nothing_is_saved(
    two_level_base, folder_of_two_domains, tmp_path, capsys, said
):
    more = ("--model.init_args.max_images=100", "--trainer.val_check_interval=100", "--trainer.max_epochs=-1")
    diverge(two_level_base, folder_of_two_domains, tmp_path / "run", capsys, *more)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert "No checkpoint was written: start a new training with a lower learning rate." in "".join(said)


def test_what_is_saved_of_a_diverging_training_is_finite_and_named(
    two_level_base, folder_of_two_domains, tmp_path, capsys, said
):
    more = ("--model.init_args.max_images=100", "--trainer.val_check_interval=1", "--trainer.limit_val_batches=1")
    diverge(two_level_base, folder_of_two_domains, tmp_path / "run", capsys, *more)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    if last.exists():
        assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(last)["state_dict"].values())
        assert str(last) in "".join(said)
    else:
        assert "No checkpoint was written" in "".join(said)
