"""Training, validation, scores and translation on CUDA, without a GPU: no operator gets tensors of several devices.

Backward is replaced, and networks have no values: this finds a tensor that was left on the CPU, and nothing else.
"""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import nn

import inference.backends.torch as torch_backend
from commands.cli.recipes import MEMORY, compose, names
from commands.estimate import configuration, untrained
from datamodules.batches import EvaluationBatch
from inference import Translator
from lightning_modules.memory import random_batch
from losses.reconstruction import PerceptualDistance, clip_similarity_loss
from metrics.translation import TranslationMetrics
from networks import VisionAidedDiscriminator
from networks.checkpoints.card import Adapter, AdapterCard, RunFacts
from networks.features import ClipFeatures, architectures_only, load_features
from tests.conftest import save_base
from tests.fake_cuda import CUDA, DeviceMixError, FakeRuntime, fake_cuda, reason_to_skip, value_of

SIZE = 32
MODEL, GENERATOR = "--model.init_args", "--model.init_args.generator.init_args"


def recipes():
    """Every experiment on every base and memory profile; those whose batches alone differ are one."""
    found = {}
    for base in ("sd-turbo", "pocket", "resnet"):
        for memory in (None, *names(MEMORY)) if base == "sd-turbo" else (None,):
            for exp in names():
                config = compose(exp, base, memory).config
                noise = config["data"]["init_args"].get("stochastic")
                model = config["model"]["init_args"]
                model.pop("accumulate", None)
                step = json.dumps([model, config["trainer"].get("precision"), noise], sort_keys=True)
                found.setdefault(step, []).append((exp, base, memory))
    for (exp, base, memory), *others in found.values():
        same = "+".join([exp, *(f"{name}({profile})" for name, _, profile in others)])
        # Sketches are edges with strengths below 1: once is enough.
        marks = [pytest.mark.slow] if exp == "sketch2image" and (base, memory) != ("sd-turbo", None) else []
        marks += [pytest.mark.long] if memory else []
        yield pytest.param(exp, base, memory, id=f"{same}-{base}-{memory}", marks=marks)


@pytest.fixture(scope="module", autouse=True)
def runs_here():
    if reason := reason_to_skip():
        pytest.skip(f"torch {torch.__version__} cannot run code for CUDA on fake tensors: {reason}")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of bases with the fewest layers that have every kind of block, by the settings that they stand for."""
    few = {
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "attention_head_dim": 2,
    }
    small = save_base(tmp_path_factory.mktemp("small_base"), (8, 8), **few)
    return {"sd-turbo": small, "pocket": small}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def build(exp, base, memory, folder, *overrides):
    """A training on the meta device, but for the embeddings of its prompts."""
    changes = [*overrides]
    if base == "sd-turbo":
        changes += [f"{MODEL}.lpips_features=random", f"{MODEL}.discriminator.init_args.features=random"]
        base = str(folder)
        changes += [f"{MODEL}.weights.clip=0"] * exp.endswith("2image")
    elif base == "pocket":
        changes += [f"{GENERATOR}.base={folder}", f"{MODEL}.lpips_features=random"]
    if base in ("pocket", "resnet"):
        changes += [f"--data.init_args.{split}_scenes=4" for split in ("train", "val", "test")]
    with torch.device("meta"):
        cli = untrained(*configuration(exp, base, memory, SIZE, 2, changes))
    cli.model.generator.encode_prompts([*cli.model.generator.prompts.values(), "a photograph"])
    return cli


def on_cuda(module):
    """Move a module to CUDA and let it train without a Trainer; the first batch takes an optimiser step."""
    module.to(CUDA)
    module.runtime = FakeRuntime(module)
    module.batches_seen = module.accumulate - 1
    return module


def train(cli):
    """One training batch and one of validation; returns the translation."""
    module = on_cuda(cli.model)
    batch = random_batch(module, 2, SIZE)
    if getattr(cli.datamodule, "stochastic", False):
        batch = replace(batch, strength=torch.rand(2))
    precision = cli.trainer.precision
    with torch.autocast("cuda", torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
        module.training_step(move_data_to_device(batch, CUDA), 0)
    seen = EvaluationBatch(torch.rand(2, 3, SIZE, SIZE), "a2b", torch.arange(2), ["a", "b"])
    with torch.no_grad():
        return module.validation_step(move_data_to_device(seen, CUDA), 0)


def translate(cli, monkeypatch):
    """From an image to an image, through the backend of adapters."""
    generator = cli.model.generator.requires_grad_(False)
    adapter = Adapter({}, AdapterCard.of(generator, RunFacts()), "")
    monkeypatch.setattr(torch_backend, "load_generator", lambda *_: generator)
    monkeypatch.setattr(torch.Tensor, "numpy", value_of)
    precision = "bfloat16" if cli.trainer.precision == "bf16-mixed" else "float32"
    translator = Translator(torch_backend.TorchBackend(adapter, precision, str(CUDA)))
    image = np.zeros((SIZE, SIZE + 5, 3), np.uint8)
    if getattr(cli.datamodule, "stochastic", False):
        assert translator(image, strength=0.5).shape == image.shape
    for direction in generator.directions:
        assert translator(image, direction).shape == image.shape


@pytest.mark.parametrize(("exp", "base", "memory"), [*recipes()])
def test_every_recipe_trains_validates_and_translates(exp, base, memory, bases, monkeypatch):
    cli = build(exp, base, memory, bases.get(base))
    with fake_cuda():
        done = train(cli)
        assert done.fake.device == CUDA
        assert done.fake.dtype == torch.float32
        logged = cli.model.runtime.logged
        assert {f"train/{name}" for name in cli.model.weights} < set(logged)
        for name in cli.model.generator.trained_names:
            parameter = cli.model.generator.get_parameter(name)
            assert parameter.device == CUDA
        translate(cli, monkeypatch)
    assert cli.model.images_seen == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "update=sequential",
        "generator.init_args.conditioning=controlnet",
        "generator.init_args.conditioning=t2i_adapter",
    ],
)
def test_what_the_grids_vary_trains_too(override, bases):
    with_branch = "conditioning" in override
    exp = "edge2image" if with_branch else "clear2foggy"
    cli = build(exp, "sd-turbo", "24gb" if with_branch else None, bases["sd-turbo"], f"{MODEL}.{override}")
    with fake_cuda():
        assert train(cli).fake.device == CUDA


def test_two_text_encoders_and_sizes_train_too(sdxl_base):
    cli = build("edge2image", "sd-turbo", "24gb", sdxl_base)
    with fake_cuda():
        assert train(cli).fake.device == CUDA


@pytest.mark.parametrize("networks", [("inception", "dino", "alex", "clip"), ("lite0", "lite0", "lite0", None)])
def test_scores_are_updated_on_cuda(networks):
    with torch.device("meta"), architectures_only():
        *roles, clip = (name and load_features(name) for name in networks)
        metrics = TranslationMetrics(*roles, clip)
    real, fake = (torch.rand(2, 3, SIZE, SIZE) for _ in range(2))
    with fake_cuda():
        metrics.to(CUDA)
        index = torch.arange(2)
        metrics.update_real(real.to(CUDA), index)
        metrics.update(real.to(CUDA), fake.to(CUDA), index.to(CUDA), real.to(CUDA), ["a photograph"] * 2)
        assert metrics.scores_rows[-1].device == CUDA


@pytest.mark.parametrize("name", ["vgg", "clip", "lite1"])
def test_discriminators_and_perceptual_losses_of_the_recipes_run_on_cuda(name):
    with torch.device("meta"), architectures_only():
        loss = PerceptualDistance(name) if name != "clip" else None
        discriminator = VisionAidedDiscriminator(name) if name != "vgg" else None
    with fake_cuda():
        image = torch.rand(2, 3, SIZE, SIZE).to(CUDA)
        if loss is not None:
            assert loss.to(CUDA)(image, image).device == CUDA
        if discriminator is not None:
            assert {logits.device for logits in discriminator.to(CUDA)(image, torch.arange(2))} == {CUDA}
            features = discriminator.features
            if isinstance(features, ClipFeatures):
                assert clip_similarity_loss(features, image, ["a", "b"]).device == CUDA


class Forgetful(nn.Module):
    """A network with a constant that does not follow it to its device."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.scale = torch.ones(3, 1, 1)

    def forward(self, image):
        return self.layer(image) * self.scale


@pytest.mark.parametrize(
    "mix",
    [
        lambda image: torch.nn.functional.conv2d(image, torch.ones(4, 3, 3, 3)),
        lambda image: image + torch.ones(image.shape[-1]),
        lambda image: torch.cat([image, torch.zeros(image.shape)]),
        lambda image: torch.stack([image.mean(), torch.tensor(0.0)]),
        lambda image: image @ torch.ones(image.shape[-1], 2),
        lambda image: torch.ones(4, 4)[image[0, 0, 0, :2].long()],
        Forgetful(),
    ],
)
def test_a_tensor_left_on_the_cpu_is_found(mix):
    with fake_cuda():
        image = torch.rand(2, 3, SIZE, SIZE).to(CUDA)
        if isinstance(mix, nn.Module):
            mix.to(CUDA)
        with pytest.raises(RuntimeError, match="device"):
            mix(image)


@pytest.mark.parametrize(
    "allowed",
    [
        lambda image: image * torch.tensor(2.0),
        lambda image: image[:, torch.tensor([0, 2])],
        lambda image: image.clone().copy_(torch.ones(image.shape)),
        lambda image: torch.linspace(0, 1, 3).to(image) + image.mean(),
    ],
)
def test_what_cuda_allows_is_let_through(allowed):
    with fake_cuda():
        assert allowed(torch.rand(2, 3, SIZE, SIZE).to(CUDA)).device == CUDA


def test_a_loss_term_that_forgets_its_device_is_found_in_a_training(bases):
    cli = build("clear2foggy", "sd-turbo", None, bases["sd-turbo"])
    cli.model.perceptual.features._heads = [torch.ones(1, count, 1, 1) for count in (8, 16, 32)]
    cli.model.perceptual.features._apply = lambda *_: None
    with fake_cuda(), pytest.raises(DeviceMixError):
        train(cli)
