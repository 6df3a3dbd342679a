"""The queue before the network: order, batches of equal shapes, and failures that stay with their own image."""

import threading
from concurrent.futures import wait

import numpy as np
import pytest

from inference.backends import Backend, Training
from inference.jobs import Settings
from inference.translator import Translator
from serving.batching import AbandonedError, Batcher, Item, PromptError

NIGHT = Settings(prompt="night")


class Doubled(Backend):
    """Halves pixels; fails for a black image, and for batches above `most` images as a full memory does."""

    name, precision, device, base_description, base_fingerprint, weights = "torch", "float32", "cpu", "", "", ""
    training, multiple, directions, prompts, trained_only = Training(), 1, ("a2b", "b2a"), {"a2b": "night"}, False

    def __init__(self, most=99):
        self.most, self.batches = most, []
        self.go = threading.Event()
        self.busy = threading.Event()

    def embed(self, prompts):
        if "unknown" in prompts:
            raise FileNotFoundError("no text encoder in /somewhere")
        return np.zeros((len(prompts), 1, 1), np.float32)

    def release(self):
        pass

    def translate(self, images, embedding, direction, strength=1.0, seed=0):
        self.busy.set()
        assert self.go.wait(20)
        if len(images) > self.most:
            raise MemoryError("full")
        self.batches.append((images.shape[0], images.shape[2], direction))
        if (images == -1).all(axis=(1, 2, 3)).any():
            raise ArithmeticError("a black image")
        return images / 2


@pytest.fixture
def run():
    """Submit images to a batcher whose network is held until all wait; their items, and what the network got."""
    started = []

    def submit(images, batch=4, most=99, settings=(), before=None):
        backend, batcher = Doubled(most), Batcher(batch)
        batcher.start()
        started.append((batcher, backend))
        translator = Translator(backend)
        settings = settings or [NIGHT] * len(images)
        items = [
            Item(translator, how, translator.prepare(one, resolution=how.resolution))
            for one, how in zip(images, settings, strict=True)
        ]
        batcher.submit(items[0])
        assert backend.busy.wait(20)
        for item in items[1:]:
            batcher.submit(item)
        if before:
            before(batcher, items)
        backend.go.set()
        wait([item.output for item in items if not item.output.cancelled()], 20)
        return items, backend.batches

    yield submit
    for batcher, backend in started:
        backend.go.set()
        batcher.stop()
        assert not batcher.running


def image(value, side=8):
    return np.full((3, side, side), value, np.float32)


def test_what_waits_is_translated_together_where_shapes_and_settings_are_equal(run):
    images = [image(0.1), image(0.2), image(0.3, side=16), image(0.4), image(0.5), image(0.6), image(0.7), image(0.8)]
    how = [NIGHT] * 6 + [Settings(prompt="night", direction="b2a"), NIGHT]
    items, batches = run(images, settings=how)
    assert batches == [(1, 8, "a2b"), (4, 8, "a2b"), (1, 16, "a2b"), (1, 8, "b2a"), (1, 8, "a2b")]
    for item, one in zip(items, images, strict=True):
        assert np.allclose(item.output.result(), one / 2)


def test_an_image_that_fails_fails_alone(run):
    images = [image(0.1), image(0.2), image(-1), image(0.4)]
    items, batches = run(images)
    assert [count for count, *_ in batches] == [1, 3, 1, 1, 1]
    assert isinstance(items[2].output.exception(), ArithmeticError)
    for k in (0, 1, 3):
        assert np.allclose(items[k].output.result(), images[k] / 2)


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_are_smaller(run):
    items, batches = run([image(k / 10) for k in range(9)], most=2)
    assert [count for count, *_ in batches] == [1, 2, 2, 2, 2]
    assert np.allclose(items[8].output.result(), 0.4)


def test_an_image_that_does_not_fit_alone_is_a_memory_error(run):
    items, _ = run([image(0.1)], most=0)
    assert isinstance(items[0].output.exception(), MemoryError)


def test_what_nobody_waits_for_is_not_computed(run):
    def leave(batcher, items):
        items[1].output.cancel()
        batcher.discard(items[2])
        items[2].output.cancel()
        assert len(batcher) == 2  # the cancelled one is left out when its turn comes

    items, batches = run([image(k / 10) for k in range(4)], before=leave)
    assert [count for count, *_ in batches] == [1, 1]
    assert np.allclose(items[3].output.result(), 0.15)


def test_tiles_that_nobody_waits_for_any_more_are_not_computed(run):
    """An image of many tiles takes minutes, and the others wait."""

    def leave(batcher, items):
        batcher.discard(items[0])  # its first tile is computed now

    tiled = Settings(prompt="night", resolution="tiles")
    items, batches = run([image(0.1, side=3000), image(0.2)], batch=1, settings=[tiled, NIGHT], before=leave)
    assert [side for _, side, _ in batches] == [768, 8]
    assert isinstance(items[0].output.exception(), AbandonedError)
    assert np.allclose(items[1].output.result(), 0.1)


def test_a_prompt_that_cannot_be_embedded_is_told_apart(run):
    items, batches = run([image(0.1), image(0.2)], settings=[NIGHT, Settings(prompt="unknown")])
    assert isinstance(items[1].output.exception(), PromptError)
    assert len(batches) == 1
