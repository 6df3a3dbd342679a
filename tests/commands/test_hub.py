"""Sharing adapters through the hub: published and fetched over HTTP, from an imitation of the hub on loopback."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image

from adapter_hub import HubName, fetch
from commands import publish, translate
from tests.hub import TOKEN, Hub

ROOT = Path(__file__).parents[2]
REPO = "someone/night"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The imitation, which this process takes for the hub; its cache is empty."""
    hub = Hub()
    values = {"ENDPOINT": hub.address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    for name, value in (values | {"HF_HUB_CACHE": str(tmp_path / "hub-cache")}).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.close()


@pytest.fixture
def run(adapter, tmp_path):
    """A run folder of the tests' adapter, with a picture, and with files that are nobody else's."""
    folder = tmp_path / "my run"
    shutil.copytree(adapter, folder / "adapter")
    Image.new("RGB", (8, 8)).save(folder / "pictures_a2b.png")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"pickle")
    card = json.loads((folder / "adapter" / "adapter.json").read_text())
    card["data"] = f"{tmp_path}/my photos: train 8, validate 2, test 2"
    (folder / "adapter" / "adapter.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def share(run, *more):
    return publish.main(["--ckpt", str(run), "--repo", REPO, "--base", "someone/tiny", *more])


def files_of(adapter):
    return {file.name: file.read_bytes() for file in adapter.iterdir()}


def translated(ckpt, photo, out, base):
    words = ["--ckpt", str(ckpt), "--in", str(photo), "--out", str(out), "--device", "cpu", "--base", str(base)]
    return translate.main(words)


def one_line(captured):
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def test_a_published_adapter_translates_as_the_local_one(
    hub, run, adapter, photo, tiny_base, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert share(run, "--private") == 0
    said = capsys.readouterr().out
    assert f"To {hub.address}/{REPO}, private:" in said and f"CKPT={REPO}@" in said
    commit, files = list(hub.commits[REPO].items())[-1]
    names = {"adapter.json", "adapter.safetensors", "README.md", "pictures_a2b.png"}
    assert names <= set(files) <= names | {".gitattributes", "prompts.safetensors"}
    assert all(str(tmp_path).encode() not in content and b"tiny_base" not in content for content in files.values())
    _, front, page = files["README.md"].decode().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["license"], front["base_model"]) == ("other", "someone/tiny")
    assert "cyclegan-turbo" in front["tags"] and "![pictures_a2b.png](pictures_a2b.png)" in page
    assert f"CKPT={REPO}" in page and "data: my photos" in page

    assert translated(f"{REPO}@{commit}", photo, tmp_path / "a.png", tiny_base) == 0
    assert f"Adapter: {REPO}@{commit}" in capsys.readouterr().out
    assert translated(adapter, photo, tmp_path / "b.png", tiny_base) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    asked = [path for method, path, _ in hub.requests if "/resolve/" in path]
    assert {Path(path).name for path in asked} <= {"adapter.json", "adapter.safetensors", "prompts.safetensors"}


def test_what_was_fetched_is_found_without_the_hub(hub, adapter, monkeypatch):
    first = hub.add(REPO, files_of(adapter), tag="v1")
    folder = fetch(HubName(REPO, None))
    assert folder.name == first
    hub.add(REPO, {"README.md": b"newer"})
    count = len(hub.requests)
    assert fetch(HubName(REPO, first)) == folder
    assert fetch(HubName(REPO, None), download=False) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(HubName(REPO, None)) == folder
    assert len(hub.requests) == count
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE=1"):
        fetch(HubName(REPO, "v1"))
