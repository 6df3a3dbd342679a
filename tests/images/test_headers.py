import json
import os

import numpy as np
import pytest
from PIL import Image

from images import headers
from images.headers import check_headers
from tests.datamodules.miniature import save


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_sizes_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("x.jpg", "x.png"):
        Image.fromarray(np.zeros((4, 9, 3), np.uint8)).save(tmp_path / name, exif=exif)
    plain = save(tmp_path / "y.webp", size=(9, 4))
    sizes = check_headers([tmp_path / "x.jpg", tmp_path / "x.png", plain])
    assert list(sizes.values()) == [(9, 4), (9, 4), (4, 9)]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "ppm"])
@pytest.mark.parametrize("share", [0.95, 0.3])
def test_truncated_files_are_named(suffix, share, tmp_path):
    good = save(tmp_path / f"good.{suffix}", size=(64, 48))
    bad = cut(save(tmp_path / f"bad.{suffix}", size=(64, 48)), share)
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be used: .*bad\.") as error:
        check_headers([good, bad])
    assert "good" not in str(error.value)


def test_a_thumbnail_does_not_hide_a_truncated_jpeg(tmp_path):
    small = save(tmp_path / "small.jpg").read_bytes()
    content = save(tmp_path / "x.jpg", size=(64, 48)).read_bytes()
    segment = b"Exif\0\0" + small  # as cameras do, an end marker within a header segment
    packed = content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]
    path = tmp_path / "x.jpg"
    path.write_bytes(packed)
    assert check_headers([path]) == {path: (48, 64)}
    path.write_bytes(packed[:-40])
    with pytest.raises(ValueError, match="end marker is missing"):
        check_headers([path])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_bytes_behind_the_end_are_allowed(suffix, tmp_path):
    path = save(tmp_path / f"x.{suffix}")
    path.write_bytes(path.read_bytes() + b"\0" * 200_000)
    assert check_headers([path]) == {path: (16, 24)}


def test_text_is_no_picture(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    with pytest.raises(ValueError, match=r"x\.png \(not an image\)"):
        check_headers([tmp_path / "x.png"])


def test_what_was_sound_is_not_read_again_until_it_changes(tmp_path, monkeypatch, own_cache):
    paths = [save(tmp_path / f"{k}.png") for k in range(3)]
    read = []
    original = headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda path: read.append(path) or original(path))
    first = check_headers(paths)
    assert check_headers(paths) == first
    assert read == paths
    save(paths[1], size=(5, 7))
    assert check_headers(paths)[paths[1]] == (7, 5)
    assert read == [*paths, paths[1]]
    cut(paths[2], 0.5)
    with pytest.raises(ValueError, match=r"2\.png"):
        check_headers(paths)
    (cache,) = own_cache.iterdir()
    assert str(paths[2]) not in json.loads(cache.read_text())


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, own_cache, monkeypatch):
    path = save(tmp_path / "x.png")
    check_headers([path])
    (cache,) = own_cache.iterdir()
    cache.write_text('{"half')
    assert check_headers([path]) == {path: (16, 24)}
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("ONE_STEP_CACHE", os.fspath(file / "below"))
    assert check_headers([path]) == {path: (16, 24)}
