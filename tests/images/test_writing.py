"""Formats, depths and grey files, and the memory that large images take on their way."""

import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from images.ranges import from_pixels, to_pixels
from images.reading import composite, is_grey, read_image, read_image_with_alpha
from images.writing import encode_image, write_image


def ramp(height=16, width=24):
    """A smooth image, (3, H, W) in [-1, 1], whose channels differ."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return np.stack([x, y, (x + y) / 2]).astype(np.float32)


@pytest.mark.parametrize(("name", "error"), [("x.png", 0.51), ("x.jpg", 6), ("x.jpeg", 6), ("x.webp", 12)])
def test_each_format_gives_the_image_back(name, error, tmp_path):
    write_image(tmp_path / name, ramp())
    assert np.abs(read_image(tmp_path / name) - ramp()).max() * 127.5 < error
    with Image.open(tmp_path / name) as file:
        assert file.format == {"png": "PNG", "webp": "WEBP"}.get(name[2:], "JPEG"), "by content, not by name alone"


def test_sixteen_bits_hold_what_eight_cannot(tmp_path):
    image, alpha = ramp() * 0.01, (ramp()[:1] + 1) / 2
    write_image(tmp_path / "x.png", image, alpha, depth=16)
    deep, transparency = read_image_with_alpha(tmp_path / "x.png")
    over_white = image * alpha + 1 - alpha
    assert np.abs(transparency - alpha).max() < 1 / 60_000 and np.abs(deep - over_white).max() < 1e-4
    assert cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_grey_files_have_one_channel_of_luma(tmp_path):
    image = from_pixels(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    for depth, levels in ((8, [76, 150, 29]), (16, [76.2, 149.7, 29.1])):
        write_image(tmp_path / "x.png", image, depth=depth, grey=True)
        found = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
        assert found.ndim == 2 and np.allclose(found[0] / (1 if depth == 8 else 257), levels, atol=0.5)
        assert is_grey(tmp_path / "x.png")
    write_image(tmp_path / "x.jpg", image, grey=True)
    assert Image.open(tmp_path / "x.jpg").mode == "L"
    write_image(tmp_path / "a.png", image, np.full((1, 1, 3), 0.2), grey=True)
    assert Image.open(tmp_path / "a.png").mode == "LA" and is_grey(tmp_path / "a.png")
    write_image(tmp_path / "colour.png", image)
    assert not is_grey(tmp_path / "colour.png")


def test_jpeg_shows_white_through_transparency(tmp_path):
    write_image(tmp_path / "x.jpg", np.full((3, 16, 16), -1), np.full((1, 16, 16), 0.2))
    assert np.abs(to_pixels(read_image(tmp_path / "x.jpg")).astype(int) - 204).max() <= 1


@pytest.mark.parametrize(
    ("suffix", "depth", "shape", "words"),
    [(".jpg", 16, (2, 2), "16 need .png"), (".gif", 8, (2, 2), "not as .gif"), (".webp", 8, (1, 16_384), "WEBP holds")],
)
def test_what_a_format_cannot_hold_is_refused(suffix, depth, shape, words):
    with pytest.raises(ValueError, match=words):
        encode_image(np.zeros((3, *shape)), suffix, depth=depth)


def peak(function, *values):
    """Bytes that numpy held at most during a call, and its result."""
    tracemalloc.start()
    try:
        result = function(*values)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def test_large_images_are_converted_without_copies_of_their_size():
    """Beside the result at most a few strips: at 50 megapixels a copy of floats would be 600 MB."""
    strip = 32 << 20
    image, alpha = np.zeros((3, 2000, 3000), np.float32), np.zeros((1, 2000, 3000), np.float32)
    for depth in (8, 16):
        most, pixels = peak(to_pixels, image, alpha, depth)
        assert pixels.nbytes < most < pixels.nbytes + strip
    pixels = np.zeros((2000, 3000, 4), np.uint8)
    most, (read, opacity) = peak(composite, pixels)
    assert most < read.nbytes + opacity.nbytes + strip
