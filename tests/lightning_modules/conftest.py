import functools

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from datamodules.batches import PairedBatch, UnpairedBatch
from lightning_modules import CycleGANTurbo, Pix2PixTurbo
from lightning_modules.paired import PairedWeights
from lightning_modules.unpaired import UnpairedWeights
from networks import EnsembleDiscriminator, OneStepGenerator, PatchDiscriminator

SIZE = 32
PROMPTS = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}


def pictures(n, seed):
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def unpaired_batch(n=1, seed=0):
    index = torch.arange(n) + 10 * seed
    names = [f"{k}.png" for k in index.tolist()]
    return UnpairedBatch(pictures(n, 2 * seed), pictures(n, 2 * seed + 1), index, index + 5, names, names)


def paired_batch(n=1, seed=0, strength=None):
    index = torch.arange(n) + 10 * seed
    names = [f"{k}.png" for k in index.tolist()]
    r = None if strength is None else torch.full((n,), strength)
    return PairedBatch(pictures(n, 2 * seed), pictures(n, 2 * seed + 1), ["a day"] * n, index, index + 5, names, r)


def adamw(**arguments):
    return functools.partial(torch.optim.AdamW, **{"lr": 1e-4, "weight_decay": 0.0, **arguments})


def discriminator():
    return EnsembleDiscriminator([PatchDiscriminator(width=4, layers=2)])


@pytest.fixture
def unpaired(two_level_base):
    def build(weights=None, optimizer=None, generator=None, **arguments):
        torch.manual_seed(0)
        g = OneStepGenerator(str(two_level_base), rank_unet=4, rank_vae=2, **(generator or {}))
        optimizer = optimizer or adamw()
        return CycleGANTurbo(
            g, discriminator(), optimizer, optimizer, PROMPTS, weights or UnpairedWeights(), "random", **arguments
        )

    return build


@pytest.fixture
def paired(two_level_base):
    def build(weights=None, optimizer=None, disc=None, generator=None, **arguments):
        torch.manual_seed(0)
        own = {"directions": ["a2b"], "rank_unet": 4, "rank_vae": 2, "input_range": "[0, 1]"}
        g = OneStepGenerator(str(two_level_base), **own | (generator or {}))
        optimizer = optimizer or adamw()
        weights = weights or PairedWeights(clip=0.0)
        return Pix2PixTurbo(g, disc or discriminator(), optimizer, optimizer, PROMPTS, weights, "random", **arguments)

    return build


def fit(module, batches, **arguments):
    """Train on ready-made batches; without logger, checkpoints and progress bar unless asked for."""
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **arguments,
        }
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer
