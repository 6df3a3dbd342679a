"""Trained generators from disk."""

from pathlib import Path

import torch

from networks.checkpoints.adapter import Adapter, read_adapter
from networks.contract import ImageTranslator
from networks.one_step.generator import OneStepGenerator
from networks.resnet import ResnetGenerator


def load_generator(path: str | Path | Adapter, base: str | None = None) -> ImageTranslator:
    """A trained generator from a run folder, an adapter folder, a checkpoint of ours or a released .pkl.

    Args:
        path: see `read_adapter`; or what it returned.
        base: overrides the base that the adapter names (its folder may have moved); needed for a .pkl.

    Raises:
        FileNotFoundError: checkpoint or base is not there (the checkpoint is looked for first).
        ValueError: they do not fit each other.
    """
    adapter = path if isinstance(path, Adapter) else read_adapter(path)
    name = base or adapter.card.get("base")
    if name is None:
        raise ValueError(f"{adapter.path} does not name its base: give the folder or hub id of SD-Turbo with BASE=.")
    generator: ImageTranslator
    if adapter.card.get("base") == ResnetGenerator.base_name:
        if base not in (None, ResnetGenerator.base_name):
            raise ValueError(f"{adapter.path} is a plain ResNet, which stands on no base: leave out BASE={base}.")
        generator = ResnetGenerator(**adapter.settings)
    else:
        with torch.random.fork_rng(devices=[]):  # what it draws is overwritten: the caller's draws stay theirs
            generator = OneStepGenerator(name, adapter.card.get("base_random_init", False), **adapter.settings)
    generator.load_adapter(adapter)
    return generator.requires_grad_(False)
