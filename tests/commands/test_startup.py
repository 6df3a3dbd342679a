"""`--help` and a user's mistakes come before torch is imported, which takes seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import evaluate, train, translate
from commands.cli.keys import check_keys
from commands.cli.recipes import compose
from commands.cli.values import check_values
from images.line_drawings import LINE_DRAWINGS
from networks.features.resizing import RESIZERS

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "gradio", "fastapi", "uvicorn", "lightning", "diffusers", "transformers", "matplotlib", "ray"}
CODE = """
import importlib, json, resource, sys
try:
    code = importlib.import_module("commands." + sys.argv[1]).main(sys.argv[2:])
except SystemExit as stopped:
    code = stopped.code
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, sorted(sys.modules), usage.ru_utime + usage.ru_stime]))
"""


def started(command, arguments, folder):
    """Exit code, what it printed, top modules that it imported, and seconds of CPU time."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", CODE, command, *arguments]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    code, modules, seconds = json.loads(done.stdout.splitlines()[-1])
    return code, done.stderr, HEAVY & set(modules), seconds


@pytest.mark.parametrize(
    "command",
    "train resume translate serve demo evaluate ablate estimate export doctor compare data check_data".split(),
)
def test_help_needs_no_torch(command, tmp_path):
    code, _, heavy, seconds = started(command, ["--help"], tmp_path)
    assert (code, heavy) == (0, set())
    assert seconds < 2


EXP = "--exp=clear2foggy"
MODEL = "--model.init_args"
GENERATOR = "--model.init_args.generator.init_args"


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("train", ["--exp=clear2fogy"], "Did you mean 'clear2foggy'?"),
        ("estimate", ["--exp=clear2fogy"], "Did you mean 'clear2foggy'?"),
        ("estimate", [EXP, "--size=0"], "SIZE must be an integer of at least 1 and at most 8192, got 0"),
        ("estimate", [EXP, "--model.init_args.accumlate=2"], "Did you mean 'accumulate'?"),
        ("train", [EXP, "--base=pockt"], "Did you mean 'pocket'?"),
        ("train", [EXP, "--memory=12g"], "Did you mean '12gb'?"),
        ("train", [EXP, "--data=no/folder"], "no/folder"),
        ("train", [EXP, "--init=no/adapter"], "No adapter no/adapter: there is no such path"),
        (
            "train",
            [EXP, "--model.init_args.max_image=5"],
            "'model.init_args.max_image' is not known. Did you mean 'max_im",
        ),
        ("train", [EXP, "--model.init_args.weights.cicle", "5"], "Did you mean 'cycle'?"),
        ("train", [EXP, f"{GENERATOR}.rank_unt=5"], "Did you mean 'rank_unet'?"),
        ("train", [EXP, "--data.init_args.batchsize=5"], "Did you mean 'batch_size'?"),
        ("train", [EXP, "--trainer.precison=32"], "Did you mean 'precision'?"),
        ("train", [EXP, "--evaluation.feature=lite0"], "Did you mean 'features'?"),
        ("train", [EXP, "--modle.init_args.update=fused"], "Did you mean 'model'?"),
        ("train", [EXP, "--base=resnet", f"{GENERATOR}.rank_unet=5"], "Known: directions, width, blocks, init."),
        ("train", [EXP, f"{MODEL}.max_images=0"], "max_images must be an integer of at least 1, or null, got 0"),
        ("train", [EXP, f"{MODEL}.optimizer_g.init_args.lr=nan"], ".lr must be a finite number of at least 0, got nan"),
        ("train", [EXP, f"{MODEL}.weights.gan", "-1"], "weights.gan must be a finite number of at least 0, got -1"),
        ("train", ["--exp=mine.yaml"], "'model.init_args.max_imges' in"),
        ("translate", ["--ckpt=no", "--in=.", "--out=o"], "No checkpoint at no"),
        ("translate", ["--ckpt=run", "--in=photos", "--out=o"], "photos does not exist"),
        ("translate", ["--ckpt=run", "--in=.", "--out=o", "--strength=2"], "STRENGTH must lie in [0, 1]"),
        ("translate", ["--ckpt=run", "--in=.", "--out=o", "--preprocess=cany"], "Did you mean 'canny'?"),
        ("translate", ["--ckpt=run", "--in=.", "--out=o", "--base=poket"], "Did you mean 'pocket'?"),
        ("evaluate", ["--ckpt=no"], "No checkpoint at no"),
        ("evaluate", ["--ckpt=run"], "give EXP="),
        ("evaluate", ["--ckpt=run", "--exp=clear2fogy"], "Did you mean 'clear2foggy'?"),
        ("evaluate", ["--ckpt=run", "--base=pockt"], "Did you mean 'pocket'?"),
        ("evaluate", ["--ckpt=run", EXP, "--data=no/folder"], "no/folder"),
        ("check_data", ["--exp=clear2fogy", "--data=."], "Did you mean 'clear2foggy'?"),
        ("resume", ["--run=no"], "No run to resume in no"),
        ("export", ["--ckpt=no", "--format=diffusers", "--out=x"], "No checkpoint at no"),
        ("demo", ["--ckpt=runs"], "No adapter at runs: give a run folder"),
        ("demo", ["--ckpt=runs"], "`make train EXP=day2night` trains an adapter into runs/"),
        ("demo", ["--ckpt=run"], "adapter.safetensors"),
        ("demo", ["--ckpt=run", "--precision=float31"], "Did you mean 'float32'?"),
        ("ablate", ["--grid=desing"], "Did you mean 'design'?"),
        ("ablate", ["--exp=clear2fogy"], "Did you mean 'clear2foggy'?"),
        ("ablate", ["--trainer.max_epoch=2"], "Did you mean 'max_epochs'?"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(command, arguments, says, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter.json").write_text("{}")
    (tmp_path / "mine.yaml").write_text("method: unpaired\nmodel: {init_args: {max_imges: 5}}\n")
    code, printed, heavy, seconds = started(command, arguments, tmp_path)
    assert code == 2 and says in printed
    assert heavy == set()
    assert seconds < 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.callbacks=[]", "--trainer.callbacks+=lightning.pytorch.callbacks.Timer", "--seed_everything=7"],
        ["--trainer.callbacks.init_args.monitor=images_seen", "--model.max_images=4", "--data.init_args.prompt_a=x y"],
        [
            "--model.init_args.discriminator=networks.PatchDiscriminator",
            "--model.init_args.discriminator.init_args.width=4",
        ],
        ["--model.init_args.discriminator={class_path: networks.PatchDiscriminator, init_args: {width: 4}}"],
        ["--model.init_args.generator=networks.ResnetGenerator", f"{GENERATOR}.width=4"],
        ["--model.init_args.optimizer_g.init_args.lr=1e-4", '--model.init_args.card={"ablation": {"a": "b"}}'],
        [
            f"{MODEL}.clip_norm=.inf",
            f"{MODEL}.max_images=null",
            f"{GENERATOR}.alpha_unet=null",
            f"{MODEL}.cooldown=1e-1",
        ],
        ["--model=elsewhere.Module", "--model.init_args.whatever=3", "--model.help"],
    ],
)
def test_what_may_be_right_is_left_to_lightning(arguments):
    check_keys(compose("clear2foggy"), arguments)
    check_values(compose("clear2foggy"), arguments)


DATA, DISCRIMINATOR = "--data.init_args", "--model.init_args.discriminator"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([f"{MODEL}.max_images=-3"], "max_images must be an integer of at least 1, or null, got -3"),
        ([f"{MODEL}.max_images=0.5"], "max_images must be an integer of at least 1, or null, got 0.5"),
        ([f"{MODEL}.clip_norm=nan"], "clip_norm must be a number above 0, got nan"),
        ([f"{MODEL}.clip_norm", "-1"], "clip_norm must be a number above 0, got -1"),
        ([f"{MODEL}.warmup_images=-1"], "warmup_images must be an integer of at least 0, got -1"),
        ([f"{MODEL}.cooldown=1.5"], r"cooldown must be a number in \[0, 1\], got 1.5"),
        ([f"{MODEL}.skip_lr_factor=-inf"], "skip_lr_factor must be a finite number of at least 0, got -inf"),
        ([f"{MODEL}.weights={{cycle: .inf}}"], "weights.cycle must be a finite number of at least 0, got inf"),
        ([f"{DATA}.crop=null"], "crop must be an integer of at least 1 and at most 8192, got null"),
        ([f"{DATA}.resize=1000000"], "resize must be an integer of at least 1 and at most 8192, got 1000000"),
        ([f"{DATA}.batch_size=0"], "batch_size must be an integer of at least 1 and at most 65536, got 0"),
        ([f"{GENERATOR}.rank_unet=99999999999999999999"], "rank_unet must be an integer .* at most 4096, got 9999"),
        ([f"{GENERATOR}.alpha_vae=0"], "alpha_vae must be a finite number above 0, got 0"),
        (
            [f"{DISCRIMINATOR}=networks.PatchDiscriminator", f"{DISCRIMINATOR}.init_args.layers=99"],
            "at most 16, got 99",
        ),
        ([f"{DISCRIMINATOR}={{class_path: networks.PatchDiscriminator, init_args: {{width: -4}}}}"], "got -4"),
        (["--seed_everything=-1"], "seed_everything must be an integer of at least 0 and at most 4294967295, got -1"),
        (["--trainer.max_steps=0"], "trainer.max_steps must be an integer of at least -1, but not 0, got 0"),
        (["--trainer.limit_train_batches=0"], "limit_train_batches must be a finite number above 0, or null, got 0"),
        (["--trainer.val_check_interval=0"], "val_check_interval must be a finite number above 0, or null, got 0"),
        (["--image_grid.images=0"], "image_grid.images must be an integer of at least 1"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_with_their_range(arguments, says):
    with pytest.raises(ValueError, match=says):
        check_values(compose("clear2foggy"), arguments)


def test_numbers_of_a_file_are_checked_too_and_the_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: unpaired\ndata: {init_args: {batch_size: -2}}\n")
    with pytest.raises(ValueError, match=r"data.init_args.batch_size in .*mine.yaml must be an integer .* got -2"):
        check_values(compose(str(path)), [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {init_args: {weights: 0}}", "model.init_args.weights must be a mapping of keys to values, got '0'"),
        ("data: {init_args: text}", "data.init_args must be a mapping of keys to values, got 'text'"),
        ("model: {init_args: {max_images: '${other}'}}", "cannot be put together: Interpolation key 'other' not found"),
        (f"x: {'{a: ' * 500}1{'}' * 500}", "nested too deeply"),
    ],
)
def test_a_yaml_of_ones_own_that_cannot_be_read_is_one_line(text, says, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(f"method: unpaired\n{text}\n")
    assert train.main([f"--exp={tmp_path / 'mine.yaml'}"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_names_that_are_checked_before_the_library_is_imported_are_the_librarys():
    assert translate.LINES == ("none", *LINE_DRAWINGS)
    assert evaluate.RESIZE == tuple(RESIZERS)
