"""The full-size architectures whole, on the meta device: nothing is allocated, everything is counted."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig

from networks import OneStepGenerator
from networks.one_step import lora
from networks.one_step.lora import lora_layers, trainable_names

ARCHITECTURES = Path(__file__).parents[3] / "networks" / "architectures"


def build(base="sd-turbo", **settings):
    with torch.device("meta"):
        return OneStepGenerator(str(ARCHITECTURES / base), random_init=True, **settings)


def count(parameters):
    return sum(p.numel() for p in parameters)


def frozen(module):
    return count(p for name, p in module.named_parameters() if not p.requires_grad)


def trained(module, part=""):
    return [p for name, p in module.named_parameters() if p.requires_grad and part in name]


@pytest.mark.parametrize(
    ("base", "unet", "texts"),
    [("sd-turbo", 865_910_724, [340_387_840]), ("sdxl-turbo", 2_567_463_684, [123_060_480, 694_659_840])],
)
def test_the_parts_have_the_published_numbers_of_parameters(base, unet, texts):
    generator = build(base)
    assert frozen(generator.unet) == unet
    assert frozen(generator.autoencoders["a2b"].vae) == 83_653_863
    found = []
    for _, part, kind in generator.conditions.parts:
        config = CLIPTextConfig(**json.loads((ARCHITECTURES / base / part / "config.json").read_text()))
        with torch.device("meta"):
            found.append(count(kind(config).parameters()))
    assert found == texts


def test_sdxls_own_numbers_are_read():
    generator = build("sdxl-turbo")
    assert generator.autoencoders["a2b"].scaling == 0.13025
    assert generator.conditions.embedding_shape(77, 2048) == (78, 2048)
    assert generator.conditions.pooled == 1280
    assert len(trained(generator.unet, "lora")) == 1544


# As released the skip convolutions carry LoRA too (11 264 numbers more per VAE), and the unpaired conv_in only LoRA.
@pytest.mark.parametrize(("rank", "lora"), [(128, 129_737_216), (8, 8_108_576)])
@pytest.mark.parametrize("directions", [("a2b",), ("a2b", "b2a")])
def test_what_trains(rank, lora, directions):
    generator = build(rank_unet=rank, rank_vae=4, directions=directions)
    assert (len(trained(generator.unet, "lora")), count(trained(generator.unet, "lora"))) == (514, lora)
    assert count(trained(generator.unet, "conv_in.trained")) == 11_840
    for direction in directions:
        autoencoder = generator.autoencoders[direction]
        assert (len(trained(autoencoder, "lora")), count(trained(autoencoder, "lora"))) == (140, 881_960)
        assert [tuple(p.shape) for p in trained(autoencoder, "skip_convs")] == [
            (512, 512, 1, 1), (512, 256, 1, 1), (512, 128, 1, 1), (256, 128, 1, 1),
        ]  # fmt: skip
    assert len(trainable_names(generator)) == 516 + 144 * len(directions)


def test_nothing_at_this_size_forms_its_whole_weight_but_the_smallest_layers():
    """W + BA has the size of W: only where that is nothing may it be kept for backward."""
    formed = [m for m in lora_layers(build()) if vars(m)["forward"].__func__ is lora._forward_small]
    assert sum(m.get_base_layer().weight.numel() for m in formed) < 1_000_000


def test_parameters_that_the_baselines_of_direct_conditioning_train():
    counts = {name: count(trained(build(conditioning=name), "branch")) for name in ("controlnet", "t2i_adapter")}
    assert counts == {"controlnet": 364_228_240, "t2i_adapter": 77_369_280}
