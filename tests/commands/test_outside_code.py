"""Loss term, discriminator, generator and data module from outside the repository train by `make train ARGS=`."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import resume, train
from images.writing import write_image

from .conftest import QUICK

pytestmark = pytest.mark.long

ROOT = Path(train.__file__).parents[1]
LEVEL, SLOPE = 0.25, 0.1

MINE = '''
from dataclasses import dataclass

import torch
from torch import nn

from datamodules import PairedImages, UnpairedImages
from datamodules.files.layouts import STAGES, Domain, Pairs
from images.listing import list_images
from networks import ImageTranslator
from networks.checkpoints.settings import Settings
from networks.one_step.lora import trainable_names
from networks.resnet import NoWords


class Brightness:
    """Distance of every pixel of the translation from a level."""

    def __init__(self, level):
        self.level = level

    def __call__(self, inputs):
        assert (inputs.target is None) != (inputs.example is None)
        return (inputs.fake - self.level).abs().mean()


class Discriminator(nn.Module):
    """One layer, which sees no difference between images at first."""

    def __init__(self, slope: float):
        super().__init__()
        self.activation = nn.LeakyReLU(slope)
        self.layer = nn.Conv2d(3, 1, 4)
        nn.init.zeros_(self.layer.weight)

    def forward(self, image, seeds=None):
        return [self.activation(self.layer(image))]


@dataclass(frozen=True, kw_only=True)
class TintSettings(Settings, base_name="tint"):
    start: float


class Generator(ImageTranslator):
    """One matrix of colours per direction; every translation is black or grey at first, whatever the image."""

    base_name = base_fingerprint = "tint"
    base_description = "tint: one matrix of colours"

    def __init__(self, directions: list[str], start: float = 0.0):
        super().__init__()
        self.settings = TintSettings(directions=tuple(directions), start=start)
        self.prompts = {}
        self.encode_prompts = NoWords()
        self.tints = nn.ModuleDict({direction: nn.Conv2d(3, 3, 1) for direction in directions})
        for tint in self.tints.values():
            nn.init.zeros_(tint.weight)
            nn.init.constant_(tint.bias, start)
        self.trained_names = trainable_names(self)

    @property
    def directions(self):
        return list(self.tints)

    def translate_together(self, images, embeddings, strength=None, noise=None):
        return {direction: self.tints[direction](image) for direction, image in images.items()}

    def noise_shape(self, image):
        return 1, 0, 0, 0


def files(folder):
    images = list_images(folder)
    return Domain(dict.fromkeys(STAGES, folder), {"train": images[4:], "validate": images[:2], "test": images[2:4]})


class Seasons(UnpairedImages):
    domain_names = ("summer", "winter")
    default_prompts = ("a street in summer", "a street in winter")

    @classmethod
    def list_files(cls, root, seed):
        return files(root / "summer"), files(root / "winter")


class SamePlace(PairedImages):
    @classmethod
    def list_files(cls, root, seed):
        targets = files(root / "winter")
        return Pairs(targets, files(root / "summer"), {stage: [None] * len(targets.files[stage]) for stage in STAGES})

    def describe_splits(self):
        return f"places in summer and winter, {super().describe_splits()}"
'''


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder of the user's own, with code and images."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mine.py").write_text(MINE)
    for k, season in enumerate(("summer", "winter")):
        for i in range(8):
            noise = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(100 * k + i))
            write_image(folder / "images" / season / f"{i}.png", noise * 2 - 1)
    return folder


def make(folder, target, *words, flags):
    """Run a target in the repository, with a folder of the user's own on ``PYTHONPATH``."""
    result = subprocess.run(
        ["make", target, *words, f"ARGS={shlex.join(flags)}", f"PY={sys.executable}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def trained(folder, exp, data, weight, run):
    """Train four images by parts of the user's own; returns the adapter's tensors."""
    directions = "[a2b]" if exp == "edge2image" else "[a2b,b2a]"
    term = f"{{class_path: mine.Brightness, weight: {weight}, init_args: {{level: {LEVEL}}}}}"
    flags = [
        *(word for word in QUICK if "generator" not in word and "discriminator" not in word),
        f"--run={run}",
        "--seed_everything=7",
        "--model.init_args.max_images=4",
        "--model.init_args.warmup_images=0",
        "--model.init_args.generator=mine.Generator",
        f"--model.init_args.generator.init_args.directions={directions}",
        "--model.init_args.discriminator=mine.Discriminator",
        f"--model.init_args.discriminator.init_args.slope={SLOPE}",
        f"--model.init_args.extra_terms=[{term}]",
        f"--data.class_path=mine.{data}",
    ]
    make(folder, "train", f"EXP={exp}", f"DATA={folder / 'images'}", flags=flags)
    return load_file(run / "adapter" / "adapter.safetensors")


def scalars(run, name):
    return [event.value for event in EventAccumulator(str(run)).Reload().Scalars(name)]


@pytest.mark.parametrize(
    ("exp", "data", "directions", "says"),
    [
        ("clear2foggy", "Seasons", ("a2b", "b2a"), "summer and winter, train 4 + 4, validate 2 + 2, test 2 + 2"),
        pytest.param(
            *("edge2image", "SamePlace", ("a2b",), "places in summer and winter, pairs, train 4, validate 2, test 2"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parts_from_outside_train(exp, data, directions, says, outside, tmp_path, capsys):
    run = tmp_path / "run"
    tensors = trained(outside, exp, data, 100, run)
    assert set(tensors) == {f"tints.{d}.{name}" for d in directions for name in ("weight", "bias")}
    for d in directions:
        # At first every pixel is 0, and so as far from the level as the level is high.
        logged = scalars(run, f"train/brightness_{d}" if len(directions) > 1 else "train/brightness")
        assert logged[0] == pytest.approx(LEVEL) and logged[-1] < logged[0]
        assert (tensors[f"tints.{d}.bias"] > 0).all(), "the term, of the largest weight, pulls all colours up"
    without = trained(outside, exp, data, 0, tmp_path / "without")
    assert all(not torch.equal(tensors[name], without[name]) for name in tensors)

    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["state_dict"]["discriminators.a2b.layer.weight"].count_nonzero() > 0
    card = json.loads((run / "adapter" / "adapter.json").read_text())
    assert (card["base"], card["settings"]) == ("tint", {"directions": list(directions), "start": 0.0})
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"] == card["data"] == f"{outside / 'images'}: {says}"
    assert metrics["trainable_parameters"] == 12 * len(directions)
    if exp == "clear2foggy":
        assert card["prompts"] == {"a2b": "a street in winter", "b2a": "a street in summer"}
    config = OmegaConf.load(run / "config.yaml")
    assert config.data.class_path == f"mine.{data}" and config.data.init_args.seed == 7
    assert config.model.init_args.get("update", "fused") == "fused"
    assert config.model.init_args.discriminator == {"class_path": "mine.Discriminator", "init_args": {"slope": SLOPE}}

    flag = "--model.init_args.max_images=5"
    assert resume.main([f"--run={run}", flag]) == 2
    assert "allow it with TRUST=mine." in capsys.readouterr().err
    make(outside, "resume", f"RUN={run}", "TRUST=mine", flags=[flag])
    assert json.loads((run / "adapter" / "adapter.json").read_text())["images_seen"] == 5
