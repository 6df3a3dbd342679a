"""Faults while a training runs: a line that names the file or the process, exit code 2, and how to resume."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time

import pytest

from commands import evaluate, train
from datamodules.files.images import FileImages

from .conftest import arguments


@pytest.fixture
def images(folder_of_two_domains, tmp_path):
    """A copy of the data that a test may break."""
    return shutil.copytree(folder_of_two_domains, tmp_path / "images")


def train_until(monkeypatch, reads, fault):
    """When so many training images were read, a fault is called once with the next file."""
    read, seen = FileImages.read, []

    def reading(self, index):
        if self.short_side == 36:  # what is evaluated, from the same folder, has 32 pixels
            seen.append(index)
            if len(seen) == reads:
                fault(self.files[index])
        return read(self, index)

    monkeypatch.setattr(FileImages, "read", reading)


def truncate_all(folder):
    for path in folder.glob("*.png"):
        path.write_bytes(path.read_bytes()[:-60])


def said(capsys):
    """The one line on standard error that starts with "error: "."""
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    return errors[0]


def test_an_image_that_breaks_during_training_is_named(two_level_base, images, tmp_path, monkeypatch, capsys):
    lines = []  # of Lightning's logger, whose level and handlers earlier tests change
    monkeypatch.setattr("lightning_modules.callbacks.run_folder.rank_zero_info", lines.append)
    train_until(monkeypatch, 45, lambda path: truncate_all(images / "train_A"))
    words = ["--model.init_args.max_images=200", "--trainer.val_check_interval=4", "--trainer.limit_val_batches=1"]
    assert train.main(arguments(two_level_base, images, tmp_path / "run", *words)) == 2
    error = said(capsys)
    assert str(images / "train_A") in error and ".png" in error
    assert f"make resume RUN={tmp_path / 'run'}" in "".join(lines), "the last checkpoint is named"


def test_skipped_images_are_listed_at_the_end(two_level_base, images, tmp_path, monkeypatch, capsys):
    shutil.copytree(images / "train_A", images / "more")
    for k in range(1, 12):
        for path in (images / "more").iterdir():
            shutil.copy(path, images / "train_A" / f"{k}{path.name}")
    broken = []

    def fault(path):  # one of more than a hundred images
        broken.append(path)
        path.write_bytes(b"nothing")

    train_until(monkeypatch, 5, fault)
    words = ["--model.init_args.max_images=6", "--trainer.limit_val_batches=1", "--data.init_args.on_bad_image=skip"]
    code = train.main(arguments(two_level_base, images, tmp_path / "run", *words))
    seen = capsys.readouterr()
    assert code == 0, seen.err[-2000:]
    assert f"skipped in 1 draws of training: Cannot read {broken[0]}" in seen.out
    assert sum(str(broken[0]) in line for line in seen.err.splitlines()) == 1, "one warning"
    (message,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["skipped_images"]
    assert str(broken[0]) in message


@pytest.mark.parametrize("command", ["train", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_a_killed_worker_is_a_line(command, two_level_base, images, finished, tmp_path, capsys):
    if command == "train":
        words = ["--model.init_args.max_images=2000", "--data.init_args.num_workers=1"]
        main, words = train.main, arguments(two_level_base, images, tmp_path / "run", *words)
    else:
        run = shutil.copytree(finished, tmp_path / "run")
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("num_workers: 0", "num_workers: 1"))
        main, words = evaluate.main, [f"--ckpt={run}", f"--data={images}", f"--out={tmp_path / 'out'}"]
    killed = threading.Event()

    def kill():
        while not killed.is_set():
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                killed.set()
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        code = main(words)
    finally:
        killed.set()
        killer.join()
    error = said(capsys)
    assert code == 2 and "A process that reads images ended" in error and "num_workers" in error


def test_a_disk_without_room_for_checkpoints_is_a_line(two_level_base, images, small_disk, capsys):
    words = ["--model.init_args.max_images=4", "--trainer.val_check_interval=2"]
    run = small_disk / "run"
    (small_disk / "ballast").write_bytes(bytes(900_000))
    assert train.main(arguments(two_level_base, images, run, *words)) == 2
    error = said(capsys)
    assert str(run) in error and "could not be written" in error and "MiB are free" in error
    assert not [path for path in run.rglob("*") if path.suffix in (".ckpt", ".safetensors", ".part")]


def test_a_run_folder_that_was_removed_ends_the_training(two_level_base, images, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    train_until(monkeypatch, 5, lambda path: shutil.rmtree(run))
    words = ["--model.init_args.max_images=200", "--trainer.val_check_interval=4", "--trainer.limit_val_batches=1"]
    assert train.main(arguments(two_level_base, images, run, *words)) == 2
    assert f"The run folder {run} was removed: the state after 4 images could not be saved" in said(capsys)
    assert not run.exists()
