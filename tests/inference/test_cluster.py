"""A folder on two workers of a Ray cluster, one of which is killed: every file is done, once."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands.translate import main
from images.headers import read_headers
from inference import Translator
from inference.cluster import Model, _Work, translate_on_cluster
from inference.folder import Task, choose, remaining
from inference.high_resolution import Layout
from inference.jobs import RECORD, Record, Settings, plan

SETTINGS = Settings(prompt="driving in the night")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for k in range(24):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    return tmp_path / "photos"


def workers():
    """Processes of Ray's that hold a model here."""
    names = {path.parent.name: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [int(pid) for pid, name in names.items() if name.startswith(b"ray::_Worker")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lost_worker_costs_only_what_it_was_at(adapter, photos, tmp_path):
    out = tmp_path / "out"
    jobs = plan(photos, out)
    translator = Translator.load(adapter, "float32", "cpu")
    shapes, _ = read_headers(image for image, _ in jobs)
    with Record(out, photos, translator.backend.identity, SETTINGS) as record:
        left = remaining(choose(jobs, shapes, translator, SETTINGS)[0], record)
        outcomes = []
        model = Model(adapter, "float32")
        for outcome in translate_on_cluster(None, model, left, SETTINGS, record=record, cores=1):
            outcomes.append(outcome)
            if len(outcomes) == 4:
                assert len(workers()) == min(2, len(os.sched_getaffinity(0)))
                os.kill(workers()[0], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while workers() and time.monotonic() < deadline:  # they end once they find that their node has
        time.sleep(0.1)
    assert workers() == []
    assert sorted(outcome.task.source for outcome in outcomes) == sorted(shapes)
    assert {outcome.error for outcome in outcomes} == {None}
    lines = [json.loads(line)["output"] for line in (out / RECORD).read_text().splitlines()]
    assert sorted(lines) == sorted(f"{k}.png" for k in range(24)), "each once"
    words = ["--ckpt", str(adapter), "--in", str(photos), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "alone")]) == 0
    for name in lines:
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_takes_an_address_and_goes_on(adapter, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    words = ["--ckpt", str(adapter), "--in", str(photos), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--address", "local", "--cores", "1"]) == 1
    assert len([*(tmp_path / "out").glob("*.png")]) == 24
    assert "broken.png" in capsys.readouterr().err
    assert main(words) == 1
    assert "24 of 25 are finished already" in capsys.readouterr().out


def test_no_cluster_at_an_address_is_one_line(adapter, photos, tmp_path, capsys):
    words = ["--ckpt", str(adapter), "--in", str(photos), "--out", str(tmp_path / "out")]
    assert main([*words, "--address", "127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert "No Ray cluster at 127.0.0.1:1" in error and "Traceback" not in error


def test_what_loses_every_worker_fails_alone():
    def task(name):
        return Task(Path(name), Path(name), Layout("direct", (8, 8), (8, 8)), 64)

    work = _Work([task(str(k)) for k in range(16)], 1)
    first = work.take()
    assert len(first) == 4
    assert work.lost(first) == [] and work.take() == first, "once may be chance"
    assert work.lost(first) == []
    rest = []
    while work:
        rest.append(work.take())
    assert [len(portion) for portion in rest] == [4, 4, 4, 1, 1, 1, 1], "then each alone"
    (outcome,) = work.lost(rest[-4])
    assert "2 workers were lost at it" in outcome.error
