"""`Translator`: every kind of input, what it refuses, and that it computes what validation computes."""

import numpy as np
import pytest
import torch
from PIL import Image

from images.ranges import from_pixels, to_pixels
from inference import Translator
from inference.backends.torch import TorchBackend, pick_precision
from inference.processing import pad
from networks import load_generator


@pytest.fixture(scope="module")
def translator(adapter):
    return Translator.load(adapter, device="cpu")


@pytest.fixture
def photo():
    """Pixels of an odd size, (13, 22, 3)."""
    ramp = np.linspace(0, 255, 13 * 22).reshape(13, 22)
    return np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).astype(np.uint8)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_it_computes_what_validation_computes(translator, adapter, photo, direction):
    expected = load_generator(adapter).translate(torch.from_numpy(from_pixels(photo))[None], direction=direction)[0]
    found = translator(photo, direction)
    assert np.abs(to_pixels(expected).astype(int) - found).max() <= 1
    assert np.abs(photo.astype(int) - found).mean() > 5, "nothing was translated"


def test_each_kind_of_image_comes_back_as_it_is(translator, photo, tmp_path):
    expected = translator(photo)
    assert expected.dtype == np.uint8 and expected.shape == photo.shape
    picture = Image.fromarray(photo)
    picture.save(tmp_path / "photo.png")
    for given in (picture, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        result = translator(given)
        assert isinstance(result, Image.Image) and np.array_equal(result, expected)
    floats = from_pixels(photo)
    result = translator(floats)
    assert result.dtype == np.float32 and np.array_equal(to_pixels(result), expected)
    for dtype in (torch.float32, torch.float64):
        result = translator(torch.from_numpy(floats).to(dtype))
        assert result.dtype == torch.float32 and np.array_equal(to_pixels(result), expected)


def test_lists_and_batches(translator, photo):
    other = photo[::-1].copy()
    one, two = translator(photo), translator(other, prompt="driving in the day")
    prompts = [translator.backend.prompts["a2b"], "driving in the day"]
    mixed = translator([photo, Image.fromarray(other)], prompt=prompts)
    assert np.array_equal(mixed[0], one) and np.array_equal(mixed[1], two)
    batch = translator(np.stack([photo, other]), prompt=prompts)
    assert np.abs(batch.astype(int) - np.stack([one, two])).max() <= 1
    tensors = translator(torch.from_numpy(np.stack([from_pixels(photo), from_pixels(other)])), prompt=prompts)
    assert tensors.shape == (2, 3, 13, 22)
    assert translator([]) == []


def test_transparency_grey_and_resizing(translator, photo):
    grey = photo[..., 0]
    assert np.array_equal(translator(grey), translator(grey[..., None].repeat(3, axis=2)))
    alpha = np.full((13, 22, 1), 255, np.uint8)
    alpha[:, :5] = 0
    result = translator(np.concatenate([photo, alpha], axis=2))
    assert result.shape == (13, 22, 4) and np.array_equal(result[..., 3:], alpha)
    assert translator(Image.fromarray(photo).convert("RGBA")).mode == "RGBA"
    assert translator(photo, size=26).shape == (26, 44, 3)
    assert translator(from_pixels(photo), size=26).shape == (3, 26, 44)
    drawn = translator(Image.fromarray(photo), preprocess="canny")
    assert not np.array_equal(drawn, translator(photo))


def test_strength_blends_noise_of_a_seed_and_leaves_full_strength_as_it_was(adapter, photo):
    translator = Translator.load(adapter, device="cpu")
    weak = translator(photo, strength=0.5, seed=3)
    unmerged = translator.backend.weight_bytes
    full = translator(photo)
    assert translator.backend.weight_bytes > unmerged > 0, "strength 1 has loaded merged weights"
    assert np.array_equal(translator(photo, strength=0.5, seed=3), weak)
    assert not np.array_equal(translator(photo, strength=0.5, seed=4), weak)
    assert np.array_equal(translator(photo), full) and not np.array_equal(full, weak)
    image = torch.from_numpy(from_pixels(photo))[None]
    expected = load_generator(adapter).translate(image, strength=0.5, seed=3)[0]
    assert np.abs(to_pixels(expected).astype(int) - weak).max() <= 1


def test_bfloat16_differs_little_and_really_computes_in_it(adapter, photo):
    exact, rounded = (Translator.load(adapter, precision, "cpu") for precision in ("float32", "bfloat16"))
    difference = np.abs(exact(from_pixels(photo)) - rounded(from_pixels(photo))) * 127.5
    assert 0 < difference.mean() < 1.5
    merged = rounded.backend._at_full_strength()
    kinds = {min(weight.shape[:2]) <= 8: weight.dtype for weight in merged.parameters() if weight.ndim > 1}
    assert kinds == {True: torch.float32, False: torch.bfloat16}, "all but convolutions from and to pixels and latents"


def test_small_networks_stay_in_float32_on_a_cpu():
    small, large = torch.nn.Linear(4, 4), torch.nn.Linear(60_000, 1000, device="meta")
    assert pick_precision(small, torch.device("cpu")) == "float32"
    has_bfloat16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert pick_precision(large, torch.device("cpu")) == ("bfloat16" if has_bfloat16 else "float32")


def test_the_memory_layout_is_channels_last(translator, photo):
    translator(photo)
    weights = [p for p in translator.backend._merged.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"direction": "b2c"}, "b2c.*a2b and b2a"),
        ({"strength": 1.5}, r"\[0, 1\]"),
        ({"strength": float("nan")}, r"\[0, 1\]"),
        ({"preprocess": "cany"}, "canny"),
        ({"size": 10**6}, "megapixels"),
        ({"prompt": ["one", "two"]}, "2 prompts for 1 images"),
    ],
)
def test_arguments_that_cannot_work_are_named(translator, photo, arguments, words):
    with pytest.raises(ValueError, match=words):
        translator(photo, **arguments)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((5, 5, 2), np.uint8), ValueError, r"\(H, W, 3\).*\(5, 5, 2\)"),
        (np.zeros((5, 5, 3), np.float32), ValueError, r"\(3, H, W\).*\(5, 5, 3\)"),
        (np.full((3, 5, 5), 255.0), ValueError, r"\[-1, 1\]"),
        (np.full((3, 5, 5), np.nan), ValueError, r"\[-1, 1\]"),
        (np.zeros((3, 0, 5), np.float32), ValueError, r"\(3, 0, 5\)"),
        (Image.new("F", (4, 4)), ValueError, "floating-point"),
        (np.zeros((3, 5, 5), np.int64), TypeError, "ndarray of int64"),
        (torch.zeros(3, 5, 5, dtype=torch.uint8), TypeError, "Tensor of torch.uint8"),
        (7, TypeError, "int"),
        ("nowhere.png", FileNotFoundError, "nowhere.png"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(translator, image, error, words):
    with pytest.raises(error, match=words):
        translator(image)


@pytest.mark.parametrize(("settings", "words"), [({"precision": "int4"}, "int4"), ({"device": "abacus"}, "abacus")])
def test_what_is_not_here_is_refused_at_loading(adapter, settings, words):
    with pytest.raises(ValueError, match=words):
        Translator.load(adapter, **settings)


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (31, 8), (16, 24), (5, 6)])
def test_padding_is_that_of_the_generator(adapter, shape):
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, *shape)).astype(np.float32)
    assert np.array_equal(pad(image, 8), load_generator(adapter)._feed(torch.from_numpy(image)))


def test_an_adapter_object_serves_as_well(adapter, photo, translator):
    from networks.checkpoints.adapter import read_adapter

    assert np.array_equal(Translator(TorchBackend(read_adapter(adapter), device="cpu"))(photo), translator(photo))
