"""The demo's parts without a browser: what its command refuses, its queue, and its files."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from commands import demo as command
from inference import Translator
from packaged_adapters import packaged_names
from serving import variants
from serving.catalogue import Facts
from serving.demo import WAITING, build_page, create_app, take
from serving.models import LoadedModels
from serving.variants import PREVIEW, DemoTranslator, Result, Variant


@pytest.fixture
def translating(adapter, tmp_path):
    """A `DemoTranslator` of the adapter."""
    facts = {"night": Facts.read(adapter)}
    return DemoTranslator(LoadedModels({"night": adapter}), facts, tmp_path)


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((60, 40), 60).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_only_a_strength_below_one_gives_variants(translating, photo, adapter):
    at_one = translating.translate(photo, "night", "a2b", strength=1.0, variants=3)
    several = translating.translate(photo, "night", "a2b", strength=0.5, variants=3, seed=7)
    assert [one.label for one in at_one.variants] == [""]
    assert [one.label for one in several.variants] == ["seed 7", "seed 8", "seed 9"]
    expected = Translator.load(adapter)(photo, strength=0.5, seed=8)
    assert np.array_equal(np.asarray(Image.open(several.variants[1].full)), np.asarray(expected))


def test_what_is_shown_is_small_and_what_is_downloaded_is_whole(translating, tmp_path):
    Image.effect_noise((2000, 120), 60).convert("RGB").save(tmp_path / "wide.png")
    result = translating.translate(tmp_path / "wide.png", "night", "a2b", size=60)
    assert Image.open(result.variants[0].full).size == (1000, 60)
    result = translating.translate(tmp_path / "wide.png", "night", "a2b", resolution="tiles")
    assert Image.open(result.variants[0].full).size == (2000, 120)
    assert Image.open(result.variants[0].preview).size == Image.open(result.before).size == (PREVIEW, 96)
    assert "tiles of" in result.summary


def test_transparency_stays_in_the_download_and_is_white_on_the_page(translating, tmp_path):
    pixels = np.full((40, 40, 4), 90, np.uint8)
    pixels[:, :20, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    result = translating.translate(tmp_path / "cut.png", "night", "a2b")
    assert np.array_equal(np.asarray(Image.open(result.variants[0].full))[..., 3], pixels[..., 3])
    assert np.asarray(Image.open(result.variants[0].preview))[:, :15].min() > 240


def test_the_oldest_results_are_removed(translating, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "KEPT", 2)
    made = [translating.translate(photo, "night", "a2b").before.parent for _ in range(3)]
    assert [folder.exists() for folder in made] == [False, True, True]
    assert len({folder.name for folder in made}) == 3 and all(len(folder.name) == 32 for folder in made)


def test_only_uploads_are_read(translating, tmp_path_factory, photo):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    elsewhere.write_bytes(photo.read_bytes())
    (photo.parent / "link.png").symlink_to(elsewhere)
    for path in (elsewhere, photo.parent / ".." / elsewhere.parent.name / "secret.png", photo.parent / "link.png"):
        with pytest.raises(ValueError, match=r"\.png was not uploaded here"):
            translating.translate(path, "night", "a2b")
        with pytest.warns(UserWarning, match="was not uploaded here"):
            assert take(translating, str(path)) == (None, None)


def test_a_checkpoint_is_loaded_for_its_facts(adapter, tmp_path):
    unknown = replace(Facts.read(adapter), base="", directions=(), prompts={}, kind="checkpoint")
    translating = DemoTranslator(LoadedModels({"night": adapter}), {"night": unknown}, tmp_path)
    assert translating.facts("night").directions == ("a2b", "b2a")
    assert translating.facts("night").prompts == {"a2b": "driving in the night", "b2a": "driving in the day"}


def test_an_address_in_place_of_an_upload_is_not_fetched(translating):
    (photo,) = (block for block in build_page(translating).blocks.values() if block.elem_id == "photo")
    with pytest.raises(gr.Error, match="addresses are not opened"):
        asyncio.run(photo.async_move_resource_to_block_cache("https://pictures.example/a.png"))


def result_of(client, session):
    """What the queue says of the one thing that a page asked for."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as events:
        said = [json.loads(line[5:]) for line in events.iter_lines() if line.startswith("data:")]
    return next(one for one in said if one["msg"] == "process_completed")


def test_one_translation_runs_and_a_number_waits(translating, photo, tmp_path, monkeypatch):
    """Forty pages press the button at once."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    running, most, go_on = [], [], threading.Event()

    def slowly(self, *words, **more):
        running.append(1)
        most.append(len(running))
        go_on.wait(30)
        running.pop()
        return Result(photo, [Variant("", photo, photo)], "done")

    monkeypatch.setattr(DemoTranslator, "translate", slowly)
    ended = threading.Event()
    app = create_app(LoadedModels({"night": tmp_path}), {"night": translating.facts("night")}, tmp_path, ended.set)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30)
        uploaded = client.post("/gradio_api/upload", files={"files": photo.read_bytes()}).json()[0]
        config = client.get("/config").json()
        (click,) = (one["id"] for one in config["dependencies"] if len(one["inputs"]) > 5)
        values = ["night", "a2b", "", False, 1, 4, 0, None, "auto"]
        data = [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}, None, *values]
        for path in ("/etc/hostname", "/etc/passwd", str(Path(variants.__file__))):
            asked = {"data": [{**data[0], "path": path}, *data[1:]], "fn_index": click, "session_hash": path}
            client.post("/gradio_api/queue/join", json=asked)
            assert not result_of(client, path)["success"]
        assert not most, "no file but an upload gets to the translator"
        codes = Counter()
        for k in range(40):
            asked = {"data": data, "fn_index": click, "session_hash": f"page{k}"}
            codes[client.post("/gradio_api/queue/join", json=asked).status_code] += 1
        assert codes[503] >= 40 - WAITING - 2 and codes[200] >= WAITING
        go_on.set()
        assert result_of(client, "page3")["success"]
        assert set(most) == {1}
        go_on.clear()
        client.post("/gradio_api/queue/join", json={"data": data, "fn_index": click, "session_hash": "last"})
        deadline = time.monotonic() + 30
        while not running and time.monotonic() < deadline:
            time.sleep(0.05)
        server.should_exit = True
        assert ended.wait(30) and running, "a translation that runs does not hold up the end"
    finally:
        go_on.set()
        server.should_exit = True
        thread.join()


def test_leaving_ends_the_process_and_removes_its_files(tmp_path):
    (tmp_path / "files" / "result").mkdir(parents=True)
    code = "from commands.demo import leave; from threading import Timer; Timer(60, print).start()"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; leave({str(tmp_path / 'files')!r})"],
        cwd=Path(command.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "Stopped.\n")
    assert not (tmp_path / "files").exists()


def test_an_address_that_is_taken_is_one_line(adapter, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command.main([f"--ckpt={adapter}", f"--port={port}"]) == 2
    said = capsys.readouterr().err
    assert f"Cannot listen on HOST=127.0.0.1 PORT={port}" in said and said.count("\n") == 1


def test_without_the_package_the_way_to_it_is_named(adapter, capsys, monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert command.main([f"--ckpt={adapter}", "--port=0"]) == 2
    assert capsys.readouterr().err == (
        "error: gradio is not installed: pip install -e '.[demo]' adds what the page needs.\n"
    )


def test_without_runs_it_has_the_packaged_adapters(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = command.own_or_packaged()
    assert list(packaged) == packaged_names() and set(command.read_facts(packaged)) == set(packaged)
    shutil.copytree(adapter, tmp_path / "runs" / "night" / "adapter")
    assert command.own_or_packaged() == {"night": Path("runs/night")}


def test_one_damaged_card_among_several_is_a_warning(adapter, tmp_path, capsys):
    (tmp_path / "broken" / "adapter").mkdir(parents=True)
    for name, text in (("adapter.json", "{"), ("adapter.safetensors", "")):
        (tmp_path / "broken" / "adapter" / name).write_text(text)
    assert list(command.read_facts({"broken": tmp_path / "broken", "night": Path(adapter)})) == ["night"]
    assert "adapter.json is damaged" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"adapter\.json is damaged"):
        command.read_facts({"broken": tmp_path / "broken"})
