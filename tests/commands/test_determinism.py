"""Training on the twin world depends on the seed alone: twice the same gives the same bits."""

import pytest
import torch
from safetensors.torch import load_file

from commands import train

from .conftest import QUICK

SCENES = [f"--data.init_args.{k}" for k in ("train_scenes=6", "val_scenes=2", "test_scenes=2")]
RESNET = [f"--model.init_args.generator.init_args.{k}" for k in ("width=4", "blocks=1")]


def adapter(folder, *arguments):
    assert train.main([f"--run={folder}", "--model.init_args.max_images=4", *arguments, *SCENES]) == 0
    return load_file(folder / "adapter" / "adapter.safetensors")


@pytest.mark.parametrize("exp", ["day2night", "clear2foggy", "horse2zebra", "edge2image", "sketch2image"])
def test_the_same_seed_gives_the_same_bits(exp, two_level_base, tmp_path):
    base = f"--model.init_args.generator.init_args.base={two_level_base}"
    first, second = (adapter(tmp_path / name, f"--exp={exp}", *QUICK, base) for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_others(tmp_path):
    plain = [a for a in QUICK if "rank_" not in a]
    common = ["--exp=clear2foggy", "--base=resnet", *plain, *RESNET]
    first, again = (adapter(tmp_path / name, *common) for name in ("first", "again"))
    other = adapter(tmp_path / "other", *common, "--seed_everything=1")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))
