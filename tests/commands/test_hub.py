"""Sharing adapters through the hub: published and fetched over HTTP, from an imitation of the hub on loopback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.numpy import load, save

from adapter_hub import HubName, fetch, hub_name
from commands import evaluate, export, publish, resume, train, translate
from commands.cli.recipes import compose
from networks.checkpoints.adapter import read_adapter
from networks.one_step.bases import named_by_file
from serving.catalogue import Facts, find_models
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
    (folder / "config.yaml").touch()
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
    said, beside = capsys.readouterr()
    assert "%" not in beside, "progress bars are for terminals"
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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("someone/night", HubName("someone/night", None)),
        ("some-one/night.v2@main", HubName("some-one/night.v2", "main")),
        ("someone/night@refs/pr/1", HubName("someone/night", "refs/pr/1")),
        ("here/version_0", None),  # its first folder exists
        ("runs/mistyped", None),
        *((text, None) for text in ("night", "a/b/c", "./a/b", "/a/b", "~/a", "a/../b", "a/b@../c", "a/b.pkl", "a/")),
        *((text, None) for text in ("a/b.ckpt", "a//b", "a b/c", "a/b@", "a/b\n", "\u00e4/b", "a/" + "b" * 300)),
    ],
)
def test_what_a_text_names(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub_name(text) == name


def changed(adapter, **changes):
    """The adapter's files, entries of its card changed in both places where it stands."""
    files = files_of(adapter)
    card = json.loads(files["adapter.json"]) | changes
    content = files["adapter.safetensors"]
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])["__metadata__"] | {"card": json.dumps(card)}
    files["adapter.json"] = json.dumps(card).encode()
    files["adapter.safetensors"] = save(load(content), entries)
    return files


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no such repository", "someone/night is not there, or private: then give HF_TOKEN"),
        ("private", "someone/night is not there, or private: then give HF_TOKEN"),
        ("no such revision", "someone/night has no revision v9"),
        ("nobody answers", "No adapter someone/night: there is no such path, and http://127.0.0.1:9 gave none"),
        ("pickles", "lacks adapter.json and adapter.safetensors, so it is no adapter; it holds 'pytorch_model.bin'"),
        ("too large", "adapter.safetensors has 1000000000000 bytes, at most"),
        ("no size", "adapter.json has None bytes"),
        ("another size", "came with"),
        ("no commit", "names the commit '../../../outside'"),
        ("pickle in disguise", "damaged"),
        ("no card", "damaged, or no JSON"),
        ("wrong shapes", "of another shape"),
        ("absolute base", "Unknown base '/nowhere/base'"),
        ("base of the hub", "what an adapter or a run names is not downloaded"),
    ],
)
def test_what_cannot_be_used_is_one_line(case, said, hub, adapter, photo, tmp_path, monkeypatch, capsys):
    ckpt, files, commit = REPO, files_of(adapter), None
    if case == "no such revision":
        ckpt = f"{REPO}@v9"
    elif case == "nobody answers":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    elif case == "private":
        hub.private.add(REPO)
    elif case == "pickles":
        files = {"pytorch_model.bin": b"\x80", "released.pkl": b"\x80"}
    elif case == "too large":
        hub.sizes["adapter.safetensors"] = 10**12
    elif case == "no size":
        hub.sizes["adapter.json"] = None
    elif case == "another size":
        hub.sizes["adapter.json"] = 10
    elif case == "no commit":
        commit = "../../../outside"
    elif case == "pickle in disguise":
        files["adapter.safetensors"] = b"\x80\x04cos\nsystem\n(S'touch here'\ntR."
    elif case == "no card":
        files["adapter.json"] = b"import os"
    elif case == "wrong shapes":
        tensors = load(files["adapter.safetensors"])
        name = min(tensors)
        tensors[name] = np.zeros((*tensors[name].shape, 2), tensors[name].dtype)
        files["adapter.safetensors"] = save(tensors)
    elif case == "absolute base":
        files = changed(adapter, base="/nowhere/base")
    elif case == "base of the hub":
        files = changed(adapter, base="someone/base")
    if case != "no such repository":
        true = hub.add(REPO, files)
        if commit:
            hub.tags[REPO]["main"], hub.commits[REPO][commit] = commit, hub.commits[REPO][true]
    words = ["--ckpt", ckpt, "--in", str(photo), "--out", str(tmp_path / "out.png"), "--device", "cpu"]
    assert translate.main(words) == 2
    assert said in one_line(capsys.readouterr())
    assert not (tmp_path / "out.png").exists()
    assert not any("someone/base" in path for _, path, _ in hub.requests)
    assert {path.name for path in tmp_path.iterdir()} <= {"photo.png", "hub-cache", "cache"}
    fetched = {path.rpartition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert fetched <= {"adapter.json", "adapter.safetensors", "prompts.safetensors"}
    if case in ("too large", "no size", "pickles", "no commit"):
        assert not fetched


def test_the_token_stays_with_the_hub(hub, adapter, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.private.add(REPO)
    hub.add(REPO, files_of(adapter))
    hub.elsewhere = hub.address.replace("127.0.0.1", "localhost")
    fetch(HubName(REPO, None))
    asked = [(path.startswith("/elsewhere/"), authorization) for _, path, authorization in hub.requests]
    assert {authorization for moved, authorization in asked if moved} == {None}
    assert {authorization for moved, authorization in asked if not moved} == {f"Bearer {TOKEN}"}


def test_a_name_in_a_run_of_others_is_not_fetched(hub, adapter, tmp_path, capsys):
    hub.add(REPO, files_of(adapter))
    with named_by_file(), pytest.raises(FileNotFoundError, match="what a run names is not downloaded"):
        read_adapter(REPO)
    (tmp_path / "run").mkdir()
    settings = compose("clear2foggy", "pocket").config
    settings["model"]["init_args"]["generator"].setdefault("init_args", {})["init"] = REPO
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    assert resume.main([f"--run={tmp_path / 'run'}", "--model.init_args.generator.init_args.base=pocket"]) == 2
    assert "what a run names is not downloaded" in one_line(capsys.readouterr())
    assert not hub.requests
    assert read_adapter(REPO).card.prompts == read_adapter(adapter).card.prompts


def test_commands_take_a_name(hub, adapter, photo, tiny_base, tmp_path, monkeypatch, capsys):
    commit = hub.add(REPO, files_of(adapter), tag="v1")
    monkeypatch.chdir(tmp_path)
    own, _, words = train.configuration(["--exp=clear2foggy", f"--init={REPO}@v1"])
    assert own.init == f"{REPO}@{commit}"
    assert f"--model.init_args.generator.init_args.init={REPO}@{commit}" in words
    found = find_models(f"{REPO}@v1,{adapter}")
    assert next(iter(found.items())) == ("night", Path(f"{REPO}@{commit}"))
    assert Facts.read(found["night"]).directions == ("a2b", "b2a")
    capsys.readouterr()
    assert evaluate.main(["--ckpt", REPO, "--exp", "clear2foggy"]) == 2
    assert "OUT=folder" in one_line(capsys.readouterr())
    assert export.main(["--ckpt", REPO, "--format=released", "--out=out", f"--base={tiny_base}"]) == 0
    assert (tmp_path / "out" / "released.pkl").is_file()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no token", "No token for http://127.0.0.1"),
        ("another token", "did not take someone/night"),
        ("offline", "HF_HUB_OFFLINE=1"),
        ("no name", "REPO='night' is no name of the hub: give owner/name"),
        ("a released file", "released.pkl is not published: only adapters in safetensors are"),
        ("an exported model", "is an exported model, not an adapter"),
        ("nothing there", "No adapter in"),
        ("base of this machine", "names its base by a folder of this machine"),
        ("a path in the card", "note seems to hold a path of this machine, '/home/me/x'"),
        ("another repository", "someone/night holds something else (model.bin)"),
        ("no licence", "LICENCE='my own' is no identifier"),
    ],
)
def test_what_is_not_published_is_one_line(case, said, hub, run, tmp_path, monkeypatch, capsys):
    path, repo, more = run, REPO, ["--base=someone/tiny"]
    if case != "no token":
        monkeypatch.setenv("HF_TOKEN", "hf_wrong" if case == "another token" else TOKEN)
    if case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif case == "no name":
        repo = "night"
    elif case == "a released file":
        path = tmp_path / "released.pkl"
        path.write_bytes(b"\x80")
    elif case == "an exported model":
        (run / "export.json").write_text("{}")
    elif case == "nothing there":
        path = tmp_path / "nothing"
    elif case == "base of this machine":
        more = []
    elif case == "a path in the card":
        card = json.loads((run / "adapter" / "adapter.json").read_text())
        (run / "adapter" / "adapter.json").write_text(json.dumps(card | {"note": "/home/me/x"}))
    elif case == "another repository":
        hub.add(REPO, {"model.bin": b"x"})
    elif case == "no licence":
        more.append("--licence=my own")
    before = {repo: len(commits) for repo, commits in hub.commits.items()}
    assert publish.main(["--ckpt", str(path), "--repo", repo, *more]) == 2
    assert said in one_line(capsys.readouterr())
    assert {repo: len(commits) for repo, commits in hub.commits.items()} == before


def test_published_again_it_replaces_its_files(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert share(run, "--licence=cc-by-4.0") == 0
    (run / "pictures_a2b.png").unlink()
    assert share(run) == 0
    made, first, second = hub.commits[REPO].values()
    assert [*made] == [".gitattributes"] and first["adapter.json"] == second["adapter.json"]
    assert b"license: cc-by-4.0" in first["README.md"] and b"pictures_a2b" not in second["README.md"]
    assert REPO not in hub.private


def test_pictures_beside_an_adapter_are_published_of_a_run_alone(run, tmp_path):
    for name, expected in (("of a run", ["pictures_a2b.png"]), ("of none", [])):
        (staged := tmp_path / name).mkdir()
        publish.prepare(run / "adapter", staged, REPO, "someone/tiny", None)
        assert [path.name for path in staged.glob("*.png")] == expected
        (run / "config.yaml").unlink(missing_ok=True)


def test_mistakes_and_help_need_neither_torch_nor_the_hubs_library(tmp_path):
    code = """if True:
        import sys
        from commands import {0}
        {0}.main({1})
        assert not {{"torch", "huggingface_hub"}} & {{*sys.modules}}"""
    missing = ["--ckpt", "nothing", "--in", "a.png", "--out", "b.png"]
    for name, words in (("publish", ["--ckpt", "nothing", "--repo", REPO]), ("translate", missing)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name, words)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and "error: No " in done.stderr, done.stderr
