"""Files appear whole or not at all; what digests, hints and the cache promise."""

import hashlib
import json

import pytest

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
