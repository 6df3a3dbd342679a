"""The progress display by itself: when it speaks, and what it expects."""

import io
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.callbacks.displays import Lines, Pace
from lightning_modules.callbacks.progress import _images_at_the_end, _losses


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_lines_come_often_at_first_and_once_a_minute_later():
    clock, stream = Clock(), io.StringIO()
    lines, spoken = Lines(stream, clock), []
    for second in range(4, 600):
        clock.now = float(second)
        if lines.due():
            lines.show("training", 1234, 10_000, ["00:10 left"])
            spoken.append(second)
    assert spoken[:3] == [4, 19, 34]
    later = [second for second in spoken if second > 4 + 180 + 15]
    assert {b - a for a, b in pairwise(later)} == {60}
    assert stream.getvalue().splitlines()[0] == "training: 1,234 of 10,000 images, 12%, 00:10 left"


def test_the_time_left_counts_validations_and_not_the_images_of_an_earlier_run():
    clock = Clock()
    pace = Pace(clock)
    clock.now = 30.0  # the first batch is slow
    pace.count(102)
    assert pace.facts(102, 200) == []
    clock.now = 130.0  # half of it validation
    pace.count(152)
    assert pace.facts(152, 200) == ["01:36 left", "0.5 images/s"]
    assert pace.facts(152, 200, allowed=20.0) == ["00:20 left", "0.5 images/s"]
    assert pace.facts(152, None) == ["0.5 images/s"]


@pytest.mark.parametrize(
    ("limits", "images"),
    [
        ({}, None),
        ({"max_images": 1000}, 1000),
        ({"max_epochs": 3}, 240),
        ({"max_epochs": 3, "batches": float("inf")}, None),
        ({"max_steps": 50}, 100),
        ({"max_epochs": 3, "max_images": 100}, 100),
    ],
)
def test_training_ends_at_its_first_limit(limits, images):
    """Twenty batches of four images so far, two optimiser steps each."""
    module = SimpleNamespace(images_seen=80, batches_seen=20, max_images=limits.get("max_images"))
    trainer = SimpleNamespace(
        max_epochs=limits.get("max_epochs", -1),
        max_steps=limits.get("max_steps", -1),
        num_training_batches=limits.get("batches", 20),
        global_step=40,
    )
    assert _images_at_the_end(trainer, module) == images


def test_losses_are_averaged_over_the_directions():
    terms = {"gan_a2b": torch.tensor(1.0), "idt_lpips_a2b": torch.tensor(4.0), "gan_b2a": torch.tensor(3.0)}
    assert _losses(terms, ["a2b", "b2a"]) == ["gan 2", "idt_lpips 4"]
    assert _losses({"l2": torch.tensor(0.12345)}, ["a2b"]) == ["l2 0.123"]
    assert _losses({}, ["a2b"]) == []
