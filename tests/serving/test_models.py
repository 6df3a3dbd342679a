"""Models are loaded once, when they are asked for, and no more than the limit stay."""

import gc
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from inference import Translator
from serving.models import LoadedModels

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(adapter, tmp_path):
    return {name: shutil.copytree(adapter, tmp_path / name) for name in ("first", "second", "third")}


@pytest.fixture
def loads(monkeypatch):
    """Paths in the order in which they were loaded."""
    seen, load = [], Translator.load
    monkeypatch.setattr(Translator, "load", lambda path, *words: seen.append(path.name) or load(path, *words))
    return seen


def test_nothing_is_loaded_before_it_is_asked_for_and_nothing_twice(paths, loads):
    models = LoadedModels(paths)
    assert (models.names, tuple(models.loaded), loads) == (("first", "second", "third"), (), [])
    assert models.get("second") is models.get("second")
    assert (tuple(models.loaded), loads) == (("second",), ["second"])


def test_the_least_recently_used_leaves_memory(paths, loads):
    models = LoadedModels(paths, limit=2)
    first, second = models.get("first"), weakref.ref(models.get("second"))
    assert models.get("first") is first
    models.get("third")
    assert tuple(models.loaded) == ("third", "first")
    gc.collect()
    assert second() is None
    models.get("second")
    assert tuple(models.loaded) == ("second", "third") and loads == ["first", "second", "third", "second"]


def test_threads_that_ask_at_once_load_once_and_never_exceed_the_limit(paths, loads):
    models, found, most = LoadedModels(paths, limit=1), [], []

    def ask(name):
        found.append((name, models.get(name)))
        most.append(len(models.loaded))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("first", "first", "first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and max(most) == 1
    assert loads.count("second") == 1 and loads.count("first") <= 2


def test_a_model_that_cannot_be_loaded_is_said_and_others_still_are(paths):
    models = LoadedModels(paths | {"broken": paths["first"].parent / "nowhere"}, limit=1)
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        models.get("broken")
    assert models.get("first") and tuple(models.loaded) == ("first",)
    with pytest.raises(KeyError):
        models.get("none")
    with pytest.raises(ValueError, match="at least 1"):
        LoadedModels(paths, limit=0)


def test_a_base_is_for_adapters_alone(paths, tmp_path, monkeypatch):
    bases = {}
    monkeypatch.setattr(
        Translator, "load", lambda path, precision, device, base: bases.setdefault(path.name, base) or "t"
    )
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "export.json").touch()
    models = LoadedModels({"first": paths["first"], "exported": exported}, base="pocket")
    models.get("first"), models.get("exported")
    assert bases == {"first": "pocket", "exported": None}
    bases.clear()
    LoadedModels({"exported": exported}, base="pocket").get("exported")
    assert bases == {"exported": "pocket"}, "which says that it is refused"


def test_a_model_that_cannot_be_loaded_leaves_the_others_ready(paths):
    (paths["second"] / "adapter.safetensors").write_bytes(b"damaged")
    models = LoadedModels(paths, limit=1)
    assert not models.ready
    models.get("first")
    with pytest.raises(ValueError, match="is damaged"):
        models.get("second")
    assert models.ready and not models.loaded
    assert models.get("first")


COMPUTES = """
import os, time
from pathlib import Path

import torch

from inference import Translator
from serving.models import LoadedModels

def threads():
    return len(os.listdir("/proc/self/task"))

def compute(*words):
    found = torch.ones(1 << 22).exp()
    assert threads() > before, "OpenMP has started threads"
    return found

torch.set_num_threads(2)
Translator.load, before = compute, threads()
LoadedModels({"one": Path("nowhere")}).get("one")
end = time.monotonic() + 10
while threads() > before:
    assert time.monotonic() < end, (before, threads())
    time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_threads_that_computed_while_a_model_was_loaded_end():
    """Beside them OpenMP would let the network's threads sleep after each operation."""
    subprocess.run([sys.executable, "-c", COMPUTES], cwd=ROOT, check=True, timeout=120)
