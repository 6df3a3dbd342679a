"""Real processes that signals stop: a SLURM job by the documented script, and one of two ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from commands import train
from commands.cli.errors import user_errors
from commands.cli.paths import RUN_FOLDER
from lightning_modules.signals import stop_signals

from .conftest import QUICK, arguments

ROOT = Path(train.__file__).parents[1]
SCRIPT = re.search(r"^```bash\n(#!/bin/bash\n.*?)^```$", (ROOT / "docs/several-gpus.md").read_text(), re.M | re.S)
SRUN = """#!/bin/bash
export SLURM_NTASKS=1 SLURM_NNODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NODELIST=localhost
echo $$ > srun.pid
exec "$@"
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def started(words, folder, **variables):
    """A process group of its own, whose output is one stream of lines."""
    environment = {k: v for k, v in os.environ.items() if k != "ONE_STEP_RUN_FOLDER"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(process, pattern):
    """Read the output up to the first line that has the pattern."""
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(said)


@pytest.fixture
def ended():
    """Processes that are ended after the test, whatever happens."""
    processes = []
    yield processes
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


@pytest.mark.long
def test_a_slurm_job_is_saved_requeued_and_resumed(two_level_base, folder_of_two_domains, tmp_path, ended):
    (tmp_path / "my-data").symlink_to(folder_of_two_domains)
    (tmp_path / "train.sbatch").write_text(SCRIPT[1])
    (tmp_path / "hpc_ckpt_9.ckpt").write_text("of another training in this folder")
    program(tmp_path / "bin" / "srun", SRUN)
    program(tmp_path / "bin" / "scontrol", '#!/bin/bash\necho "$@" >> scontrol.log\n')
    base = f"--model.init_args.generator.init_args.base={two_level_base}"
    small = " ".join(
        [
            *QUICK,
            base,
            "--trainer.devices=1",
            "--trainer.num_nodes=1",
            "--trainer.val_check_interval=500",
            "--trainer.enable_progress_bar=true",
        ]
    )
    images = "--model.init_args.max_images=$IMAGES"
    program(tmp_path / ".venv" / "bin" / "python", f'#!/bin/bash\nexec {sys.executable} "$@" {small} {images}\n')
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "clear2foggy", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    first = started(["bash", "train.sbatch"], tmp_path, IMAGES="4000", **job)
    ended.append(first)
    until(first, r"training: \d+ of 4,?000 images")
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
    said = first.stdout.read()
    assert first.wait(timeout=60) == 128 + signal.SIGUSR1, said
    stop = re.search(r"Stopped by SIGUSR1 after (\d+) images, all of them saved. SLURM starts job 7 again.", said)
    assert stop, said
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    run = tmp_path / "runs" / "clear2foggy" / "sd-turbo" / "job-7"
    seen = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["progress"]["images_seen"]
    assert seen == int(stop[1]) > 0

    again = started(["bash", "train.sbatch"], tmp_path, IMAGES=str(seen + 2), **job)
    ended.append(again)
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 0, said
    assert f"resumed at {seen} images" in said
    assert json.loads((run / "metrics.json").read_text())["images_seen"] == seen + 2
    assert [path.name for path in tmp_path.rglob("hpc_ckpt*")] == ["hpc_ckpt_9.ckpt"]


@pytest.mark.long
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_of_two_ranks_saves_and_ends_both(rank, two_level_base, folder_of_two_domains, tmp_path, ended):
    run = tmp_path / "run"
    more = [
        "--trainer.devices=2",
        "--trainer.enable_progress_bar=true",
        "--trainer.val_check_interval=500",
        "--model.init_args.max_images=4000",
    ]
    words = arguments(two_level_base, folder_of_two_domains, run, *more)
    process = started([sys.executable, "-m", "commands.train", *words], tmp_path)
    ended.append(process)
    until(process, r"training: \d+ of 4,?000 images")
    others = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "commands.train"], capture_output=True, text=True)
    (other,) = [int(number) for number in others.stdout.split()]
    os.kill((process.pid, other)[rank], signal.SIGTERM)
    said = process.stdout.read()
    assert process.wait(timeout=60) == 143, said
    stop = re.search(r"Stopped by SIGTERM after (\d+) images, all of them saved.", said)
    assert stop and "Traceback" not in said, said
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["progress"]["images_seen"] == int(stop[1])
    assert not Path(f"/proc/{other}").exists() or "Z" in Path(f"/proc/{other}/stat").read_text().split()[2]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows cannot hold signals back")
def test_a_signal_to_a_rank_that_starts_waits_until_the_others_can_be_told(monkeypatch):
    monkeypatch.setenv(RUN_FOLDER, "run")
    received = []

    @user_errors
    def rank():
        # To this thread: those of other tests block nothing.  Unblocked, it would end the rank with 129, and Lightning
        # would then kill the first rank.
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
        with stop_signals.handled(started_by_rank=True):
            received.append(stop_signals.received)
        return 0

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert rank() == 0 and received == [signal.SIGHUP]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.slow
def test_a_rank_that_gets_a_signal_while_it_starts_stops_the_training(
    two_level_base, folder_of_two_domains, tmp_path, ended
):
    words = arguments(two_level_base, folder_of_two_domains, tmp_path / "run", "--trainer.devices=2")
    process = started([sys.executable, "-m", "commands.train", *words], tmp_path)
    ended.append(process)
    while not (others := subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout):
        time.sleep(0.05)
    time.sleep(1)  # Python has started, torch is being imported
    os.kill(int(others.split()[0]), signal.SIGHUP)
    said = process.stdout.read()
    assert process.wait(timeout=60) == 129, said
    assert "Stopped by SIGHUP" in said and "Traceback" not in said


IN_VALIDATION = """
import os, signal, sys
from commands import train
from lightning_modules import CycleGANTurbo

def validation_step(self, *words, **more):
    if self.images_seen:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *words, **more)

step, CycleGANTurbo.validation_step = CycleGANTurbo.validation_step, validation_step
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_signal_during_validation_ends_the_workers_that_read_training_images(
    two_level_base, folder_of_two_domains, tmp_path, ended
):
    """Lightning gives up the loader of the loop that ends, and Python waited at its exit for the other's workers."""
    more = ["--data.init_args.num_workers=2", "--trainer.val_check_interval=1", "--model.init_args.max_images=4"]
    words = arguments(two_level_base, folder_of_two_domains, tmp_path / "run", *more)
    process = started([sys.executable, "-c", IN_VALIDATION, *words], tmp_path)
    ended.append(process)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 143, said
    assert "Stopped by SIGTERM after 1 images, all of them saved." in said and "Traceback" not in said
