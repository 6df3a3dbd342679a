"""What a user gives becomes named models: runs, adapters, exported models, checkpoints, and folders of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from inference import Translator
from serving.catalogue import Facts, find_models

ROOT = Path(__file__).parents[2]


def write_adapter(folder, when=0, **card):
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text(json.dumps({"format": 1, "base": "pocket", "settings": {}} | card))
    (folder / "adapter.safetensors").touch()
    os.utime(folder / "adapter.safetensors", (when, when))


@pytest.fixture
def runs(tmp_path):
    """Three runs, the first of two of one experiment the newest; one that has no adapter yet."""
    folder = tmp_path / "runs"
    for name, when in (("clear2foggy/pocket/version_0", 30), ("clear2foggy/pocket/version_1", 10)):
        write_adapter(folder / name / "adapter", when)
    write_adapter(folder / "day2night" / "sd-turbo" / "version_0" / "adapter", 20)
    (folder / "day2night" / "sd-turbo" / "version_1").mkdir()
    return folder


def test_a_folder_of_runs_gives_the_newest_first_by_the_shortest_names_that_tell_them_apart(runs):
    found = find_models(runs)
    assert found == {
        "clear2foggy-pocket-version_0": runs / "clear2foggy/pocket/version_0",
        "day2night": runs / "day2night/sd-turbo/version_0",
        "clear2foggy-pocket-version_1": runs / "clear2foggy/pocket/version_1",
    }
    assert list(found) == ["clear2foggy-pocket-version_0", "day2night", "clear2foggy-pocket-version_1"]


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_one_run_is_named_by_its_experiment_wherever_it_is_named_from(runs, inside, monkeypatch):
    run = runs / "day2night/sd-turbo/version_0" / inside
    assert find_models(run) == {"day2night": run}
    monkeypatch.chdir(run)
    assert find_models(".") == {"day2night": Path(".")}


def test_several_keep_the_order_given_and_none_counts_twice(runs):
    day, clear = runs / "day2night/sd-turbo/version_0", runs / "clear2foggy/pocket/version_1"
    assert find_models(f"{day}, {clear},{day}/") == {"day2night": day, "clear2foggy": clear}
    assert next(iter(find_models(f"{clear},{runs}").values())) == clear
    assert len(find_models(f"{clear},{runs}")) == 3


def test_a_path_with_a_comma_is_one_path(runs, tmp_path):
    shutil.copytree(runs / "day2night/sd-turbo/version_0", tmp_path / "night, foggy")
    assert find_models(tmp_path / "night, foggy") == {"night-foggy": tmp_path / "night, foggy"}


def test_exported_models_and_files_are_named_by_themselves(tmp_path):
    (tmp_path / "a" / "Model für Nebel").mkdir(parents=True)
    (tmp_path / "a" / "Model für Nebel" / "export.json").write_text("{}")
    for name in ("night.pkl", "other/night.pkl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_models(f"{tmp_path}/a/Model für Nebel,{tmp_path}/night.pkl,{tmp_path}/other/night.pkl")
    assert list(found) == ["Model-fur-Nebel", "night", "night-2"]
    assert all(quote(name, safe="") == name for name in found)


def test_a_checkpoint_is_named_by_its_run(runs):
    path = runs / "clear2foggy/pocket/version_0/checkpoints/best-3.ckpt"
    path.parent.mkdir()
    path.touch()
    assert find_models(path) == {"clear2foggy": path}
    both = find_models(f"{path.parent.parent},{path}")
    assert list(both) == ["clear2foggy-pocket-version_0", "clear2foggy-pocket-version_0-best-3"]


def test_the_search_ends_at_a_model_at_a_depth_and_at_what_is_being_written(tmp_path):
    write_adapter(tmp_path / "models" / "one" / "adapter")
    write_adapter(tmp_path / "models" / "one" / "exported" / "adapter")
    write_adapter(tmp_path / "models" / ".two.part" / "adapter")
    write_adapter(tmp_path / "models" / "1/2/3/4/5" / "adapter")
    write_adapter(tmp_path / "models" / "1/2/3/4/too/deep" / "adapter")
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models")
    assert {*find_models(tmp_path / "models")} == {"one", "1"}


def test_a_card_beside_a_released_file_is_no_adapter(tmp_path):
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "adapter.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"adapter\.safetensors"):
        find_models(tmp_path / "released")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("nowhere", FileNotFoundError, "No adapter at nowhere: give a run folder"),
        ("empty", FileNotFoundError, "looked for adapter.json .* export.json .*`make train EXP=day2night`"),
        ("empty/photo.jpg", ValueError, "photo.jpg is no adapter: give a folder, or a file that ends in .ckpt or .pkl"),
        (" , ", ValueError, "No adapter was named"),
        ("nowhere,empty", FileNotFoundError, "No adapter at nowhere"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(tmp_path, monkeypatch, given, error, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "photo.jpg").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says) as raised:
        find_models(given)
    assert "\n" not in str(raised.value)


def test_facts_are_those_of_the_loaded_adapter(adapter):
    ((name, path),) = find_models(adapter).items()
    facts, backend = Facts.read(path), Translator.load(path).backend
    assert name == adapter.parent.name
    assert (facts.kind, facts.title, facts.backend) == ("adapter", "unpaired", backend.name)
    assert (facts.directions, facts.prompts) == (tuple(backend.directions), backend.prompts)
    assert (facts.training, facts.base) == (backend.training, backend.base_description)
    assert not facts.trained_only


def test_a_resnet_takes_neither_prompt_nor_strength(tmp_path):
    write_adapter(tmp_path / "adapter", base="resnet", settings={"directions": ["a2b"]}, experiment="day2night")
    facts = Facts.read(tmp_path)
    assert (facts.title, facts.directions, facts.prompts) == ("day2night", ("a2b",), {})
    assert facts.trained_only


def test_a_damaged_card_is_one_line_with_its_file(tmp_path):
    write_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter.json is damaged"):
        Facts.read(tmp_path)


def test_no_torch_is_needed(runs):
    code = f"import sys; from serving.catalogue import *; [Facts.read(p) for p in find_models({str(runs)!r}).values()]"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
