"""Which files make a training: shipped tasks say only what they change, and files of one's own take part."""

import json
import os
import sys

import pytest
from omegaconf import OmegaConf

from commands import check_data, estimate, evaluate, resume, train
from commands.cli.recipes import EXPERIMENTS, MEMORY, METHODS, base_source, compose, names, read_settings

from .conftest import QUICK, arguments


@pytest.fixture(autouse=True)
def search_path(monkeypatch):
    """What a test appends to Python's search path is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


def written(path, **sections):
    OmegaConf.save(OmegaConf.create(sections), path)
    return path


@pytest.mark.parametrize("exp", names())
def test_a_task_names_its_method_and_says_only_what_it_changes(exp):
    task = read_settings(EXPERIMENTS / f"{exp}.yaml")
    assert task.pop("method") in names(METHODS)
    assert {"data"} <= task.keys() <= {"data", "model", "trainer"}
    assert len((EXPERIMENTS / f"{exp}.yaml").read_text().splitlines()) <= 15


def test_no_two_memory_profiles_say_the_same():
    contents = [json.dumps(read_settings(MEMORY / f"{name}.yaml"), sort_keys=True) for name in names(MEMORY)]
    assert names(MEMORY) == ["12gb", "24gb", "8gb"]
    assert len(set(contents)) == 3
    files = [path.stem for path in compose("edge2image", memory="8gb").files]
    assert files[-5:] == ["24gb", "12gb", "12gb.paired", "8gb", "8gb.paired"]
    init_args = compose("edge2image", memory="8gb").config["model"]["init_args"]
    assert init_args["accumulate"] == 4 and init_args["generator"]["init_args"]["frozen_dtype"] == "bfloat16"


def test_a_file_of_ones_own_outweighs_the_base_and_yields_to_the_memory_profile(tmp_path):
    changes = {"model": {"init_args": {"max_images": 7}}, "data": {"init_args": {"resize": 99, "eval_batch_size": 3}}}
    own = written(tmp_path / "mine.yaml", method="unpaired", **changes)
    assert compose("clear2foggy").config["model"]["init_args"]["max_images"] != 7
    recipe = compose(str(own), memory="12gb")
    assert (recipe.exp, recipe.base) == ("mine", "pocket")
    config = recipe.config
    assert config["model"]["init_args"]["max_images"] == 7
    assert config["data"]["init_args"]["resize"] == 99 and config["data"]["init_args"]["eval_batch_size"] == 1
    assert config["data"]["class_path"] == "datamodules.UnpairedImages" and "method" not in config
    assert config["model"]["init_args"]["generator"]["init_args"]["rank_vae"] == 16, "pocket's overlay for unpaired"


def test_a_complete_configuration_is_taken_as_it_is_unless_a_base_is_named(tmp_path):
    own = written(tmp_path / "whole.yaml", **compose("edge2image", "sd-turbo").config)
    recipe = compose(str(own))
    assert (recipe.exp, recipe.base, len(recipe.layers)) == ("whole", "sd-turbo", 1)
    assert recipe.config == compose("edge2image", "sd-turbo").config
    files = [path.name for path in compose(str(own), "resnet").files]
    assert files == ["resnet.yaml", "resnet.paired.yaml", "whole.yaml"]


def test_a_base_of_ones_own_is_a_file_with_what_it_sets_for_each_method(tmp_path):
    written(tmp_path / "small.yaml", model={"init_args": {"generator": {"init_args": {"base": "some/base"}}}})
    written(tmp_path / "small.paired.yaml", model={"init_args": {"clip_norm": 3.0}})
    path = str(tmp_path / "small.yaml")
    paired, unpaired = (compose(exp, path) for exp in ("edge2image", "clear2foggy"))
    assert paired.base == "small"
    assert paired.config["model"]["init_args"]["clip_norm"] == 3.0
    assert unpaired.config["model"]["init_args"]["clip_norm"] == 10.0
    assert base_source(path) == "some/base"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mine.yml", "Did you mean 'mine.yaml'?"),
        ("mine.yaml", "unknown method 'unpared'. Did you mean 'unpaired'? Known: paired, unpaired."),
        ("list.yaml", "is not a mapping of keys to values"),
        ("broken.yaml", "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_of_ones_own_is_said(given, says, tmp_path, capsys):
    written(tmp_path / "mine.yaml", method="unpared")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for command, more in ((train, []), (check_data, ["--data=."]), (estimate, [])):
        assert command.main([f"--exp={given}", *more]) == 2
        error = capsys.readouterr().err
        assert says in error and len(error.strip().splitlines()) == 1


OWN = """
from datamodules import UnpairedImages
from networks import PatchDiscriminator


class MyImages(UnpairedImages):
    default_prompts = ("mine", "yours")


class MyDiscriminator(PatchDiscriminator):
    pass
"""


@pytest.mark.long
def test_classes_beside_the_file_are_found_by_every_command(tmp_path, two_level_base, folder_of_two_domains, capsys):
    code = tmp_path / "own"
    code.mkdir()
    (code / "my_classes.py").write_text(OWN)
    discriminator = {"class_path": "my_classes.MyDiscriminator", "init_args": {"width": 4, "layers": 2}}
    own = written(
        code / "mine.yaml",
        method="unpaired",
        model={"init_args": {"discriminator": discriminator, "max_images": 2}},
        data={"class_path": "my_classes.MyImages", "init_args": {"eval_size": 32}},
        evaluation=dict.fromkeys(("features", "structure", "lpips"), "random"),
    )
    words = [word for word in QUICK if "discriminator" not in word and "evaluation" not in word]
    run = tmp_path / "run"
    flags = arguments(two_level_base, folder_of_two_domains, run)[1:4]
    assert train.main([f"--exp={own}", *flags, *words, "--seed_everything=7"]) == 0, capsys.readouterr().err
    config = OmegaConf.load(run / "config.yaml")
    assert config.model.init_args.discriminator.class_path == "my_classes.MyDiscriminator"
    assert config.data.init_args.seed == 7, "what the method links stays linked under another class"
    card = json.loads((run / "adapter" / "adapter.json").read_text())
    assert (card["experiment"], card["prompts"]) == ("mine", {"a2b": "yours", "b2a": "mine"})
    data = f"--data={folder_of_two_domains}"
    assert check_data.main([f"--exp={own}", data, f"--out={tmp_path / 'sheet.png'}"]) == 0
    flags = [f"--ckpt={run / 'adapter'}", f"--exp={own}", f"--base={two_level_base}", data, f"--out={tmp_path}"]
    assert evaluate.main(flags) == 0, capsys.readouterr().err
    assert str(code) in os.environ["PYTHONPATH"].split(os.pathsep)

    # A run folder may come from someone else: it never says where code is.
    sys.path.remove(str(code))
    sys.modules.pop("my_classes")
    more = [f"--run={run}", "--model.init_args.max_images=3"]
    assert resume.main(more) == 2
    assert "allow it with TRUST=my_classes." in capsys.readouterr().err
    assert resume.main([*more, "--trust=my_classes"]) == 2
    assert "There is no module 'my_classes' to trust: put the folder that holds it on PYTHON" in capsys.readouterr().err
    sys.path.append(str(code))
    assert resume.main(more) == 2
    assert "allow it with TRUST=my_classes." in capsys.readouterr().err
    assert resume.main([*more, "--trust=my_classes"]) == 0
