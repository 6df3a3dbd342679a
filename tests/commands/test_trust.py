"""A run folder may come from someone else: its config.yaml runs nothing but this project's own parts."""

import inspect
import shutil
import sys
from pathlib import Path

import lightning.pytorch.callbacks
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from ablation.trials import Trial
from commands import evaluate, resume, train
from commands.cli import trust
from commands.cli.recipes import BASES, EXPERIMENTS, METHODS, items, read_settings

RUN = Path(__file__).parents[1] / "networks" / "checkpoints" / "version_0_run"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "exp" / "base" / "version_0"
    shutil.copytree(RUN, folder)
    return folder


@pytest.fixture
def change(run):
    """Sets one key of the run's configuration."""

    def changed(key, value):
        config = yaml.safe_load((run / "config.yaml").read_text())
        *path, last = key.split(".")
        holder = config
        for part in path:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        holder[last] = value
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return changed


@pytest.fixture
def payload(tmp_path):
    """Shell command that leaves a file, and that file."""
    mark = tmp_path / "executed"
    return f"touch {mark}", mark


MODEL = "model.init_args"
AS_MAPPING = {
    "data": lambda words: {"class_path": "os.system", "init_args": {"command": words}},
    "data ": lambda words: {"class_path": "subprocess.Popen", "init_args": {"args": words, "shell": True}},
    "model.class_path": lambda words: "subprocess.getoutput",
    f"{MODEL}.optimizer_g": lambda words: {"class_path": "os.system", "init_args": {"command": words}},
    f"{MODEL}.generator": lambda words: {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": words}},
    f"{MODEL}.extra_terms": lambda words: [{"class_path": "os.system", "weight": 1.0, "init_args": {"command": words}}],
    f"{MODEL}.extra_terms ": lambda words: [{"class_path": "networks.one_step.bases.os.system", "weight": 1.0}],
    "trainer.callbacks": lambda words: [
        {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.system"}}
    ],
}
AS_TEXT = {
    f"{MODEL}.optimizer_g": "os.system",
    f"{MODEL}.optimizer_g.init_args.lr": "evil.module",
    f"{MODEL}.generator.init_args.directions": "evil.module",
    "trainer.callbacks": ["evil.module"],
    "trainer.plugins": "evil.module",
    "trainer.strategy": "evil.module",
    "trainer.logger": "evil.module",
    "data.init_args.root": "evil.module",
}


@pytest.mark.parametrize("key", AS_MAPPING)
@pytest.mark.parametrize(("command", "flag"), [(evaluate, "--ckpt"), (resume, "--run")])
def test_a_class_that_is_not_known_is_refused(command, flag, key, run, change, payload, capsys):
    words, mark = payload
    value = AS_MAPPING[key](words)
    change(key.strip(), value)
    assert command.main([f"{flag}={run}"]) == 2
    value = value[0] if isinstance(value, list) else value
    named = value if isinstance(value, str) else value["class_path"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"class_path names {named!r}, which is no class that this project knows" in said
    assert f"TRUST={named.rpartition('.')[0]}." in said
    assert not mark.exists()


@pytest.mark.parametrize("key", AS_TEXT)
def test_a_text_is_imported_nowhere(key, run, change, tmp_path, monkeypatch, capsys):
    """The parser takes the text of some keys for the name of a class or function."""
    mark = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass module: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(key, AS_TEXT[key])
    assert resume.main([f"--run={run}", f"--{MODEL}.max_images=9"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not mark.exists() and "evil" not in sys.modules


def test_a_parent_of_the_adapter_is_no_safer(run, change, payload):
    words, mark = payload
    change("data", {"class_path": "os.system", "init_args": {"command": words}})
    for path in ("adapter", "checkpoints/last.ckpt"):
        assert evaluate.main([f"--ckpt={run / path}", f"--out={run / 'scores'}"]) == 2
    assert not mark.exists()


def test_an_initial_adapter_brings_no_configuration(run, change, payload, two_level_base, tmp_path, monkeypatch):
    """``INIT=run`` reads the card alone, and fails here since the adapter is of another base."""
    words, mark = payload
    monkeypatch.chdir(tmp_path)
    change("data", {"class_path": "os.system", "init_args": {"command": words}})
    assert train.main(["--exp=edge2image", f"--base={two_level_base}", f"--init={run}", "--run=new"]) == 2
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("config", "/etc/hostname", "it has 'config'"),
        ("trainer", "trainer.yaml", "trainer must be a mapping of keys to values, got 'trainer.yaml'"),
        ("data.init_args", "data.yaml", "data.init_args must be a mapping"),
        ("data.init_args.root", "${oc.env:HOME}", "data.init_args.root is an interpolation"),
        ("data.class_path", None, "it names no data.class_path"),
        ("data.class_path", "datamodules.files.layouts.existing_root", "not correspond to a subclass of Translation"),
        ("data.init_args.eval_size", "large", "'data.eval_size': Expected a int. Got value: large"),
        ("data.init_args.sizes", 5, "Option 'sizes' is not accepted"),
        ("image_grid", [[]], "image_grid is no mapping"),
        ("evaluation", {"featurs": "random"}, "'featurs'"),
        ("trainer.callbacks.0.init_args.dirpath", "/root/.ssh", "'/root/.ssh', outside of the run folder"),
        ("trainer.callbacks.0.init_args.filename", "../../x", "'../../x', outside of the run folder"),
    ],
)
def test_what_no_training_writes_is_refused(key, value, says, run, change, capsys):
    change(key, value)
    assert evaluate.main([f"--ckpt={run}"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n- 2\n", "is not a mapping"),
        ("a: [" * 5000, "nested too deeply"),
        ("a: &a [*a]\n", "more than 100,000 values"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "more than 100,"),
        ("a: x\n" * 300_000, "more than 1024 KiB"),
        ("a: !!python/object/apply:os.system [touch executed]\n", "is not YAML"),
        ("trainer: {a: '${b}', b: '${a}'}\n", "trainer.a is an interpolation"),
        ("? [1, 2]\n: 3\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_said_so(text, says, run, capsys):
    (run / "config.yaml").write_text(text)
    assert resume.main([f"--run={run}"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_base_that_a_run_names_is_not_downloaded(run, change, capsys):
    base = f"{MODEL}.generator.init_args.base"
    change(base, "someone/else")
    flags = [f"--run={run}", f"--{MODEL}.max_images=9"]
    assert resume.main(flags) == 2
    assert (
        "base 'someone/else' is not on this machine, and what an adapter or a run names is not"
        in capsys.readouterr().err
    )
    assert resume.main([*flags, f"--{base}=another/one"]) == 2
    assert "is not downloaded" not in capsys.readouterr().err, "the user typed this one, so the hub is asked"


def test_own_experiments_name_known_classes():
    for file in [*EXPERIMENTS.glob("*.yaml"), *METHODS.glob("*.yaml"), *BASES.glob("*.yaml")]:
        for key, name in items(read_settings(file)):
            if key.endswith("class_path"):
                assert any(f"{name}.".startswith(f"{known}.") for known in trust.KNOWN), (file, name)


@pytest.mark.parametrize("name", trust.CALLBACKS)
def test_known_callbacks_take_no_function(name):
    kind = getattr(lightning.pytorch.callbacks, name)
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "callback")
    for parameter in inspect.signature(kind).parameters.values():
        assert "Callable" not in str(parameter.annotation) and "Any" not in str(parameter.annotation), parameter


@pytest.mark.parametrize("name", trust.OPTIMIZERS)
def test_known_optimizers_take_no_function(name):
    assert "Callable" not in str(inspect.signature(getattr(torch.optim, name)))


def test_what_the_user_typed_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Loss: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "--model.init_args.extra_terms=[{class_path: mine.Loss, weight: 1}]",
        "--model.init_args.optimizer_g=torch.optim.LBFGS",
        "--model.init_args.generator=networks.ResnetGenerator",
        "--data.init_args.root=my.photos",
        "--model.init_args.max_images=2",
    ]
    assert trust.typed_names(words) == ["mine", "torch.optim.LBFGS"]
    assert trust.typed_names([{"data": {"class_path": "mine.Data"}}]) == ["mine"]
    folder = tmp_path / "seed0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    trial = Trial("p", {}, 0, str(folder), [], trust=trust.typed_names(words))
    assert trial.command()[-1] == "--trust=mine,torch.optim.LBFGS"
