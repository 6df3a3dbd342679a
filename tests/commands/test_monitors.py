"""What callbacks go by is known to be logged before training begins."""

import re

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands.cli.lightning_cli import TrainCLI
from commands.cli.training import _check_validation
from commands.train import configuration

from .conftest import arguments


@pytest.fixture(scope="module")
def cli(two_level_base, folder_of_two_domains, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "exp" / "base" / "version_0"
    words = arguments(two_level_base, folder_of_two_domains, run, "--data.init_args.eval_batch_size=1")
    return TrainCLI(run, configuration(words)[2])


@pytest.fixture
def check(cli, monkeypatch):
    """Check with callbacks in place of the usual one, and perhaps another limit."""

    def with_callbacks(*callbacks, limit=1.0):
        monkeypatch.setattr(cli.trainer, "callbacks", list(callbacks))
        monkeypatch.setattr(cli.trainer, "limit_val_batches", limit)
        _check_validation(cli)

    return with_callbacks


def test_all_that_a_validation_logs_can_be_monitored(finished, check):
    events = EventAccumulator(str(finished), size_guidance={"scalars": 1}).Reload()
    logged = [tag for tag in events.Tags()["scalars"] if tag.startswith("val/")]
    assert len(logged) > 8
    check(*(EarlyStopping(tag) for tag in logged), ModelCheckpoint(monitor="images_seen"), ModelCheckpoint())


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        ("val/fid_a2c", "not logged on validation of this data. Did you mean 'val/fid_a2b'?"),
        ("val/lpips_truth_a2b", "not logged"),  # the data has no truth
        ("val/caption_similarity_a2b", "not logged"),
        ("train/gan_a2b", "not logged"),
        ("loss", "Logged are: images_seen, epoch, step, val/fid_a2b"),
    ],
)
@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_what_is_not_logged_is_refused(kind, monitor, says, check):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        check(kind(monitor=monitor))
    assert str(caught.value).startswith(f"{kind.__name__} monitors {monitor!r}")
    check(kind(monitor=monitor), limit=0)  # nobody waits for it


class Own(Callback):
    """Could log anything."""


def test_ones_own_callback_may_log_what_another_monitors(check):
    check(EarlyStopping("val/mine"), Own())


@pytest.mark.parametrize("limit", [1, 0.3])
def test_a_limit_to_one_image_is_too_few_in_either_form(limit, check):
    with pytest.raises(ValueError, match="1 images to translate in a2b and 4 to compare with, and val/fid_a2b"):
        check(ModelCheckpoint(monitor="val/fid_a2b"), limit=limit)
    check(ModelCheckpoint(monitor="val/fid_a2b"), limit=0.6)
