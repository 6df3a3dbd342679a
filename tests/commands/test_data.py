import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from commands import check_data, data
from datamodules.public import DATASETS
from datamodules.public.dataset import Download


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ONE_STEP_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(shade=0, size=(24, 16), form="PNG"):
    pixels = np.random.default_rng(shade).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), format=form)
    return file.getvalue()


def archive(path, members):
    """A zip or tar of names and contents."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, content in members.items():
                (info := tarfile.TarInfo(name)).size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def horses(count=6):
    folders = [f"horse2zebra/{split}{letter}" for split in ("train", "test") for letter in "AB"]
    return {f"{folder}/{k}.png": picture(k) for folder in folders for k in range(count)}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Server(BaseHTTPRequestHandler):
    """Serves one content; breaks off after some bytes, and can ignore range requests."""

    content = b""
    breaks_after = None
    knows_ranges = True
    asked = None

    def do_GET(self):
        span = self.headers.get("Range")
        self.asked.append(span)
        start = int(span[6:-1]) if span and self.knows_ranges else 0
        self.send_response(206 if span and self.knows_ranges else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        stop = len(self.content) if self.breaks_after is None else start + self.breaks_after
        self.wfile.write(self.content[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The horses, served on this machine under the known data set's name."""
    Server.content = archive(tmp_path / "served.zip", horses()).read_bytes()
    Server.breaks_after, Server.knows_ranges, Server.asked = None, True, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        known = replace(
            data.DATASETS["horse2zebra"],
            download=Download(
                url=f"http://127.0.0.1:{running.server_port}/horse2zebra.zip",
                size=len(Server.content),
                sha256=hashlib.sha256(Server.content).hexdigest(),
            ),
        )
        monkeypatch.setitem(data.DATASETS, "horse2zebra", known)
        yield Server
        running.shutdown()


def get(out, *extra):
    return data.main(["--name", "horse2zebra", "--out", str(out), *extra])


def test_download_is_verified_and_unpacked(server, tmp_path, capsys):
    out = tmp_path / "data"
    assert get(out) == 0
    assert files(out) == horses()
    assert f"DATA={out}/horse2zebra" in capsys.readouterr().out
    assert get(out) == 0
    assert server.asked == [None]  # what is there is not fetched again


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_download_goes_on_where_it_stopped(knows_ranges, server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("datamodules.public.download.CHUNK", 500)  # whole pieces of so many bytes are kept
    out = tmp_path / "data"
    server.breaks_after, server.knows_ranges = 1000, knows_ranges
    assert get(out) == 2
    assert "1000" in capsys.readouterr().err
    assert list(files(out)) == [".horse2zebra.zip.part"]
    server.breaks_after = None
    assert get(out) == 0
    assert server.asked == [None, "bytes=1000-"]
    assert files(out) == horses()


def test_a_wrong_file_is_not_unpacked(server, tmp_path, capsys):
    server.content = server.content[:-5] + b"other"
    assert get(tmp_path / "data") == 2
    assert "SHA256" in capsys.readouterr().err
    assert files(tmp_path / "data") == {}


def test_an_unreachable_server_says_what_else_works(server, tmp_path, monkeypatch, capsys):
    known = data.DATASETS["horse2zebra"]
    gone = replace(known, download=replace(known.download, url="http://127.0.0.1:9/horse2zebra.zip"))
    monkeypatch.setitem(data.DATASETS, "horse2zebra", gone)
    assert get(tmp_path / "data") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: Cannot download http://127.0.0.1:9/")
    assert "ARCHIVE=" in error


@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
@pytest.mark.parametrize("prefix", ["", "./", "deep/er/"])
def test_archives_are_unpacked_into_the_known_layout(name, prefix, tmp_path):
    members = {prefix + path: content for path, content in horses().items()} | {"horse2zebra/readme.txt": b"x"}
    assert get(tmp_path / "data", "--archive", str(archive(tmp_path / name, members))) == 0
    assert files(tmp_path / "data") == horses()


def test_bdd100k_comes_in_several_archives(tmp_path, capsys):
    out = tmp_path / "data"
    parts = [
        {"bdd100k/images/100k/train/a.jpg": picture(form="JPEG"), "bdd100k/images/100k/test/t.jpg": b"unused"},
        {"bdd100k/images/100k/val/b.jpg": picture(form="JPEG")},
        {f"bdd100k/labels/bdd100k_labels_images_{split}.json": b"[]" for split in ("train", "val")},
    ]
    for number, part in enumerate(parts):
        path = archive(tmp_path / f"{number}.zip", part)
        assert data.main(["--name", "bdd100k", "--out", str(out), "--archive", str(path)]) == 0
        said = capsys.readouterr().out
        assert ("Still missing" in said) == (number < 2)
    assert set(files(out)) == {name for part in parts for name in part} - {"bdd100k/images/100k/test/t.jpg"}
    assert data.main(["--name", "bdd100k", "--out", str(out), "--archive", str(tmp_path / "1.zip")]) == 2
    assert "images/100k/val is already there" in capsys.readouterr().err


def test_dense_lists_and_pictures(tmp_path):
    out = tmp_path / "data"
    members = {
        "SeeingThroughFog-master/splits/dense_fog_day.txt": b"r,1",
        "SeeingThroughFog/cam_stereo_left_lut/r_1.png": picture(),
        "SeeingThroughFog/lidar/r_1.bin": b"unused",
    }
    path = archive(tmp_path / "x.tgz", members)
    assert data.main(["--name", "dense", "--out", str(out), "--archive", str(path)]) == 0
    assert set(files(out)) == {
        "SeeingThroughFog/splits/dense_fog_day.txt",
        "SeeingThroughFog/cam_stereo_left_lut/r_1.png",
    }


@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
@pytest.mark.parametrize("member", ["../trainA/x.png", "/trainA/x.png", "a/../../trainA/x.png"])
def test_archives_that_lead_out_of_their_folder_are_refused(name, member, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = archive(tmp_path / "in" / name, {**horses(), member: picture()})
    before = files(tmp_path)
    assert get(tmp_path / "data", "--archive", str(path)) == 2
    assert repr(member) in capsys.readouterr().err
    assert files(tmp_path) == before


def test_links_in_archives_are_refused(tmp_path, capsys):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("horse2zebra/trainA/x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    assert get(tmp_path / "data", "--archive", str(path)) == 2
    assert "is a link" in capsys.readouterr().err
    zipped = tmp_path / "x.zip"
    with zipfile.ZipFile(zipped, "w") as file:
        info = zipfile.ZipInfo("horse2zebra/trainA/x.png")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    assert get(tmp_path / "data", "--archive", str(zipped)) == 2
    assert files(tmp_path / "data") == {}


def test_damaged_and_foreign_archives_leave_nothing_behind(tmp_path, capsys):
    whole = archive(tmp_path / "x.tgz", horses())
    (tmp_path / "cut.tgz").write_bytes(whole.read_bytes()[:-3000])
    zipped = bytearray(archive(tmp_path / "x.zip", horses()).read_bytes())
    zipped[200] ^= 255
    (tmp_path / "flipped.zip").write_bytes(zipped)
    archive(tmp_path / "foreign.zip", {"holiday.png": picture()})
    (tmp_path / "text.zip").write_text("text")
    out = tmp_path / "data"
    for name in ("cut.tgz", "flipped.zip", "foreign.zip", "text.zip", "nowhere.zip"):
        assert get(out, "--archive", str(tmp_path / name)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert name in error
        assert not out.exists() or not list(out.iterdir())


def test_data_sets_that_need_a_registration_say_where(tmp_path, capsys):
    for name, says in (
        ("bdd100k", "bdd-data.berkeley.edu"),
        ("dense", "cam_stereo_left_lut"),
        ("photographs", "train"),
    ):
        assert data.main(["--name", name, "--out", str(tmp_path)]) == 0
        assert says in capsys.readouterr().out
    assert data.main(["--name", "hores2zebra"]) == 2
    assert "'hores2zebra'. Known: horse2zebra, bdd100k" in capsys.readouterr().err


def folder(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            (root / name / f"{k}.png").write_bytes(picture(k))
    return root


def check(exp, root, *extra):
    return check_data.main(["--exp", exp, "--data", str(root), "--out", str(root.parent / "sheet.png"), *extra])


def test_a_sound_folder_is_counted_and_drawn(tmp_path, capsys):
    root = folder(tmp_path / "in", train_A=9, train_B=14, test_A=2, test_B=3)
    (root / "train_A" / "grey.jpg").write_bytes(picture(1, (8, 30), "JPEG"))
    (root / "train_A" / "raw.nef").touch()
    assert check("clear2foggy", root) == 0
    said = capsys.readouterr().out
    for words in (
        "train     clear 6, foggy 10",
        "clear 4, foggy 4",
        "24 x 16 (28), 8 x 30 (1)",
        "RGB (29)",
        "train_A/raw.nef",
    ):
        assert words in said
    assert "no problems found" in said
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_unreadable_pictures_are_named_after_a_full_decode(tmp_path, capsys):
    root = folder(tmp_path / "in", train=9, test=2)
    content = bytearray(picture(5, (64, 64)))
    content[len(content) // 2] ^= 255  # header and end marker are whole
    (root / "train" / "5.png").write_bytes(content)
    (root / "test" / "1.png").write_text("text")
    assert check("edge2image", root) == 1
    said = capsys.readouterr().out
    assert "train/5.png" in said
    assert "test/1.png: not a PNG" in said
    assert said.count("problem: ") == 2


def test_pairs_of_two_shapes_are_a_problem(tmp_path, capsys):
    root = folder(tmp_path / "in", train_A=9, train_B=9)
    (root / "train_A" / "5.png").write_bytes(picture(5, (40, 64)))
    assert check("edge2image", root) == 1
    said = capsys.readouterr().out
    assert "one shape" in said
    assert "train_A/5.png" in said


def test_pairs_that_one_base_can_use_are_no_problem(tmp_path, capsys):
    root = folder(tmp_path / "in", train_A=9, train_B=9)
    for side, size in (("A", (1024, 683)), ("B", (512, 341))):
        (root / f"train_{side}" / "5.png").write_bytes(picture(5, size))
    assert check("edge2image", root) == 0
    assert "at 512 pixels, which not every base uses: Pairs must have one shape" in capsys.readouterr().out


def test_missing_partners_are_a_problem_and_missing_folders_an_error(tmp_path, capsys):
    root = folder(tmp_path / "in", train_A=9, train_B=10)
    assert check("edge2image", root) == 1
    assert "train_B/9" in capsys.readouterr().out
    assert check("clear2foggy", folder(tmp_path / "half", train_A=9)) == 2
    assert "train_B" in capsys.readouterr().err
    assert check("clear2foggy", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert check("clear2fogy", root) == 2
    assert "clear2foggy" in capsys.readouterr().err


def check_two(a, b, exp="clear2foggy", *extra):
    return check_data.main(["--exp", exp, "--a", str(a), "--b", str(b), "--out", str(a.parent / "sheet.png"), *extra])


def test_two_folders_are_checked_where_they_lie(tmp_path, capsys):
    a, b = folder(tmp_path / "here", **{"deep/er": 6, "beside": 6}) / "deep", folder(tmp_path, there=40) / "there"
    (b / "39.png").write_bytes(picture(39)[:-30])
    (b / "raw.nef").touch()
    assert check_two(a, b) == 1
    said = capsys.readouterr().out
    for words in (f"ClearFoggy: {a} and {b}", "train     clear 2, foggy 36", "test      clear 4, foggy 4", "raw.nef"):
        assert words in said
    (problem,) = (line for line in said.splitlines() if line.startswith("problem: "))
    assert str(b / "39.png") in problem
    assert (tmp_path / "here" / "sheet.png").is_file()


def test_two_folders_that_cannot_be_two_domains_are_refused_in_a_line(tmp_path, capsys):
    a, b = folder(tmp_path, a=9) / "a", folder(tmp_path, b=9) / "b"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(a)
    for words, says in (
        ((a, tmp_path / "nowhere"), "nowhere"),
        ((a, tmp_path / "empty"), f"No images in {tmp_path / 'empty'}"),
        ((a, b, "edge2image"), "edge2image is no experiment for two unrelated folders"),
        ((a, b, "clear2foggy", f"--data={tmp_path}"), "DATA= is given beside"),
    ):
        assert check_two(*words) == 2, words
        assert says in capsys.readouterr().err
    assert check_data.main(["--exp=clear2foggy", f"--b={b}"]) == 2
    assert "A= is missing" in capsys.readouterr().err
    assert check_data.main(["--exp=clear2foggy"]) == 2
    assert "A=clear B=foggy" in capsys.readouterr().err
    for other, says in ((tmp_path / "link", "are one folder"), (tmp_path, f"{a} is inside {tmp_path}")):
        assert check_two(a, other) == 1, other
        assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"), [("data", ["--name=x"]), ("check_data", ["--exp=clear2foggy", "--data=/nowhere"])]
)
def test_a_mistake_costs_no_import_of_torch(command, words):
    code = f"import sys; from commands import {command} as c; assert c.main({words}) == 2; "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("known", DATASETS.values(), ids=DATASETS)
def test_what_is_needed_of_a_data_set_is_what_unpacking_gives(known):
    """Folders that training waits for are folders that some pattern unpacks into."""
    places = [place.rpartition("/")[0] for place in known.files.values()]
    for needed in known.needed:
        assert any(needed == place or needed.startswith(place) or place.startswith(needed) for place in places), needed
    assert all(other in DATASETS for other in known.together_with)
