import shutil

import numpy as np
import pytest
import torch

from exporting.export import Format, Samples, export_folder
from networks import ResnetGenerator
from networks.checkpoints.adapter import read_adapter, save_adapter
from networks.checkpoints.card import RunFacts
from networks.features import load_features
from tests.conftest import save_base
from tests.networks.one_step.test_generator import build, open_gates, wake

PROMPTS = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}
SIZES = ((24, 16), (13, 22))  # one of no multiple


def one_step(base, **settings):
    """A generator whose LoRA says something, unmerged."""
    generator = wake(build(base, **settings)).requires_grad_(False)
    generator.prompts = {direction: PROMPTS[direction] for direction in generator.directions}
    return open_gates(generator)


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
    """Conversion copies the models of `onnx_folder`, in place of seconds."""

    def copy(adapter, base, folder, *rest):
        for name in ("a2b.onnx", "b2a.onnx", "export.json", "adapter.json"):
            shutil.copy(onnx_folder / name, folder)

    monkeypatch.setattr("exporting.export.write_models", copy)


def adapter_of(generator, folder):
    return read_adapter(save_adapter(generator, folder, RunFacts(data="made up")))


def export(adapter, path, backend, precision="float32", count=2, **samples):
    directions = adapter.card.settings.directions
    network = load_features("random")
    made = Samples({direction: images(count) for direction in directions}, network, network, **samples)
    return export_folder(adapter, None, path, Format(backend, precision, directions), made)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    """Two levels, attention to the prompt in the middle alone: conversion takes its time by layer, not by weight."""
    levels = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return save_base(tmp_path_factory.mktemp("small_base"), (8, 8), **levels)


@pytest.fixture(scope="session")
def openvino_folder(small_base, tmp_path_factory):
    """An exported folder of one direction, whose UNet reads a prompt, which gates its autoencoder too."""
    folder = tmp_path_factory.mktemp("exports")
    generator = one_step(small_base, directions=["a2b"], prompt_gates=2)
    export(adapter_of(generator, folder / "adapter"), folder / "openvino", "openvino")
    return folder / "openvino"


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory):
    """An exported folder of two directions, whose models read no prompt."""
    folder = tmp_path_factory.mktemp("exports")
    export(adapter_of(resnet(), folder / "adapter"), folder / "onnx", "onnx")
    return folder / "onnx"


@pytest.fixture(scope="session")
def resnet_adapter(tmp_path_factory):
    return adapter_of(resnet(), tmp_path_factory.mktemp("resnet"))
