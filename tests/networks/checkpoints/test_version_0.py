"""A run written before adapters had a typed card still loads, translates alike and resumes; see version_0_run/."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import resume, translate

RUN = Path(__file__).with_name("version_0_run")


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("path", "expected", "options"),
    [
        ("adapter", "expected.png", []),
        ("checkpoints/last.ckpt", "expected.png", []),
        (".", "expected_strength.png", ["--strength=0.6", "--seed=3"]),
    ],
)
def test_old_files_translate_to_the_recorded_image(path, expected, options, tmp_path):
    arguments = [f"--ckpt={RUN / path}", f"--in={RUN / 'input.png'}", f"--out={tmp_path / 'out.png'}", "--device=cpu"]
    assert translate.main([*arguments, *options]) == 0
    assert np.abs(pixels(tmp_path / "out.png") - pixels(RUN / expected)).max() <= 1


def test_an_old_run_goes_on(tmp_path):
    run = tmp_path / "runs" / "exp" / "base" / "version_0"
    shutil.copytree(RUN, run)
    before = (run / "adapter" / "adapter.safetensors").read_bytes()
    assert resume.main([f"--run={run}", "--model.init_args.max_images=10", "--data.init_args.num_workers=0"]) == 0
    assert (run / "adapter" / "adapter.safetensors").read_bytes() != before
