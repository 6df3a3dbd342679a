"""Folders: what fails alone, what a second call finds done, what a kill leaves, and how much is held in memory."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands.translate import main
from images.headers import read_headers
from inference import Translator
from inference import folder as folders
from inference.folder import choose, remaining, translate_folder
from inference.jobs import RECORD, Record, Settings, plan

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(prompt="driving in the night")


def picture(path, seed=0, shape=(16, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k in range(6):
        picture(tmp_path / "photos" / f"{k // 3}" / f"{k}.png", k, (16, 24) if k % 2 else (24, 16))
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def translator(adapter):
    return Translator.load(adapter, "float32", "cpu")


def run(adapter, source, target, *more):
    return main(["--ckpt", str(adapter), "--in", str(source), "--out", str(target), "--device", "cpu", *more])


def outputs(folder):
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}


def work(translator, photos, out, record=None, settings=SETTINGS, **more):
    """Outcomes of a folder."""
    jobs = plan(photos, out)
    tasks, _ = choose(jobs, read_headers(image for image, _ in jobs)[0], translator, settings)
    left = tasks if record is None else remaining(tasks, record)
    return list(translate_folder(translator, left, settings, record=record, **more))


def test_one_broken_file_fails_alone(adapter, photos, tmp_path, capsys):
    (photos / "0" / "broken.png").write_bytes(b"no picture")
    whole = picture(photos / "0" / "damaged.png", shape=(64, 64)).read_bytes()
    (photos / "0" / "damaged.png").write_bytes(whole[:200] + b"\0" * 400 + whole[600:])  # sound but for its pixels
    picture(photos / "1" / "strip.png", shape=(1, 2000))
    out = tmp_path / "out"
    assert run(adapter, photos, out, "--size", "16") == 1
    assert len(outputs(out)) == 6
    error = capsys.readouterr().err
    assert "not 3 of 9 images" in error and "Traceback" not in error
    for name, why in (("broken.png", "not a PNG"), ("damaged.png", "Cannot read"), ("strip.png", "16,384")):
        assert any(name in line and why in line for line in error.splitlines()), name
    assert run(adapter, photos, tmp_path / "strict", "--size", "16", "--strict", "1") == 2
    (photos / "0" / "broken.png").unlink()  # which its header tells; strip.png alone is left, which its shape tells
    assert run(adapter, photos, tmp_path / "strict", "--size", "16", "--strict", "1") == 2
    assert not (tmp_path / "strict").exists()


def test_a_second_call_does_what_is_missing_and_nothing_else(adapter, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(adapter, photos, out) == 0
    first = {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in outputs(out).items()}
    (out / "0" / "1.png").unlink()
    picture(photos / "1" / "4.png", seed=77, shape=(24, 16))
    picture(photos / "1" / "new.png", seed=8)
    with (out / RECORD).open("ab") as file:
        file.write(b'{"output": "1/3.png", "inp')  # as a killed process leaves it
    capsys.readouterr()
    assert run(adapter, photos, out) == 0
    assert "4 of 7 are finished already" in capsys.readouterr().out
    second = {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in outputs(out).items()}
    untouched = {name for name in first if second[name][0] == first[name][0]}
    assert untouched == {"0/0.png", "0/2.png", "1/3.png", "1/5.png"}
    assert second["0/1.png"][1] == first["0/1.png"][1] and second["1/4.png"][1] != first["1/4.png"][1]
    assert run(adapter, photos, out) == 0
    printed = capsys.readouterr()
    assert "7 of 7 are finished already" in printed.out and printed.err == ""


@pytest.mark.parametrize(
    "other", [{"direction": "b2a"}, {"prompt": "driving in dense fog"}, {"seed": 1, "strength": 0.5}, {"size": 8}]
)
def test_other_settings_or_another_adapter_are_done_again(translator, photos, tmp_path, other):
    out = tmp_path / "out"
    with Record(out, photos, "model", SETTINGS) as record:
        assert len(work(translator, photos, out, record)) == 6
    with Record(out, photos, "model", SETTINGS) as record:
        assert work(translator, photos, out, record) == []
    changed = replace(SETTINGS, **other)
    with Record(out, photos, "model", changed) as record:
        assert len(work(translator, photos, out, record, changed)) == 6
    with Record(out, photos, "other weights", changed) as record:
        assert len(work(translator, photos, out, record, changed)) == 6


SLOW = """
import sys, time
from inference.translator import Translator
compute = Translator.compute
def slow(self, *args, **kwargs):
    time.sleep(0.1)
    return compute(self, *args, **kwargs)
Translator.compute = slow
from commands.translate import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_folder_goes_on_and_every_file_is_there_once(adapter, photos, tmp_path, number):
    for k in range(14):
        picture(photos / "more" / f"{k}.png", k)
    out = tmp_path / "out"
    words = ["--ckpt", str(adapter), "--in", str(photos), "--out", str(out), "--device", "cpu", "--batch", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW, *words]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        while not out.is_dir() or len(outputs(out)) < 4:
            assert child.poll() is None, child.stderr.read().decode()
            time.sleep(0.01)
        child.send_signal(number)
        _, error = child.communicate(timeout=30)
    assert child.returncode == (-9 if number == signal.SIGKILL else 143)
    assert b"Traceback" not in error
    done = {name: path.stat().st_mtime_ns for name, path in outputs(out).items()}
    assert 4 <= len(done) < 20
    recorded = {
        json.loads(line)["output"]
        for line in (out / RECORD).read_bytes().splitlines(keepends=True)
        if line[-1:] == b"\n"
    }
    assert recorded <= {*done} and len(done) - len(recorded) <= 1
    if number == signal.SIGTERM:
        assert not [path for path in out.rglob("*") if ".part" in path.name]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(recorded)} of 20 are finished already" in again.stdout
    after = {name: path.stat().st_mtime_ns for name, path in outputs(out).items()}
    assert len(after) == 20 and all(after[name] == done[name] for name in recorded)
    lines = [json.loads(line)["output"] for line in (out / RECORD).read_text().splitlines()]
    assert sorted(lines) == sorted({*lines}), "each once"


def test_reading_computing_and_writing_overlap(translator, photos, tmp_path, monkeypatch):
    """Each stage waits a while for the two others, so that they meet unless they take turns."""
    at_work: list[str] = []
    met = threading.Event()

    def waiting(name, function):
        def call(*args, **kwargs):
            at_work.append(name)
            if {*at_work} == {"read", "compute", "write"}:
                met.set()
            met.wait(2)
            at_work.remove(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Translator, "prepare", waiting("read", Translator.prepare))
    monkeypatch.setattr(Translator, "compute", waiting("compute", Translator.compute))
    monkeypatch.setattr(folders, "encode_image", waiting("write", folders.encode_image))
    assert len(work(translator, photos, tmp_path / "out")) == 6
    assert met.is_set()


def test_few_images_are_in_memory_at_once(translator, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "IN_MEMORY", 3 * 16 * 24)
    held, most = [0], [0]
    lock = threading.Lock()
    prepare, encode = Translator.prepare, folders.encode_image

    def read(*args, **kwargs):
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        return prepare(*args, **kwargs)

    def written(*args, **kwargs):
        time.sleep(0.02)
        with lock:
            held[0] -= 1
        return encode(*args, **kwargs)

    monkeypatch.setattr(Translator, "prepare", read)
    monkeypatch.setattr(folders, "encode_image", written)
    assert len(work(translator, photos, tmp_path / "out")) == 6
    assert 1 < most[0] <= 3


def test_a_batch_that_does_not_fit_is_halved(translator, photos, tmp_path, monkeypatch):
    sizes = []
    compute = Translator.compute

    def limited(self, prepared, *more):
        sizes.append(len(prepared))
        if len(prepared) > 1:
            raise MemoryError("too large")
        return compute(self, prepared, *more)

    monkeypatch.setattr(Translator, "compute", limited)
    found = work(translator, photos, tmp_path / "out", batch=3)
    assert [outcome.error for outcome in found] == [None] * 6
    assert sizes[0] == 3 and sizes.count(1) == 6 and len(sizes) <= 8, "it remembers what fits"


def test_a_full_disk_ends_the_work_in_one_line(adapter, photos, tmp_path, capsys, full_at):
    with full_at(300):
        assert run(adapter, photos, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "File too large" in error and "Traceback" not in error
    assert outputs(tmp_path / "out") == {}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read_", "write_"))]
    assert run(adapter, photos, tmp_path / "out") == 0
    assert len(outputs(tmp_path / "out")) == 6


def test_a_disk_that_fills_up_leaves_whole_files_and_a_second_call_does_the_rest(
    adapter, tmp_path, small_disk, capsys, monkeypatch
):
    for k in range(8):
        picture(tmp_path / "photos" / f"{k}.png", k, (96, 96))
    (small_disk / "ballast").write_bytes(bytes(930_000))
    words = ["--resolution", "direct", "--size", "96", "--batch", "1"]
    monkeypatch.setattr(folders, "IN_MEMORY", 96 * 96)  # one after the other
    assert run(adapter, tmp_path / "photos", small_disk / "out", *words) == 1
    error = capsys.readouterr().err
    assert "No space left" in error and "MiB are free" in error and "the same command does the others" in error
    done = outputs(small_disk / "out")
    assert 0 < len(done) < 8 and not [*(small_disk / "out").rglob("*.part")]
    for path in done.values():
        Image.open(path).load()
    (small_disk / "ballast").unlink()
    (small_disk / "out" / f".{32 * '0'}.part").write_bytes(b"left by a kill")
    assert run(adapter, tmp_path / "photos", small_disk / "out", *words) == 0
    printed = capsys.readouterr()
    assert f"{len(done)} of 8 are finished already" in printed.out and "warning" not in printed.err
    assert len(outputs(small_disk / "out")) == 8 and not [*(small_disk / "out").rglob("*.part")]


def test_a_disk_that_is_too_small_is_told_before(adapter, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("commands.translate.free_space", lambda path: 1000)
    assert run(adapter, photos, tmp_path / "out") == 0
    assert "will be written, 0.0 GB are free" in capsys.readouterr().err


def test_what_is_written_is_as_asked(adapter, photos, tmp_path):
    Image.fromarray(np.asarray(Image.open(photos / "0" / "1.png").convert("L"))).save(photos / "grey.png")
    assert run(adapter, photos, tmp_path / "jpg", "--ext", "jpg", "--grey", "keep") == 0
    assert Image.open(tmp_path / "jpg" / "0" / "1.jpg").format == "JPEG"
    assert Image.open(tmp_path / "jpg" / "grey.jpg").mode == "L"
    assert run(adapter, photos / "0" / "1.png", tmp_path / "deep.png", "--depth", "16") == 0
    assert (tmp_path / "deep.png").read_bytes()[24] == 16, "bits per channel, in IHDR"
