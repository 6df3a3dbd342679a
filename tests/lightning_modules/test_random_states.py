import random

import numpy as np
import torch

from lightning_modules.random_states import random_states, set_random_states


def draw():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)


def test_states_come_back_for_torch_numpy_and_python(tmp_path):
    random.gauss(0, 1)  # leaves a cached second value, which is part of the state
    torch.save(random_states(), tmp_path / "states")
    first = draw()
    assert draw() != first
    set_random_states(torch.load(tmp_path / "states", weights_only=True), rank=0)
    assert draw() == first


def test_more_ranks_than_saved_reuse_the_first():
    states = random_states()
    first = draw()
    set_random_states(states, rank=3)
    assert draw() == first
