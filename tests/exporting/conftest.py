import shutil

import numpy as np
import pytest
import torch

from exporting.export import Networks, Samples, export_folder
from networks import ResnetGenerator
from networks.checkpoints.card import AdapterCard, RunFacts
from networks.features import load_features
from tests.conftest import save_base
from tests.networks.one_step.test_generator import build, wake

PROMPTS = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}
SIZES = ((24, 16), (13, 22))  # one of no multiple


def one_step(base, **settings):
    """A generator whose LoRA says something, unmerged."""
    generator = wake(build(base, **settings)).requires_grad_(False)
    generator.prompts = {direction: PROMPTS[direction] for direction in generator.directions}
    return generator


def resnet():
    """The smallest generator, which converts in seconds; it reads no prompt."""
    torch.manual_seed(2)
    generator = ResnetGenerator(["a2b", "b2a"], width=4, blocks=1).eval().requires_grad_(False)
    generator.prompts = dict(PROMPTS)
    return generator


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (3, *SIZES[k % 2])).astype(np.float32) for k in range(count)]


@pytest.fixture
def converted(onnx_folder, monkeypatch):
    """Conversion copies the model of `onnx_folder`, in place of seconds."""

    def copy(generator, direction, shape, folder, backend, precision, calibration):
        shutil.copy(onnx_folder / f"{direction}.onnx", folder)
        return [f"{direction}.onnx"]

    monkeypatch.setattr("exporting.export._convert", copy)


def export(generator, path, backend, precision="float32", count=2, **samples):
    directions = generator.directions
    card = AdapterCard.of(generator, RunFacts(data="made up"))
    made = Samples({direction: images(count) for direction in directions}, **samples)
    network = load_features("random")
    return export_folder(generator, card, path, backend, precision, directions, made, Networks(network, network))


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    """Two levels, attention to the prompt in the middle alone: conversion takes its time by layer, not by weight."""
    levels = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return save_base(tmp_path_factory.mktemp("small_base"), (8, 8), **levels)


@pytest.fixture(scope="session")
def openvino_folder(small_base, tmp_path_factory):
    """An exported folder of one direction, whose model reads a prompt."""
    folder = tmp_path_factory.mktemp("exports") / "openvino"
    export(one_step(small_base, directions=["a2b"]), folder, "openvino")
    return folder


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory):
    """An exported folder of two directions, whose models read no prompt."""
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export(resnet(), folder, "onnx")
    return folder
