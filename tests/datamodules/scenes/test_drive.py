"""A drive starts at the scene that is rendered, and its flow leads back to where a place was seen before."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from datamodules.scenes import render_pixels
from datamodules.scenes.drive import drive
from metrics.warping import warping_error


def tensors(frame, letter):
    return torch.from_numpy(getattr(frame, letter)).permute(2, 0, 1)


@pytest.mark.parametrize("task", ["day_night", "clear_foggy"])
def test_the_flow_explains_the_motion_in_both_domains(task):
    frames = list(drive(task, 0, 3, 256, 3))
    for letter in "ab":
        assert np.array_equal(getattr(frames[0], letter), render_pixels(task, letter, 0, 3, 256))
        moved, still = [], []
        for before, now in pairwise(frames):
            pair = tensors(now, letter), tensors(before, letter)
            visible = torch.from_numpy(now.visible)
            assert 0.8 < visible.float().mean() < 1
            moved.append(float(warping_error(*pair, torch.from_numpy(now.flow), visible)))
            still.append(float(warping_error(*pair, torch.zeros(256, 256, 2), visible)))
        assert np.mean(moved) < 0.5 * np.mean(still)
    assert np.array_equal(frames[1].flow, list(drive(task, 0, 3, 256, 2))[1].flow), "no draw depends on the place"


def test_what_comes_nearer_moves_outwards():
    frame = list(drive("day_night", 0, 3, 64, 2))[1]
    road = frame.flow[-8:, 24:40]
    assert road[..., 1].max() < 0, "the road before the camera was further up"
    assert np.abs(frame.flow[:4]).max() < np.abs(road).max()


@pytest.mark.parametrize(
    ("task", "frames", "words"),
    [("horse_zebra", 2, "none of"), ("day_night", 100, "at most 4 m"), ("x", 2, "No scenes")],
)
def test_what_is_no_drive_is_refused(task, frames, words):
    with pytest.raises(ValueError, match=words):
        list(drive(task, 0, 0, 16, frames))
