"""ICC profiles: colours arrive as sRGB, whatever holds them; sRGB itself and damaged profiles change nothing."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from images.colour import LARGEST_PROFILE, _conversion, to_srgb
from images.ranges import to_pixels
from images.reading import pixels_of, read_image, read_image_with_alpha

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, GREEN = (200, 10, 30), (10, 200, 30)


def swapped():
    """A profile whose red is sRGB's green and whose green is sRGB's red: the tags of two primaries change names."""
    profile = bytearray(SRGB)
    for k in range(struct.unpack(">I", profile[128:132])[0]):
        at = 132 + 12 * k
        tag = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(tag, tag)
    return bytes(profile)


def first(path):
    return to_pixels(read_image(path))[0, 0].astype(int)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.webp"])
def test_colours_of_another_profile_become_srgb(name, tmp_path):
    Image.new("RGB", (16, 16), RED).save(tmp_path / name, icc_profile=swapped(), **{"quality": 100})
    assert np.abs(first(tmp_path / name) - GREEN).max() <= 6, "within JPEG's rounding"
    assert np.abs(pixels_of(Image.open(tmp_path / name))[0, 0].astype(int) - GREEN).max() <= 6


@pytest.mark.parametrize("profile", [SRGB, b"no profile at all", swapped()[:200]])
def test_srgb_and_damaged_profiles_change_no_bit(profile, tmp_path):
    Image.new("RGB", (3, 2), RED).save(tmp_path / "x.png", icc_profile=profile)
    assert first(tmp_path / "x.png").tolist() == [*RED]


def test_palettes_and_transparency_are_converted_too(tmp_path):
    Image.new("RGB", (3, 2), RED).convert("P").save(tmp_path / "palette.png", icc_profile=swapped())
    red, green, _ = first(tmp_path / "palette.png")
    assert green > 150 > 80 > red
    Image.new("RGBA", (3, 2), (*RED, 51)).save(tmp_path / "alpha.png", icc_profile=swapped())
    image, alpha = read_image_with_alpha(tmp_path / "alpha.png")
    assert np.allclose(alpha, 0.2)
    over_white = np.array(GREEN) * 0.2 + 255 * 0.8
    assert np.abs(to_pixels(image)[0, 0] - over_white).max() <= 1


def test_sixteen_bits_are_converted_at_eight_and_kept_under_srgb(tmp_path):
    deep = np.full((2, 3, 3), RED, np.uint16) * 257 + 100
    for name, profile in (("other.tif", swapped()), ("srgb.tif", SRGB)):
        tag = (34675, "B", len(profile), profile, True)  # InterColorProfile
        tifffile.imwrite(tmp_path / name, deep, photometric="rgb", extratags=[tag])
    assert np.abs(first(tmp_path / "other.tif") - GREEN).max() <= 1
    assert np.allclose((read_image(tmp_path / "srgb.tif")[:, 0, 0] + 1) * 32767.5, deep[0, 0], atol=0.1)


def test_a_profile_of_another_colour_model_is_left_alone(tmp_path):
    Image.new("CMYK", (3, 2), (10, 20, 30, 0)).save(tmp_path / "plain.tif")
    Image.new("CMYK", (3, 2), (10, 20, 30, 0)).save(tmp_path / "wrong.tif", icc_profile=swapped())
    assert np.array_equal(first(tmp_path / "plain.tif"), first(tmp_path / "wrong.tif"))


def test_a_profile_of_megabytes_is_not_read_nor_kept_in_memory():
    image = Image.new("RGB", (2, 2), (200, 30, 30))
    before = _conversion.cache_info()
    assert to_srgb(image, bytes(LARGEST_PROFILE + 1)) is image
    assert _conversion.cache_info() == before
