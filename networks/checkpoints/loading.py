"""Load trained generators from disk."""

from pathlib import Path
from typing import Any

import torch

from networks.checkpoints.adapter import read_adapter
from networks.checkpoints.card import Adapter
from networks.checkpoints.settings import ResnetSettings
from networks.contract import ImageTranslator
from networks.one_step.generator import OneStepGenerator
from networks.resnet import ResnetGenerator


def load_generator(path: str | Path | Adapter, base: str | None = None) -> ImageTranslator:
    """Load a trained generator from a run folder, an adapter folder, a checkpoint of ours or a released .pkl.

    Args:
        path: see `read_adapter`; or what it returned.
        base: overrides the base that the adapter names (its folder may have moved); needed for a .pkl.

    Raises:
        FileNotFoundError: checkpoint or base is not there (the checkpoint is looked for first).
        ValueError: they do not fit each other.
    """
    adapter = path if isinstance(path, Adapter) else read_adapter(path)
    name = base or adapter.card.base
    if name is None:
        raise ValueError(f"{adapter.path} does not name its base: give the folder or hub id of SD-Turbo (base=).")
    arguments: dict[str, Any] = adapter.card.settings.to_json()  # validated: values of the constructor's types
    generator: ImageTranslator
    if isinstance(adapter.card.settings, ResnetSettings):
        if base not in (None, ResnetGenerator.base_name):
            raise ValueError(f"{adapter.path} is a plain ResNet, which has no base: leave out base={base}.")
        generator = ResnetGenerator(**arguments)
    else:
        with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
            generator = OneStepGenerator(name, adapter.card.base_random_init, **arguments)
    generator.load_adapter(adapter)
    return generator.requires_grad_(False)
