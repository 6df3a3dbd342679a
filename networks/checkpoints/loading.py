"""Load trained generators from disk."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from networks.checkpoints.adapter import check_trained, read_adapter
from networks.checkpoints.card import Adapter
from networks.checkpoints.settings import OneStepSettings, ResnetSettings
from networks.contract import ImageTranslator
from networks.one_step.bases import named_by_file
from networks.one_step.generator import OneStepGenerator
from networks.one_step.prompts import PromptEncoder
from networks.resnet import ResnetGenerator
from prompt_embeddings import PROMPTS


def load_generator(path: str | Path | Adapter, base: str | None = None) -> ImageTranslator:
    """Load a trained generator from a run folder, an adapter folder, a checkpoint of ours, a released .pkl or the hub.

    Prompts whose embeddings are beside the adapter need neither tokenizer nor text encoder of the base.

    Args:
        path: see `read_adapter`; or what it returned.
        base: overrides the base that the adapter names (its folder may have moved); needed for a .pkl, and for a base
            that would have to be downloaded and is none of experiments/base/.

    Raises:
        FileNotFoundError: checkpoint or base is not there (the checkpoint is looked for first).
        ValueError: they do not fit each other.
    """
    adapter = path if isinstance(path, Adapter) else read_adapter(path)
    name = base or adapter.card.base
    if name is None:
        raise ValueError(f"{adapter.path} does not name its base: give the folder or hub id of SD-Turbo (base=).")
    settings = adapter.card.settings
    if isinstance(settings, ResnetSettings) and base not in (None, ResnetGenerator.base_name):
        raise ValueError(f"{adapter.path} is a plain ResNet, which has no base: leave out base={base}.")
    fetching = named_by_file() if base is None else nullcontext()
    with fetching, torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        # First without memory: the card may ask for a network that no machine holds.
        with torch.device("meta"):
            planned = _build(adapter, name, random_init=True)
        try:
            check_trained(planned, planned.adapter_tensors(adapter), adapter.path)
        except ValueError as error:
            if base in (None, adapter.card.base) or adapter.card.base_description is None:
                raise
            raise ValueError(
                f"{error} It was trained on the base {adapter.card.base_description}: give that one (base=)."
            ) from error
        generator = _build(adapter, name, adapter.card.base_random_init)
    generator.load_adapter(adapter)
    if adapter.prompts is not None and isinstance(generator.encode_prompts, PromptEncoder):
        generator.encode_prompts.take(adapter.prompts, str(Path(adapter.path) / PROMPTS))
    return generator.requires_grad_(False)


def _build(adapter: Adapter, base: str, random_init: bool) -> ImageTranslator:
    """The generator that a card describes, its trained tensors not loaded."""
    settings = adapter.card.settings
    arguments: dict[str, Any] = settings.to_json()  # validated: values of the constructor's types
    if isinstance(settings, ResnetSettings):
        return ResnetGenerator(**arguments)
    if isinstance(settings, OneStepSettings):
        return OneStepGenerator(base, random_init, **arguments)
    raise ValueError(
        f"{adapter.path} was written by a generator of your own ({type(settings).__name__}): build it in your own code "
        "and give it the adapter (load_adapter)."
    )
