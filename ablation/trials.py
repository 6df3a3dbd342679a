"""One training of a grid: an ordinary run folder, written by the commands that a user types."""

import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

GLANCE = 5.0  # seconds between two looks at a running training
PROMPT = "$ "  # before the command line of each attempt in a log
PR_SET_PDEATHSIG = 1  # of Linux's prctl
Progress = Callable[[dict[str, Any]], None]


class TrialFailedError(RuntimeError):
    """The command of a trial ended badly, or left no metrics.json."""


@dataclass(frozen=True)
class Trial:
    """A point of a grid with a seed.

    Attributes:
        point: its name, the folder above the run's.
        labels: name of the value by axis.
        seed: of weights, data and order.
        folder: its run folder, absolute.
        arguments: of ``python -m commands.train``, but for the run folder.
        sharing: further ones, by which trials share work and which change no result.
        recipe: digest of the experiment's files, to which the arguments are added.
    """

    point: str
    labels: dict[str, str]
    seed: int
    folder: str
    arguments: list[str]
    sharing: list[str] = field(default_factory=list)
    recipe: str = ""

    @property
    def name(self) -> str:
        """Point and seed, as the tables show them."""
        return f"{self.point}/seed{self.seed}"

    @property
    def log(self) -> Path:
        """What the command said; beside the folder, which must be empty when the command starts."""
        return Path(f"{self.folder}.log")

    @property
    def record(self) -> Path:
        """What the trial was asked for, beside its folder."""
        return Path(f"{self.folder}.json")

    def metrics(self) -> dict[str, Any] | None:
        """Its metrics.json; None before it has finished."""
        path = Path(self.folder) / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def has_checkpoint(self) -> bool:
        """Whether it can go on from somewhere."""
        return (Path(self.folder) / "checkpoints" / "last.ckpt").is_file()

    def command(self) -> list[str]:
        """Starts the training anew, or goes on where its folder holds a checkpoint."""
        if self.has_checkpoint:
            return [sys.executable, "-m", "commands.resume", f"--run={self.folder}"]
        return [sys.executable, "-m", "commands.train", *self.arguments, *self.sharing, f"--run={self.folder}"]


def missing(trials: list[Trial]) -> list[Trial]:
    """The trials that have not finished.

    Raises:
        ValueError: one that has, or that has got as far as a checkpoint, was asked for something else.
    """
    left = []
    for trial in trials:
        if trial.metrics() is None:
            left.append(trial)
            if not trial.has_checkpoint:
                continue
        why = _changed(trial, json.loads(trial.record.read_text()) if trial.record.is_file() else None)
        if why:
            raise ValueError(f"{trial.folder} was trained with other settings ({why}): give the grid another OUT=.")
    return left


def _changed(trial: Trial, asked: dict[str, Any] | None) -> str:
    """How a trial differs from what its record says was asked for; "" where it does not."""
    if asked is None:
        return f"{trial.record} is gone"
    if asked["arguments"] != trial.arguments:
        new = [word for word in trial.arguments if word not in asked["arguments"]]
        return f"{new[0]} is new" if new else "one was dropped"
    return "" if asked.get("recipe", "") == trial.recipe else "the experiment's files have changed"


def train(trial: Trial, progress: Progress, threads: int, gpus: float = 0.0) -> dict[str, Any]:
    """Run a trial to its end in a process of its own.

    Args:
        trial: which one; what an earlier attempt left without a checkpoint is removed.
        progress: told ``{"images": ..., "new": ..., "seconds": ...}`` every few seconds: images of the whole training,
            images and seconds of this attempt.
        threads: of the CPU that it may use.
        gpus: 0 hides those that there are.

    Returns:
        Its metrics.json.

    Raises:
        TrialFailedError: with the last line that the command said.
    """
    folder = Path(trial.folder)
    if not trial.has_checkpoint:
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    trial.record.write_text(json.dumps(asdict(trial), indent=2) + "\n")
    words = trial.command()
    before, started = images_seen(folder), time.monotonic()
    # A job's own variables would make Lightning take the trial for a rank of the job.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    environment |= {"OMP_NUM_THREADS": str(threads)} | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})
    with trial.log.open("a") as log:
        log.write(f"{PROMPT}{shlex.join(words)}\n")
        log.flush()
        child = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=_end_with_the_parent
        )
        try:
            while child.poll() is None:
                seen = images_seen(folder)
                progress({"images": seen, "new": seen - before, "seconds": time.monotonic() - started})
                wait(child, GLANCE)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
            elif child.returncode < 0:
                log.write(f"error: ended by signal {-child.returncode}\n")
    metrics = trial.metrics()
    if child.returncode or metrics is None:
        raise TrialFailedError(f"{last_words(trial.log)} ({trial.log})")
    return metrics


def images_seen(folder: Path) -> int:
    """Images seen so far, from the run's events; 0 where there are none."""
    if not any(folder.glob("events.*")):
        return 0
    events = EventAccumulator(str(folder), size_guidance={"scalars": 1}).Reload()
    try:
        return int(events.Scalars("perf/images_per_s")[-1].step)
    except (KeyError, IndexError):
        return 0


def last_words(log: Path) -> str:
    """The last error of a log's last attempt, or its last line."""
    attempt = f"\n{log.read_text(errors='replace')}".rpartition(f"\n{PROMPT}")[2].replace("\r", "\n")
    lines = [line.strip() for line in attempt.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1][:300]


def _end_with_the_parent() -> None:
    """On Linux: a worker that is killed cannot end its training, which would go on beside the next attempt."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Until the process ends, so many seconds at most."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=seconds)
