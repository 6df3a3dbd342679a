"""A disk that refuses TensorBoard's events is a warning, and nothing is lost once it takes them again."""

import shutil
import threading
import warnings
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.event_file import EventLogger


def scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars("train/gan")]


@pytest.fixture
def logger(tmp_path):
    return EventLogger(tmp_path, "runs", "version_0")


def test_events_are_those_of_tensorboard(logger):
    threads = threading.active_count()
    for step in range(5):
        logger.log_metrics({"train/gan": step / 4}, step=step)
    logger.experiment.add_text("config", "rank 8")
    logger.log_hyperparams({"lr": 1e-4})
    logger.finalize("success")
    assert scalars(logger.log_dir) == [(step, step / 4) for step in range(5)]
    assert threading.active_count() == threads, "no thread whose failure nobody handles"
    assert [path.name[:6] for path in sorted(Path(logger.log_dir).iterdir())] == ["events", "hparam"]


@pytest.mark.parametrize("more", [0, 1, 30, 200, 2500])
def test_a_full_disk_is_one_warning_and_later_all_events_are_there(more, logger, full_at):
    logger.log_metrics({"train/gan": 0.0}, step=0)
    logger.experiment.flush()
    (file,) = Path(logger.log_dir).iterdir()
    with full_at(file.stat().st_size + more), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(1, 100):
            logger.log_metrics({"train/gan": step / 100}, step=step)
            logger.experiment.flush()
    assert [str(warning.message).count("could not be written (File too large)") for warning in said] == [1]
    written = [step for step, _ in scalars(logger.log_dir)]
    assert written == list(range(len(written))) and len(written) < 100, "whole records only"
    logger.log_metrics({"train/gan": 1.0}, step=100)
    logger.finalize("success")
    assert scalars(logger.log_dir) == [(step, step / 100) for step in range(101)]


def test_a_removed_folder_is_a_warning(logger):
    logger.log_metrics({"train/gan": 0.0}, step=0)
    logger.experiment.flush()
    shutil.rmtree(logger.log_dir)
    logger.log_metrics({"train/gan": 0.0}, step=1)
    with pytest.warns(UserWarning, match="could not be written"):
        logger.finalize("failed")
