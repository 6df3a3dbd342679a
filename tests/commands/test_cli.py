"""The command line that every training goes through."""

import pytest

from commands.cli import ParsedOnly
from commands.train import configuration

KEYS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("3", 3), ("1.0", 1.0), ("0.5", 0.5)])
def test_a_limit_of_one_is_one_batch_and_not_all_of_them(text, value, tmp_path):
    _, _, words = configuration(["--exp=clear2foggy", *(f"--trainer.{key}={text}" for key in KEYS)])
    trainer = ParsedOnly(tmp_path, words).config["trainer"]
    assert [(trainer[key], type(trainer[key])) for key in KEYS] == [(value, type(value))] * len(KEYS)
