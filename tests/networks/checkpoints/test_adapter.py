"""Weights and card of an adapter change together, for every reader at every moment."""

import json
import multiprocessing
import os
import shutil
import signal
import stat
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from networks.checkpoints.adapter import CARD, WEIGHTS, read_adapter, save_adapter, write_card
from networks.checkpoints.card import RunFacts
from networks.resnet import ResnetGenerator

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def generator():
    network = ResnetGenerator(directions=["a2b"], width=4, blocks=1)
    network.prompts = {"a2b": "a photograph"}
    return network


def save(generator, folder, images):
    """A state whose tensors are all its number of images."""
    with torch.no_grad():
        for tensor in generator.state_dict().values():
            tensor.fill_(images)
    return save_adapter(generator, folder, RunFacts(images_seen=images))


def state(folder):
    """Images seen as weights and card say."""
    adapter = read_adapter(folder)
    weights = torch.cat([tensor.flatten() for tensor in adapter.tensors.values()]).unique().tolist()
    assert len(weights) == 1
    return int(weights[0]), adapter.card.run.images_seen


@pytest.mark.parametrize("kept", [CARD, WEIGHTS])
def test_a_write_that_ended_between_the_two_files_leaves_one_state(kept, generator, tmp_path):
    save(generator, tmp_path / "old", 1)
    shutil.copy(save(generator, tmp_path / "new", 2) / kept, tmp_path / "old" / kept)
    weights, card = state(tmp_path / "old")
    assert weights == card == (2 if kept == WEIGHTS else 1)


def test_every_read_during_writes_sees_one_state(generator, tmp_path):
    save(generator, tmp_path, 0)

    def write():
        for images in range(1, 100_000):
            save(generator, tmp_path, images)

    writer = FORK.Process(target=write)
    writer.start()
    try:
        states = [state(tmp_path) for _ in range(2000)]
    finally:
        writer.kill()
        writer.join()
    assert all(weights == card for weights, card in states)
    assert len(set(states)) > 10, "nothing was written meanwhile"


def test_a_process_killed_between_the_two_files_leaves_one_state(generator, tmp_path, monkeypatch):
    save(generator, tmp_path, 1)

    def replaced(source, target, replace=os.replace):
        replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(os, "replace", replaced)  # only the child writes from here on
    writer = FORK.Process(target=save, args=(generator, tmp_path, 2))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    assert json.loads((tmp_path / CARD).read_text())["images_seen"] == 1, "it was killed before the card"
    assert state(tmp_path) == (2, 2)


def test_a_card_with_scores_or_edited_by_hand_counts(generator, tmp_path):
    save(generator, tmp_path, 1)
    write_card(tmp_path, replace(read_adapter(tmp_path).card, weights=None, metrics={"a2b": {"fid": 3.5}}))
    card = json.loads((tmp_path / CARD).read_text())
    card["prompts"]["a2b"] = "a drawing"
    (tmp_path / CARD).write_text(json.dumps(card))
    read = read_adapter(tmp_path).card
    assert read.metrics == {"a2b": {"fid": 3.5}} and read.prompts == {"a2b": "a drawing"}


def test_a_card_that_cannot_be_read_is_refused_although_there_is_a_copy(generator, tmp_path):
    save(generator, tmp_path, 1)
    (tmp_path / CARD).write_text("[]")
    with pytest.raises(ValueError, match=r"adapter\.json"):
        read_adapter(tmp_path)


def test_adapters_of_earlier_versions_have_no_copy_and_are_read_by_their_card(generator, tmp_path):
    save(generator, tmp_path, 1)
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS)
    card = json.loads((tmp_path / CARD).read_text())
    for weights in ({}, {"weights": card.pop("weights")}):
        (tmp_path / CARD).write_text(json.dumps(card | weights))
        assert state(tmp_path) == (1, 1)


def test_both_files_have_the_mode_of_the_umask(generator, tmp_path):
    before = os.umask(0o027)
    try:
        save(generator, tmp_path, 1)
    finally:
        os.umask(before)
    assert {stat.filemode(path.stat().st_mode) for path in tmp_path.iterdir()} == {"-rw-r-----"}


def test_a_full_disk_at_any_byte_leaves_the_old_state_whole(generator, tmp_path, full_at):
    save(generator, tmp_path, 1)
    size = (tmp_path / WEIGHTS).stat().st_size
    for limit in [0, 100, size // 3, size - 1]:
        with full_at(limit), pytest.raises(OSError, match=r"adapter\.\w+ could not be written: File too large"):
            save(generator, tmp_path, 2)
        assert state(tmp_path) == (1, 1)
        assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, WEIGHTS]
