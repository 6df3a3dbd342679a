import os
import pickle
from pathlib import Path

import pytest

from images.listing import PathList, look_through, texts


def test_a_list_of_paths_is_as_good_as_a_list():
    paths = [Path("b", "x.png"), Path("ä", "\udcff.png"), Path("/a b/c.jpg")]
    compact = PathList(paths)
    assert compact == paths
    assert list(compact) == paths
    assert len(compact) == 3
    assert [compact[k] for k in (0, 1, -1)] == paths
    assert compact[1:] == paths[1:]
    assert compact.take([2, 0]) == [paths[2], paths[0]]
    assert list(texts(compact)) == list(texts(paths)) == [str(path) for path in paths]
    assert pickle.loads(pickle.dumps(compact)) == paths
    assert paths[1] in compact
    assert not PathList(())
    with pytest.raises(IndexError):
        compact[3]


def test_its_pickle_takes_a_few_bytes_more_than_the_characters():
    paths = [Path("/data/train_A", f"{k:07d}.jpg") for k in range(1000)]
    assert len(pickle.dumps(PathList(paths))) < 1000 * (len(str(paths[0])) + 10)


def test_folders_are_listed_as_os_walk_finds_them(tmp_path, monkeypatch):
    """Links to files and folders, loops, hidden names, formats that are not read; relative or not."""
    for name in ("b/1.png", "a/2.JPG", "a b/3.png", "a/.hidden/4.png", "a/.5.png", "6.gif", "a/7.png.txt", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    (tmp_path / "link.png").symlink_to(tmp_path / "z.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    wanted = ["a b/3.png", "a/2.JPG", "b/1.png", "c/1.png", "link.png", "z.png"]
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path(), Path("../") / tmp_path.name):
        found = look_through(folder)
        assert found.images == [folder / name for name in wanted]
        assert found.not_files == [folder / "broken.png", folder / "pipe.png"]
        assert found.not_read == [folder / "6.gif"]
