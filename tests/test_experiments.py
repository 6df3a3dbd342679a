"""Every YAML runs: found by glob, so a new file is covered unasked."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ablation.grids import grid_names, read_grid
from commands.ablate import GRIDS
from commands.cli.lightning_cli import ParsedOnly
from commands.cli.recipes import EXPERIMENTS, MEMORY, compose, names, read_settings
from commands.cli.trials import check, plan
from commands.train import configuration, main

FAST = [
    "--trainer.accelerator=cpu",
    "--model.init_args.max_images=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.num_workers=0",
    "--data.init_args.train_scenes=8",
    "--data.init_args.val_scenes=4",
    "--data.init_args.test_scenes=4",
    "--data.init_args.resize=32",
    "--data.init_args.crop=32",
    "--data.init_args.eval_size=32",
]
# The feature networks of the full-size recipes need a hub: the small random one, named as such, replaces them.
RANDOM_JUDGES = [
    "--model.init_args.lpips_features=random",
    "--model.init_args.discriminator=networks.PatchDiscriminator",
    "--model.init_args.discriminator.init_args.width=4",
    "--model.init_args.discriminator.init_args.layers=2",
    "--evaluation.features=random",
    "--evaluation.structure=random",
    "--evaluation.lpips=random",
    "--evaluation.captions=null",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# The others differ from these in data, prompts and strengths alone, with which each runs on a tiny base below.
DIFFERENT = [
    pytest.param(name, marks=() if name in ("clear2foggy", "edge2image", "edit") else pytest.mark.slow)
    for name in names()
]


@pytest.mark.parametrize("exp", DIFFERENT)
def test_every_experiment_runs_on_the_pocket_base(exp, tmp_path):
    assert main([f"--exp={exp}", *FAST]) == 0
    (folder,) = (tmp_path / "runs" / exp / "pocket").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["rendered_data"]
    assert metrics["a2b"]["fid_features"] == "lite0"
    assert (folder / "pictures_a2b.png").is_file()
    assert "lite0" not in metrics["a2b"]["features_seen_in_training"]


@pytest.mark.parametrize("exp", DIFFERENT)
def test_every_experiment_runs_as_a_plain_resnet(exp, tmp_path):
    """Nothing pretrained is looked at, and each optimiser has the rate of the publication."""
    small = [f"--model.init_args.{k}" for k in ("generator.init_args.width=4", "discriminator.init_args.width=4")]
    assert main([f"--exp={exp}", "--base=resnet", *FAST, *small]) == 0
    (folder,) = (tmp_path / "runs" / exp / "resnet").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["a2b"]["features_seen_in_training"] == []
    assert "base" not in metrics["placeholders"]
    model = OmegaConf.load(folder / "config.yaml").model.init_args
    for optimizer in (model.optimizer_g, model.optimizer_d):
        assert (optimizer.class_path, optimizer.init_args.lr) == ("torch.optim.Adam", 2e-4)
        assert optimizer.init_args.betas == [0.5, 0.999]


@pytest.mark.parametrize("exp", names())
def test_every_recipe_runs_on_a_full_size_layout(exp, tmp_path, two_level_base):
    """The paper's own YAML with the sd-turbo overlay, on a folder in Hugging Face layout and a folder of images."""
    paired = read_settings(EXPERIMENTS / f"{exp}.yaml")["method"] == "paired"
    data = photographs(tmp_path / "photographs", paired)
    if exp == "edit":
        for folder in ("train", "test"):
            rows = [{"input": f"{k}.png", "target": f"{k + 1}.png", "prompt": "make it night"} for k in range(0, 10, 2)]
            (data / folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = ["--model.init_args.weights.clip=0"] if paired else []
    arguments = [a for a in FAST if "scenes" not in a]
    assert main([f"--exp={exp}", f"--base={two_level_base}", f"--data={data}", *arguments, *RANDOM_JUDGES, *extra]) == 0
    (folder,) = (tmp_path / "runs" / exp / Path(two_level_base).name).iterdir()
    assert json.loads((folder / "metrics.json").read_text())["placeholders"] == []


@pytest.mark.long
@pytest.mark.parametrize("memory", names(MEMORY))
@pytest.mark.parametrize("exp", [pytest.param("clear2foggy", marks=pytest.mark.slow), "edge2image"])
def test_every_memory_profile_runs(exp, memory, tmp_path):
    assert main([f"--exp={exp}", f"--memory={memory}", *FAST, "--trainer.limit_val_batches=2"]) == 0
    (folder,) = (tmp_path / "runs" / exp / "pocket").iterdir()
    assert json.loads((folder / "adapter" / "adapter.json").read_text())["settings"]["frozen_dtype"] == "bfloat16"


def photographs(root, paired):
    from images.writing import write_image

    folders = ["train", "test"] if paired else ["train_A", "train_B", "test_A", "test_B"]
    for k, folder in enumerate(folders):
        for i in range(10):
            noise = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(100 * k + i))
            write_image(root / folder / f"{i}.png", noise * 2 - 1)
    return root


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_every_yaml_belongs_to_a_recipe(path):
    used = {f for exp in names() for base in names(EXPERIMENTS / "base") for f in compose(exp, base).files}
    used |= {f for exp in names() for memory in names(MEMORY) for f in compose(exp, "sd-turbo", memory).files}
    used |= {GRIDS / f"{grid}.yaml" for grid in grid_names(GRIDS)}
    assert path in used


QUICKLY = ("conditioning", "precision")
POINTS = [(name, point) for name in grid_names(GRIDS) for point in read_grid(name, GRIDS).points()]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", grid_names(GRIDS))
def test_every_grid_is_understood_and_ends(name, quick):
    grid = read_grid(name, GRIDS, quick)
    images = check(grid, [f"--exp={grid.experiment}", f"--base={grid.base}"], []).images
    assert images and images <= (160 if quick else 800)


# Each takes four seconds, and most differ in a number: these two grids change what a step does.
@pytest.mark.parametrize(
    ("name", "point"),
    [
        pytest.param(name, point, id=f"{name}:{point.name}", marks=() if name in QUICKLY else pytest.mark.slow)
        for name, point in POINTS
    ],
)
def test_every_point_of_every_grid_runs(name, point, tmp_path, two_level_base):
    grid = read_grid(name, GRIDS)
    grid.base = str(two_level_base)
    paired = grid.experiment == "edge2image"
    shared = [f"--exp={grid.experiment}", f"--base={grid.base}"]
    small = [a for a in FAST if "scenes" not in a] + RANDOM_JUDGES
    if name in ("data_size", "edit"):  # more pictures than a test should write; edits that are known
        shared[1] = "--base=pocket"
        small += ["--data.init_args.train_scenes=1024", "--data.init_args.test_scenes=4"]
    else:
        shared.append(f"--data={photographs(tmp_path / 'photographs', paired)}")
    overrides = [*small, "--model.init_args.weights.clip=0"] if paired else small
    (trial, *_) = (t for t in plan(grid, shared, overrides, tmp_path / "grid") if t.point == point.name)
    assert main([*trial.arguments, *trial.sharing, "--run=run"]) == 0
    card = json.loads((tmp_path / "run" / "adapter" / "adapter.json").read_text())
    assert card["ablation"].keys() == point.labels.keys()
    for axis, label in point.labels.items():  # the command line reads 1e-5 as a number
        found = card["ablation"][axis]
        assert found == (label if isinstance(found, str) else float(label))


@pytest.fixture
def small_run(tmp_path, two_level_base):
    """Arguments of a run of one image in a second or two."""
    data = photographs(tmp_path / "photographs", paired=False)
    arguments = [a for a in FAST if "scenes" not in a]
    return ["--exp=clear2foggy", f"--base={two_level_base}", f"--data={data}", *arguments, *RANDOM_JUDGES]


def resolved(arguments, *more):
    """The configuration of a run, without the run."""
    return ParsedOnly(Path("run"), configuration([*arguments, *more])[2]).config


def test_shared_values_reach_every_consumer(small_run):
    """One override of the source; plain interpolation would leave the consumers at the old value."""
    config = resolved(small_run, "--model.init_args.optimizer_g.init_args.betas=[0.25,0.75]", "--seed_everything=7")
    assert config.model.init_args.optimizer_d.init_args.betas == (0.25, 0.75)
    assert config.data.init_args.seed == 7


def test_the_consumer_alone_can_be_set(small_run):
    config = resolved(small_run, "--model.init_args.optimizer_d.init_args.betas=[0.25,0.75]")
    assert config.model.init_args.optimizer_d.init_args.betas == (0.25, 0.75)
    assert config.model.init_args.optimizer_g.init_args.betas == (0.9, 0.999)


def test_an_overlay_cannot_lose_the_callbacks_of_every_run_and_runs_are_numbered(tmp_path, small_run, two_level_base):
    runs = tmp_path / "runs/clear2foggy" / two_level_base.name
    (runs / "version_0").mkdir(parents=True)
    assert main([*small_run, "--trainer.callbacks=[]", "--trainer.val_check_interval=1"]) == 0
    assert sorted(p.name for p in runs.iterdir()) == ["version_0", "version_1"]
    assert (runs / "version_1/adapter/adapter.json").is_file()
    assert (runs / "version_1/checkpoints/last.ckpt").is_file()
    assert (runs / "version_1/metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--exp=clear2fogy"], ["'clear2fogy'", "Did you mean 'clear2foggy'?", "horse2zebra"]),
        (["--exp=clear2foggy", "--base=pockt"], ["'pockt'", "Did you mean 'pocket'?"]),
        (["--exp=clear2foggy", "--base=./no/base"], ["'./no/base'", "existing folder"]),
        (["--exp=clear2foggy", "--base=sd-turbo"], ["DATA", "make data"]),
        (["--exp=clear2foggy", "--memory=9gb"], ["'9gb'", "8gb", "experiments/memory"]),
        (["--exp=clear2foggy", "--base=resnet", "--memory=8gb"], ["8gb", "one-step", "BASE=resnet"]),
        (["--exp=clear2foggy", "--data=no/such/folder"], ["no/such/folder"]),
        (["--exp=clear2foggy", "--init=no/adapter"], ["no/adapter"]),
        (["--exp=clear2foggy", "--model.init_args.warmup_image=5"], ["warmup_image", "'warmup_images'"]),
        (["--exp=clear2foggy", "--model.init_args.weights.cycel=5"], ["cycel", "'cycle'"]),
        (["--exp=clear2foggy", "--model.init_args.generator.init_args.rank_unt=5"], ["rank_unt", "'rank_unet'"]),
        (["--exp=clear2foggy", "--trainer.max_epoch=5"], ["max_epoch", "'max_epochs'"]),
        (["--exp=clear2foggy", "--modle.init_args.update=fused"], ["modle", "'model'"]),
        (["--exp=clear2foggy", "--model.init_args.update=fusd"], ["fusd"]),
        (["--exp=clear2foggy", "--model.init_args.max_images=many"], ["many"]),
        (["--exp=clear2foggy", "--model.init_args.generator.init_args.rank_unet=0"], ["rank", "0"]),
        (["--exp=clear2foggy", "--trainer.accelerator=gpu"], ["gpu"]),
    ],
)
def test_bad_input_gets_two_lines_and_exit_code_2(arguments, words, capfd, tmp_path):
    if "--trainer.accelerator=gpu" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert main([*arguments, "--model.init_args.max_images=1"]) == 2
    message = capfd.readouterr().err.strip().splitlines()
    errors = [line for line in message if line.startswith("error: ")]
    assert len(errors) == 1
    text = "\n".join(message[message.index(errors[0]) :])
    assert text.count("\n") <= 1
    assert "Traceback" not in text
    for word in words:
        assert word in text
    assert not list(tmp_path.glob("runs/**/*.ckpt"))


def test_a_run_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "keep.txt").write_text("mine")
    assert main(["--exp=clear2foggy", "--run=run"]) == 2
    assert "not empty" in capsys.readouterr().err
