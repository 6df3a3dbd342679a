"""Sixteen clients at once: each gets its own picture, and the server's memory does not grow."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.serving import MIB, largest_difference, load, served
from inference.translator import Translator

CLIENTS = 16


@pytest.mark.long
@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_every_client_gets_its_own_picture(seconds, adapter, tiny_base, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw = np.random.default_rng(0)
    sides = [(64, 64), (64, 48), (80, 64)]
    images = [
        Image.fromarray(draw.integers(0, 256, (height // 8, width // 8, 3), np.uint8)).resize((width, height))
        for height, width in (sides[k % 3] for k in range(CLIENTS))
    ]
    contents = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        contents.append(buffer.getvalue())
    translator = Translator.load(adapter, "float32")
    references = [np.asarray(translator(image), np.int16) for image in images]
    with served(f"--ckpt={adapter}", "--precision=float32", "--batch=4", "--requests=12") as address:
        asyncio.run(load(address, contents, 2))  # first allocations
        found = asyncio.run(load(address, contents, seconds))
    assert set(found.statuses) == {200, 503}, "twelve at once, the others are told to come again"
    assert all(found.contents), "everybody was served"
    assert largest_difference(found, references) <= 1
    assert found.memory[1] - found.memory[0] < 32 * MIB
