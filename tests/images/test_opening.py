"""Image files that are too large, no ordinary files, or of kinds that are not read."""

import os
import struct
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from PIL import Image

from images import opening, reading
from images.headers import check_headers, read_header
from images.listing import list_images, look_through
from images.ranges import from_pixels
from images.reading import read_image, read_image_with_alpha
from images.resizing import check_resized, resize_short_side
from tests.datamodules.miniature import save


def exif_of(kind, count, value, behind=b""):
    """EXIF data whose one entry is the orientation."""
    entry = struct.pack("<HHI", 0x0112, kind, count) + value
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0) + behind


PHOTOMETRIC = {1: "minisblack", 3: "rgb"}
TEXT = exif_of(2, 8, struct.pack("<I", 26), b"upright\0")
OUT_OF_RANGE = exif_of(3, 1, struct.pack("<HH", 99, 0))


@pytest.mark.parametrize("exif", [TEXT, OUT_OF_RANGE])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_orientation_that_is_none_turns_nothing(exif, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert read_header(path) == (4, 6)
    assert read_image(path).shape == (3, 4, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_orientation_in_floating_point_turns_what_the_check_says_and_what_is_read(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (6, 4)).save(path, exif=exif_of(11, 1, struct.pack("<f", 6)))
    assert read_header(path) == (6, 4)
    assert read_image(path).shape == (3, 6, 4)


def refused(path):
    """The reasons that the check and the reader give."""
    with pytest.raises(ValueError, match=path.name) as checked:
        check_headers([path])
    with pytest.raises(ValueError, match=path.name) as read:
        read_image(path)
    return str(checked.value), str(read.value)


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 1), ("float32", 3), ("float16", 1), ("float64", 3)])
def test_floating_point_tiff_is_refused_by_the_check_and_by_the_reader_in_the_same_words(dtype, channels, tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(
        path, np.zeros((4, 6, channels) if channels > 1 else (4, 6), dtype), photometric=PHOTOMETRIC[channels]
    )
    assert all(opening.FLOATING_POINT in said for said in refused(path))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32"])
def test_tiffs_of_signed_or_long_integers_are_refused(dtype, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 6), dtype))
    assert all(opening.INTEGERS in said for said in refused(tmp_path / "x.tif"))


def test_other_tiffs_and_empty_files_say_why(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 6, 3), np.uint32), photometric="rgb")
    assert all("save as 8 or 16 bits" in said for said in refused(tmp_path / "x.tif"))
    (tmp_path / "empty.png").touch()
    assert all("the file is empty" in said for said in refused(tmp_path / "empty.png"))


@pytest.mark.parametrize("side", [10001, 14000])  # above the first, PIL warns; above the second, it raises
def test_more_than_a_hundred_megapixels_are_refused_undecoded(side, tmp_path, recwarn):
    path = tmp_path / "x.png"
    Image.new("1", (side, side)).save(path)
    assert all("100 megapixels" in said and "make it smaller" in said for said in refused(path))
    assert not recwarn.list


def test_what_is_no_ordinary_file_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    assert all("a pipe, socket or device" in said for said in refused(tmp_path / "pipe.png"))
    assert all("a pipe, socket or device" in said for said in refused(tmp_path / "device.png"))
    assert all("a folder, not a file" in said for said in refused(tmp_path / "folder.png"))


def test_what_looks_like_an_image_and_is_not_taken_is_counted_with_the_reason(tmp_path):
    save(tmp_path / "a.png")
    for name in ("b.gif", "c.HEIC", "sub/d.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "e.jpg")
    (tmp_path / "f.png").symlink_to(tmp_path / "nowhere")
    for name in ("notes.txt", "g.MOV"):
        (tmp_path / name).touch()
    said = r"2 \.heic, 1 \.gif \(formats that are not read: .*first .*b\.gif; 1 \.mov \(videos, .*g\.MOV; 2 pipes"
    with pytest.warns(UserWarning, match=said):
        assert list_images(tmp_path) == [tmp_path / "a.png"]
    assert not look_through(tmp_path / "sub").images


@pytest.mark.parametrize("size", [(48, 32), (33, 47)])
def test_a_large_jpeg_is_decoded_at_a_reduced_size_and_ends_up_alike(size, tmp_path, monkeypatch):
    width, height = (side * 16 for side in size)
    ramp = np.add.outer(np.arange(height), 2 * np.arange(width)) % 512
    pixels = np.minimum(ramp, 511 - ramp).astype(np.uint8)[..., None].repeat(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=95, exif=exif)
    whole = resize_short_side(read_image(tmp_path / "x.jpg"), 40)
    assert np.array_equal(read_image(tmp_path / "x.jpg", 40), whole), "below the limit, every bit is as before"

    monkeypatch.setattr(reading, "REDUCED_ABOVE", 1000)
    decoded = []
    monkeypatch.setattr(reading, "from_pixels", lambda pixels: decoded.append(pixels.shape) or from_pixels(pixels))
    reduced = read_image(tmp_path / "x.jpg", 40)
    assert reduced.shape == whole.shape
    assert decoded[0][0] <= width / 4, "an eighth would be less than twice the new size"
    assert abs(reduced - whole).mean() < 2 / 255


def test_a_strip_that_would_become_huge_is_refused_with_both_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"x.png has 1 x 5000 pixels: .* of 64 it would become 64 x 320000"):
        check_resized(tmp_path / "x.png", 5000, 1, 64)
    assert check_resized(tmp_path / "x.png", 3000, 4000, 4096 // 2) == (2048, 2731)


def test_planes_whose_compression_is_damaged_are_refused_as_other_images_are(tmp_path):
    planes = np.zeros((3, 40, 40), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", planes, photometric="rgb", planarconfig="separate", compression="zlib")
    content = (tmp_path / "x.tif").read_bytes()
    for k in range(len(content)):
        damaged = content[:k] + bytes([content[k] ^ 0xFF]) + content[k + 1 :]
        with suppress(ValueError):
            read_image_with_alpha(damaged)
