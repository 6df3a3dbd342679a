"""Files appear whole or not at all; what digests, hints and the cache promise."""

import hashlib
import json
import os
import re
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import storage


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONE_STEP_CACHE", str(tmp_path / "cache"))


def test_a_file_is_replaced_only_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with storage.atomic_write(path) as part:
        part.write_text("first")
        assert part.parent == path.parent and not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), storage.atomic_write(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path):
    with storage.atomic_write(tmp_path / "f") as one, storage.atomic_write(tmp_path / "f") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "f").read_text() == "one", "the last to finish wins"


def test_what_a_killed_process_left_is_removed_wherever_it_was_writing(tmp_path):
    for folder in (tmp_path, tmp_path / "checkpoints", tmp_path / "adapter"):
        write = storage.atomic_write(folder / "x.json")
        write.__enter__().write_text("hal")  # never ended
        (folder / "whole.json").write_text("{}")
    (tmp_path / f".{32 * 'a'}.part").mkdir()  # an export's
    (tmp_path / ".video.mp4.part").write_text("half of another program's download")
    storage.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"whole.json", ".video.mp4.part"}


def test_json_without_a_number_leaves_the_old_file(tmp_path):
    storage.write_json(tmp_path / "m.json", {"fid": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "m.json", {"fid": float("nan")})
    assert json.loads((tmp_path / "m.json").read_text()) == {"fid": 1.5}


def test_digest_is_the_sha256_of_the_pieces_in_order():
    expected = hashlib.sha256(b"names and sizes").hexdigest()
    assert storage.digest("names and sizes") == expected[:16]
    assert storage.digest((b"names ", b"and sizes"), digits=12) == expected[:12]
    assert len(storage.digest("\udcff.png", digits=64)) == 64, "a file name that is not UTF-8"


def test_a_hint_names_the_nearest_word_or_nothing():
    assert storage.did_you_mean("day2nigth", {"day2night": 1, "horse2zebra": 2}) == " Did you mean 'day2night'?"
    assert storage.did_you_mean("xyz", ["day2night"]) == ""


def test_the_cache_forgets_what_is_damaged_and_survives_a_disk_that_cannot_be_written(tmp_path, monkeypatch):
    assert storage.read_cache("a.json") == {}
    storage.write_cache("a.json", {"known": [1, 2]})
    assert storage.read_cache("a.json") == {"known": [1, 2]}
    for damage in ("{", "[1]"):
        (tmp_path / "cache" / "a.json").write_text(damage)
        assert storage.read_cache("a.json") == {}
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONE_STEP_CACHE", str(tmp_path / "file"))
    storage.write_cache("a.json", {"known": 1})
    assert storage.read_cache("a.json") == {}


def test_a_file_has_the_mode_of_the_umask_whatever_wrote_it(tmp_path):
    before = os.umask(0o027)
    try:
        with storage.atomic_write(tmp_path / "weights") as part:
            private = part.with_suffix(".tmp")  # as safetensors writes: a file of its own, renamed
            os.close(os.open(private, os.O_CREAT | os.O_WRONLY, 0o600))
            private.rename(part)
    finally:
        os.umask(before)
    assert stat.filemode((tmp_path / "weights").stat().st_mode) == "-rw-r-----"


def numpy_array(part, size):
    np.save(part.open("wb"), np.zeros(size, np.uint8))


def torch_file(part, size):
    torch.save({"weights": torch.zeros(size, dtype=torch.uint8)}, part)


def safetensors_file(part, size):
    save_file({"weights": torch.zeros(size, dtype=torch.uint8)}, part)


def png(part, size):
    side = int(size**0.5)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(part, format="PNG")


def text(part, size):
    part.write_text("a" * size)


@pytest.mark.parametrize("write", [numpy_array, torch_file, safetensors_file, png, text])
def test_a_full_disk_at_any_byte_is_one_line_and_leaves_the_old_file(write, tmp_path, full_at):
    path = tmp_path / "file"
    path.write_text("old")
    for limit in np.random.default_rng(0).integers(0, 60_000, 8):
        with full_at(int(limit)), pytest.raises(OSError, match=r"File too large\. Raise the limit") as caught:
            with storage.atomic_write(path) as part:
                write(part, 64_000)
        assert str(caught.value).startswith(f"{path} could not be written: ") and "\n" not in str(caught.value)
        assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    with storage.atomic_write(path) as part:
        write(part, 64_000)


def test_an_error_that_is_not_the_disks_passes_unchanged(tmp_path):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), storage.atomic_write(tmp_path / "f"):
        raise RuntimeError("shapes differ")
    with pytest.raises(FileNotFoundError, match="missing"), storage.atomic_write(tmp_path / "f"):
        (tmp_path / "missing.png").read_bytes()


def test_a_full_disk_is_told_with_the_space_that_is_left(small_disk):
    (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(OSError, match=r"No space left on device, 0\.\d MiB are free in .+\. Free some space") as caught:
        with storage.atomic_write(small_disk / "runs" / "file") as part:
            part.write_bytes(bytes(500_000))
    assert str(small_disk / "runs" / "file") in str(caught.value)


def test_what_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"inside could not be written: (File exists|Not a directory)\. Name another"):
        with storage.atomic_write(tmp_path / "file" / "inside"):
            pass


def fill(folder, **files):
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out, ours = tmp_path / "new" / "out", {"a", "b"}.__contains__
    with pytest.raises(KeyboardInterrupt), storage.atomic_folder(out, ours) as part:
        fill(part, a="1")
        raise KeyboardInterrupt
    assert [*(tmp_path / "new").iterdir()] == []
    with storage.atomic_folder(out, ours) as part:
        fill(part, a="1", b="2")
        assert not out.exists() and part.parent == out.parent
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "1", "b": "2"}


def test_a_folder_is_replaced_at_the_end_and_stays_where_that_fails(tmp_path):
    out, ours = tmp_path / "out", {"a", "b"}.__contains__
    out.mkdir()
    for failing in (True, False):
        fill(out, b="old")
        with suppress(RuntimeError), storage.atomic_folder(out, ours) as part:
            fill(part, a="new")
            if failing:
                raise RuntimeError
        assert [path.name for path in out.iterdir()] == (["b"] if failing else ["a"])
    assert [*tmp_path.iterdir()] == [out]


def test_a_folder_of_others_is_not_replaced(tmp_path):
    (out := tmp_path / "out").mkdir()
    fill(out, a="1", notes="mine")
    with (
        pytest.raises(ValueError, match="holds 'notes', which no such folder has"),
        storage.atomic_folder(out, "a".__eq__),
    ):
        pass
    fill(out, a="2")
    (out / "notes").unlink()
    with pytest.raises(ValueError, match="holds 'notes'"), storage.atomic_folder(out, "a".__eq__):
        fill(out, notes="written meanwhile")  # such as by an editor
    assert {path.name for path in out.iterdir()} == {"a", "notes"}


def test_a_folder_where_a_disk_is_mounted_is_refused_before_the_work(small_disk):
    with pytest.raises(ValueError, match=f"mounted at {re.escape(str(small_disk))}, .* name a folder inside it"):
        storage.check_replaceable(small_disk, "a".__eq__)
    with storage.atomic_folder(small_disk / "out", "a".__eq__) as part:
        fill(part, a="1")
    assert (small_disk / "out" / "a").read_text() == "1"


def test_a_full_disk_is_one_line_and_leaves_the_old_folder(tmp_path, full_at):
    (out := tmp_path / "out").mkdir()
    fill(out, a="old")
    with full_at(10_000), pytest.raises(OSError, match="could not be written: File too large") as error:
        with storage.atomic_folder(out, "a".__eq__) as part:
            fill(part, a=20_000 * "x")
    assert str(out) in str(error.value) and "\n" not in str(error.value)
    assert (out / "a").read_text() == "old" and [path.name for path in out.iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_one_thread_yields_to_computation_and_no_other_does():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with ThreadPoolExecutor(1, initializer=storage.yield_to_computation) as pool:
        assert pool.submit(priority).result() == 19
    assert priority() == before
