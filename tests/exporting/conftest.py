import pytest
import torch

from networks import ResnetGenerator
from tests.conftest import save_base
from tests.networks.one_step.test_generator import build, wake

PROMPTS = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}


def one_step(base, **settings):
    """A generator whose LoRA says something, unmerged."""
    generator = wake(build(base, **settings)).requires_grad_(False)
    generator.prompts = {direction: PROMPTS[direction] for direction in generator.directions}
    return generator


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    """Two levels, attention to the prompt in the middle alone: conversion takes its time by layer, not by weight."""
    levels = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return save_base(tmp_path_factory.mktemp("small_base"), (8, 8), **levels)


@pytest.fixture(scope="session")
def resnet():
    """The smallest generator, which converts in seconds; it reads no prompt."""
    torch.manual_seed(2)
    generator = ResnetGenerator(["a2b", "b2a"], width=4, blocks=1).eval().requires_grad_(False)
    generator.prompts = dict(PROMPTS)
    return generator
