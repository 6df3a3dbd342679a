import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import headers
from images.headers import check_headers, has_too_many_scans, read_header, read_headers
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
    with pytest.raises(ValueError, match=r"x\.png \(not a PNG, .* image\)"):
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
    assert str(paths[1]).encode() in cache.read_bytes()
    assert str(paths[2]).encode() not in cache.read_bytes()


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


def test_a_cache_of_other_files_is_used_for_those_that_are_still_there(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{k}.png", size=(8 + k, 8)) for k in range(4)]
    before = check_headers(paths[:3])
    read = []
    original = headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda path: read.append(path) or original(path))
    paths[0].unlink()
    assert check_headers(paths[1:]) == {paths[1]: before[paths[1]], paths[2]: before[paths[2]], paths[3]: (8, 11)}
    assert read == [paths[3]]


def test_bad_files_come_in_the_order_of_folders(tmp_path, monkeypatch):
    """By the parts of their paths, and not by their characters: "a/..." before "a b/..."."""
    monkeypatch.chdir(tmp_path)
    paths = [Path("a b", "x.png"), Path("a", "y.png"), Path("a", "x.png")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text("hello")
    sizes, bad = read_headers([*paths, Path("gone.png")])
    assert not sizes
    assert list(bad) == [Path("a", "x.png"), Path("a", "y.png"), Path("a b", "x.png"), Path("gone.png")]
    assert "No such file" in bad[Path("gone.png")]


def jpeg(**options):
    pixels = np.random.default_rng(0).integers(0, 256, (19, 31, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        jpeg(),
        jpeg(progressive=True),
        jpeg(mode="L"),
        jpeg(mode="CMYK"),
        jpeg(comment="x" * 300),
        jpeg(icc_profile=b"profile" * 1000),
        jpeg(icc_profile=b"profile" * 10_000),
        jpeg() + b"behind the end",
    ],
)
def test_jpegs_have_the_size_that_pillow_finds(content, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert read_header(path) == (19, 31)


def test_a_jpeg_that_pillow_refuses_is_refused(tmp_path):
    """Whatever byte of its segments is wrong, the answer is Pillow's."""
    path, whole = tmp_path / "x.jpg", jpeg()
    start = whole.index(b"\xff\xda")
    for place in range(2, start):
        for value in (0, 0xFF, whole[place] ^ 1):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                with Image.open(path) as image:
                    wanted = image.size[::-1]
            except Exception:  # of any kind
                wanted = None
            try:
                found = read_header(path)
            except headers.UNREADABLE:
                found = None
            if found is not None:
                assert found == wanted, f"byte {place} is {value}"


def test_a_jpeg_of_many_scans_is_told_from_ordinary_ones():
    def encoded(**options):
        file = io.BytesIO()
        Image.new("L", (800, 800), 128).save(file, "JPEG", exif=b"Exif\0\0" + b"\xff\xda\0\2" * 200, **options)
        return file.getvalue()

    progressive = encoded(progressive=True)
    *_, before, last = (found.start() for found in re.finditer(b"\xff\xc4", progressive))  # tables of a scan, it behind
    for content in (encoded(), progressive, progressive + b"\xff\xda\0\2" * 200, b"", b"\xff\xd8\xff", b"\xff\xda\xff"):
        assert not has_too_many_scans(content)
    scan = progressive[before:last]
    each = scan.count(b"\xff\xda")
    assert not has_too_many_scans(progressive[:last] + scan * (80 // each) + progressive[last:])
    assert has_too_many_scans(progressive[:last] + scan * (101 // each) + progressive[last:])
