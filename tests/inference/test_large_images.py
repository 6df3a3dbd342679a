"""Photographs of many megapixels need no option, and little memory above the model's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks.checkpoints.adapter import CARD

ROOT = Path(__file__).parents[2]
TRANSLATE = """
import resource, sys
from commands.translate import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
raise SystemExit(code)
"""


@pytest.fixture
def small_adapter(adapter, tmp_path):
    """The tests' adapter as one that was validated at 64 pixels."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {"preprocessing": {"eval_size": 64}}))
    return folder


def photograph(path, width, height):
    """A JPEG of soft stripes."""
    ramp = np.linspace(0, 40, width, dtype=np.float32)
    row = (np.sin(ramp)[:, None] * [90, 60, 30] + 128).astype(np.uint8)
    Image.fromarray(np.broadcast_to(row, (height, width, 3))).save(path, quality=90)
    return path


def translated(adapter, source, target):
    """Peak memory of a process that translates a file, bytes, and what it printed."""
    words = ["--ckpt", str(adapter), "--in", str(source), "--out", str(target), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRANSLATE, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (8660, 5774)])
def test_a_photograph_of_many_megapixels(small_adapter, tmp_path, width, height):
    alone, _ = translated(small_adapter, photograph(tmp_path / "small.jpg", 96, 64), tmp_path / "small.png")
    peak, said = translated(small_adapter, photograph(tmp_path / "large.jpg", width, height), tmp_path / "large.png")
    assert f"lift from {round(64 * width / height)} x 64" in said
    assert Image.open(tmp_path / "large.png").size == (width, height)
    assert peak - alone < 60 * width * height, "50 megapixels stay under 3 GB"
