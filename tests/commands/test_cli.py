"""The command line that every training goes through."""

import io
import os
import subprocess
import sys

import pytest
import torch

from commands import train
from commands.cli import lightning_cli
from commands.cli.errors import user_errors
from commands.cli.header import header
from commands.cli.lightning_cli import ParsedOnly
from commands.cli.processes import LAUNCHERS, check_processes
from commands.cli.recipes import base_source
from commands.train import configuration
from networks import precision

from .conftest import arguments

ROOT = str(train.__file__).rsplit("/", 2)[0]
KEYS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("3", 3), ("1.0", 1.0), ("0.5", 0.5)])
def test_a_limit_of_one_is_one_batch_and_not_all_of_them(text, value, tmp_path):
    _, _, words = configuration(["--exp=clear2foggy", *(f"--trainer.{key}={text}" for key in KEYS)])
    trainer = ParsedOnly(tmp_path, words).config["trainer"]
    assert [(trainer[key], type(trainer[key])) for key in KEYS] == [(value, type(value))] * len(KEYS)


@pytest.mark.parametrize(
    ("devices", "several"), [("1", False), ("2", True), ("0,1", True), ("3,", False), ("[0,2]", True), ("[1]", False)]
)
def test_cards_chosen_by_number_are_several_too(devices, several, tmp_path):
    _, _, words = configuration(["--exp=clear2foggy", f"--trainer.devices={devices}"])
    assert (ParsedOnly(tmp_path, words).config["trainer"]["strategy"] != "auto") is several


@pytest.mark.parametrize(
    ("fast", "large", "given", "used"),
    [
        (True, True, [], "bf16-mixed"),
        (True, False, [], "32-true"),
        (False, True, [], "32-true"),
        (True, True, ["--trainer.precision=32-true"], "32-true"),
        (False, False, ["--trainer.precision=bf16-mixed"], "bf16-mixed"),
    ],
)
def test_precision_follows_network_and_hardware_where_none_is_given(
    fast, large, given, used, two_level_base, folder_of_two_domains, tmp_path, monkeypatch
):
    monkeypatch.setattr(lightning_cli, "has_bfloat16", lambda device: fast)
    monkeypatch.setattr(precision, "LARGE", 0 if large else 10**9)
    _, _, words = configuration(arguments(two_level_base, folder_of_two_domains, tmp_path / "run", *given))
    cli = lightning_cli.TrainCLI(tmp_path / "exp" / "base" / "version_0", words)
    assert cli.trainer.precision == used
    cli.run_folder.mkdir(parents=True)
    cli.write_config()
    assert f"precision: {used}\n" in (cli.run_folder / "config.yaml").read_text()
    weight = cli.model.generator.get_parameter("unet.conv_in.trained.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) is large


@pytest.mark.parametrize("on", [False, True])
def test_the_header_says_that_blocks_are_compiled(on, two_level_base, folder_of_two_domains, tmp_path):
    flag = f"--model.init_args.generator.init_args.compile_blocks={str(on).lower()}"
    _, _, words = configuration(arguments(two_level_base, folder_of_two_domains, tmp_path / "run", flag))
    cli = lightning_cli.TrainCLI(tmp_path / "exp" / "base" / "version_0", words)
    compiled = [line for line in header(cli).splitlines() if line.startswith("compiled")]
    assert compiled == (["compiled   32 blocks of the generator (meant for CUDA, not measured there)"] if on else [])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["--trainer.devices=99"],
            "trainer.devices is 99, one process each, and there are 2 cores to use",
        ),
        (["--trainer.devices=-3"], "trainer.devices must be a number of devices, numbers of cards such as 0,1 or auto"),
        (["--trainer.num_nodes=99"], "trainer.num_nodes is 99, and nothing says where the other machines are: start"),
        (
            ["--trainer.devices=2", "--data.init_args.num_workers=12"],
            "24 processes that read images, for 2 cores",
        ),
    ],
)
def test_more_processes_than_cores_are_refused_before_one_starts(settings, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    for name in (*LAUNCHERS, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert train.main(["--exp=clear2foggy", "--trainer.accelerator=cpu", *settings]) == 2
    assert says in capsys.readouterr().err


def test_a_launchers_processes_and_ordinary_numbers_are_left_alone(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    trainer = {"accelerator": "cpu", "devices": 2, "num_nodes": 1}
    check_processes(trainer, 8)
    monkeypatch.setenv("LOCAL_RANK", "3")  # torchrun started it: it may use its own cores only
    check_processes(trainer | {"devices": 4, "num_nodes": 2}, 8)


def test_a_workers_error_is_one_line(capsys):
    @user_errors
    def command():
        raise ValueError(
            "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            '  File "x.py", line 1, in y\nValueError: Cannot read a.png as an image: broken: data\n'
        )

    assert command() == 2
    assert capsys.readouterr().err == "error: Cannot read a.png as an image: broken: data\n"


def test_names_that_are_not_utf_8_are_printed(monkeypatch):
    @user_errors
    def command():
        print("Written to caf\udce9.png")
        return 0

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict"))
    assert command() == 0
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"Written to caf\\udce9.png\n"


def test_a_fast_run_is_refused_with_what_to_type_instead(capsys):
    assert train.main(["--exp=clear2foggy", "--trainer.fast_dev_run=true"]) == 2
    assert "--model.init_args.max_images=4" in capsys.readouterr().err


def test_lightnings_own_ddp_is_refused_on_any_number_of_devices(capsys):
    assert train.main(["--exp=clear2foggy", "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]) == 2
    assert "leave it out, and several devices get mean_gradients." in capsys.readouterr().err


@pytest.mark.parametrize("given", ["16", "16-mixed", "bf16-true", "64-true"])
def test_float16_is_refused_on_a_cpu_too(given, capsys):
    words = ["--exp=clear2foggy", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=1"]
    assert train.main([*words, f"--trainer.precision={given}"]) == 2
    assert f"precision {given} is refused" in capsys.readouterr().err


def test_short_names_of_bases_are_those_of_training():
    assert base_source("sd-turbo") == "stabilityai/sd-turbo"
    assert base_source("sdxl-turbo") == "stabilityai/sdxl-turbo"
    assert [base_source(given) for given in (None, "pocket", "a/folder")] == [None, "pocket", "a/folder"]


def test_a_warning_is_one_line_although_lightning_is_imported_later(tmp_path):
    """Lightning, imported after the checks, replaces the format of warnings from paths that start with its name."""
    code = "import warnings; from commands.cli.errors import user_errors\n@user_errors\ndef main():\n"
    code += "    import lightning.pytorch\n    import lightning_modules\n"
    code += "    warnings.warn_explicit('few images', UserWarning, lightning_modules.__file__, 1)\n    return 0\nmain()"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["warning: few images"], done.stderr
