"""Lift and tiles: what they keep of an image, which one is chosen, and what they cost."""

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from datamodules.scenes import render
from images.resizing import resize
from inference import Translator
from inference.backends import Training
from inference.high_resolution import AffineModels, SmoothedModels, choose_layout, seam_gradients, translate_tiles
from networks.checkpoints.card import Resolution


def seam_score(image, tile):
    at_seams, beside = seam_gradients(image, tile)
    return at_seams / beside


def scene(domain, size=256, task="clear_foggy", index=5):
    return render(task, domain, 0, index, size).numpy()


@pytest.fixture
def smooth():
    """A ramp of colours, (3, 90, 140)."""
    y, x = np.mgrid[0:1:90j, 0:1:140j].astype(np.float32)
    return np.stack([x, y, x * y]) * 1.6 - 0.8


def test_a_global_change_of_colours_is_carried_over_exactly(smooth):
    mix = np.array([[0.6, 0.2, 0], [0.1, 0.5, 0.1], [0, 0.3, 0.4]], np.float32)

    def recolour(image):
        return np.einsum("ck,khw->chw", mix, image) + np.float32(0.1)

    image = scene("a")
    small = resize(image, (64, 64))
    lifted = AffineModels.fit(small, recolour(small), epsilon=1e-6).apply(image)
    assert np.abs(lifted - recolour(image)).max() < 0.02
    assert np.abs(recolour(image) - image).mean() > 0.1, "there was no change"


def test_lift_keeps_the_detail_that_enlarging_loses():
    image, truth = scene("a"), scene("b")
    small, translated = (resize(one, (64, 64)) for one in (image, truth))
    lifted = AffineModels.fit(small, translated).apply(image)
    enlarged = resize(translated, (256, 256))
    error = {name: np.square(one - truth).mean() for name, one in (("lifted", lifted), ("enlarged", enlarged))}
    assert error["lifted"] < 0.5 * error["enlarged"]


def test_an_unchanged_image_stays_as_it_is_at_any_size(smooth):
    small = resize(smooth, (30, 47))
    for shape in ((90, 140), (91, 139), (30, 47), (600, 900)):
        image = resize(smooth, shape)
        np.testing.assert_allclose(AffineModels.fit(small, small).apply(image), image, atol=1e-6)


def test_strips_change_nothing(smooth, monkeypatch):
    small = resize(smooth, (30, 47))
    models = AffineModels.fit(small, -small)
    whole = models.apply(smooth)
    monkeypatch.setattr("inference.high_resolution.STRIP", 300)
    np.testing.assert_allclose(models.apply(smooth), whole, atol=1e-6)


def test_results_lie_in_the_range_of_images(smooth):
    small = resize(smooth, (30, 47))
    lifted = AffineModels.fit(small, 3 * small).apply(smooth)
    tiled = translate_tiles(smooth, (64, 64), 4, lambda tiles: 3 * tiles)
    for result in (lifted, tiled):
        assert result.min() == -1 and result.max() == 1


def lifted(frames):
    """Translations ``(B, 3, 256, 256)`` of pairs of an input and its small translation, smoothed over time."""
    smoothed, results = SmoothedModels(), []
    for image, translated in frames:
        small = resize(image, (64, 64))
        results.append(smoothed.add(small, AffineModels.fit(small, translated)).apply(image))
    return np.stack(results)


def flicker(results):
    return np.abs(np.diff(results, axis=0)).mean()


def test_a_still_camera_flickers_less():
    random, image = np.random.default_rng(0), scene("a")
    translated = resize(scene("b"), (64, 64))
    frames = [
        (
            image + random.normal(0, 0.02, image.shape).astype(np.float32),
            translated + np.float32(random.normal(0, 0.1)),  # as networks brighten the one frame and darken the next
        )
        for _ in range(6)
    ]
    alone = np.concatenate([lifted([frame]) for frame in frames])
    assert flicker(lifted(frames)) < 0.75 * flicker(alone)


def test_nothing_of_the_scene_before_is_left_after_a_cut():
    before, after = (
        (scene("a", index=index), resize(scene(domain, index=index), (64, 64)))
        for index, domain in ((5, "b"), (6, "a"))
    )
    difference = np.abs(lifted([before, after])[1] - lifted([after])[0])
    assert difference.max() < 2 / 255
    local = np.abs(resize(before[0] - after[0], (64, 64))).mean(axis=0)
    assert np.quantile(local, 0.1) < 0.05, "no place has the same colour in both scenes"


def test_what_moves_is_not_averaged_with_what_was_there():
    image = np.full((3, 256, 256), -0.5, np.float32)
    moved = image.copy()
    moved[:, :64, :64] = 0.7
    small = (64, 64)
    frames = [(image, resize(image, small) - 0.3), (moved, resize(moved, small) + 0.3)]
    change = lifted(frames)[1] - lifted(frames[1:])[0]
    assert np.abs(change[:, :40, :40]).max() < 2 / 255 and np.abs(change[:, 128:, 128:]).min() > 0.1


@pytest.mark.parametrize("shape", [(64, 64), (65, 64), (200, 71), (64, 500)])
def test_tiles_give_back_what_the_network_gives_back(shape):
    image = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float32)
    counts = []

    def identity(tiles):
        assert tiles.shape[1:] == (3, 64, 64)
        counts.append(len(tiles))
        return tiles

    np.testing.assert_allclose(translate_tiles(image, (64, 64), 3, identity), image, atol=1e-6)
    assert max(counts) <= 3


def test_tiles_of_different_brightness_blend_without_a_seam():
    image = scene("a", 256)
    brightness = iter(np.linspace(-0.1, 0.1, 1000))

    def drifting(tiles):
        return np.stack([tile * 0.8 + np.float32(next(brightness)) for tile in tiles])

    blended = translate_tiles(image, (64, 64), 1, drifting)
    assert seam_score(blended, (64, 64)) < 1.05 * seam_score(image, (64, 64))
    hard = image.copy()
    for k, top in enumerate(range(0, 256, 48)):
        hard[:, top : top + 48] += 0.2 * (-1) ** k
    assert seam_score(hard, (64, 64)) > 1.05 * seam_score(image, (64, 64)), "the score sees no seams"


@pytest.mark.parametrize(
    ("resolution", "shape", "size", "training", "expected"),
    [
        ("auto", (100, 120), None, Training(size=128), "direct"),
        ("auto", (128, 300), None, Training(size=128), "direct"),
        ("auto", (129, 300), None, Training(size=128), "lift from 298 x 128"),
        ("auto", (3000, 4000), None, Training(size=128), "lift from 171 x 128"),
        ("auto", (3000, 4000), None, Training(), "lift from 683 x 512"),
        ("auto", (3000, 4000), 128, Training(size=128), "direct"),
        ("auto", (3000, 4000), 1024, Training(size=128, resolution="tiles"), "tiles of 256 x 256"),
        ("tiles", (100, 400), None, Training(size=128), "tiles of 256 x 100"),
        ("direct", (900, 900), None, Training(size=128), "direct"),
        ("direct", (3000, 4000), 1024, Training(size=128), "direct"),
        ("lift", (100, 90), None, Training(size=128), "lift from 90 x 100"),
    ],
)
def test_the_layout_follows_the_card_and_the_size(resolution, shape, size, training, expected):
    layout = choose_layout(resolution, "photo.jpg", shape, size, training, draws_lines=False)
    assert str(layout) == expected
    if size is None:
        assert layout.shape == shape
    else:
        assert min(layout.shape) == size


@pytest.mark.parametrize(
    ("resolution", "shape", "draws_lines", "words"),
    [
        ("lifted", (10, 10), False, r"'lifted'\. Did you mean 'lift'"),
        ("direct", (1025, 1024), False, "photo.jpg has 1024 x 1025"),
        ("lift", (513, 9000), False, "network would get 8982 x 512"),
        ("lift", (10, 10), True, "line drawing"),
    ],
)
def test_what_cannot_work_is_refused(resolution, shape, draws_lines, words):
    training = Training(size=512)
    with pytest.raises(ValueError, match=words):
        choose_layout(resolution, "photo.jpg", shape, None, training, draws_lines)


def test_a_card_tells_the_resolution_and_an_old_card_its_line_drawing():
    assert {*get_args(Resolution)} == {"lift", "tiles", "direct"}
    for mode in get_args(Resolution):
        assert Training.from_card({"resolution": mode}).resolution == mode
    assert Training.from_card({}) == Training()
    assert Training.from_card({"edits": ["add fog", 3]}).edits == ["add fog"]
    assert Training.from_card({"edits": "add fog"}).edits == ()
    assert Training.from_card({"preprocessing": {"preprocess": "canny", "eval_size": 256}}) == Training(
        line_drawing="canny", size=256, resolution="tiles"
    )


@pytest.mark.parametrize("resolution", ["lift", "tiles"])
def test_the_translator_goes_through_them(adapter, resolution):
    translator = Translator.load(adapter, device="cpu")
    translator.backend.training = replace(translator.backend.training, size=16, resolution=resolution)
    photo = (scene("a", 40).transpose(1, 2, 0) * 127.5 + 127.5).astype(np.uint8)
    result = translator(photo)
    assert result.shape == photo.shape and np.array_equal(result, translator(photo, resolution=resolution))
    assert not np.array_equal(result, translator(photo, resolution="direct"))
    assert np.array_equal(translator(Image.fromarray(photo)), result)
    batch = translator(np.stack([photo, photo[::-1]]))
    assert np.abs(batch[0].astype(int) - result).max() <= 1
    assert np.array_equal(translator(photo, size=16), translator(photo, size=16, resolution="direct"))


MEASURE = """
import resource, sys
import numpy as np
from inference.high_resolution import AffineModels
from images.resizing import resize
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
image = np.zeros((3, 5000, 10000), np.float32)
small = resize(image, (128, 256))
before = peak()
result = AffineModels.fit(small, small + 0.1).apply(image)
assert abs(float(result.mean()) - 0.1) < 1e-3
print(peak() - before)
"""


def test_lifting_fifty_megapixels_takes_little_more_than_the_result():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    result = 5000 * 10000 * 3 * 4
    assert int(done.stdout) < 1.5 * result
