"""Run one trial of a grid: the train or resume command in a child process, with an ordinary run folder."""

import ctypes
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
from typing import Any, TypedDict

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metrics.scores import read_metrics
from storage import read_json, write_json

POLL_SECONDS = 5.0  # between two checks of a running training's progress
PROMPT = "$ "  # before the command line of each attempt in a log
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Progress(TypedDict):
    """Progress of a running trial.

    Attributes:
        images: training images seen, including those of earlier attempts.
        new: training images seen in this attempt.
        seconds: duration of this attempt.
    """

    images: int
    new: int
    seconds: float


class TrialFailedError(RuntimeError):
    """The command of a trial failed, or left no metrics.json."""


@dataclass(frozen=True)
class Trial:
    """A point of a grid with a seed.

    Attributes:
        point: name of the point, and of the folder above the run folder.
        labels: name of the value by axis.
        seed: seed of weights, data and order.
        folder: the run folder.
        arguments: arguments of ``python -m commands.train``, without ``--run``.
        sharing: further arguments that let trials share caches; they do not change results.
        recipe: digest of the experiment's files, which the arguments are added to.
        trust: modules of the user's own that a resumed run may use.
    """

    point: str
    labels: dict[str, str]
    seed: int
    folder: str
    arguments: list[str]
    sharing: list[str] = field(default_factory=list)
    recipe: str = ""
    trust: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Point and seed, as the tables show them."""
        return f"{self.point}/seed{self.seed}"

    @property
    def log(self) -> Path:
        """File with the command's output; beside the run folder, which must be empty when the command starts."""
        return Path(f"{self.folder}.log")

    @property
    def record(self) -> Path:
        """JSON file with the fields of this trial as it was started, beside the run folder."""
        return Path(f"{self.folder}.json")

    def metrics(self) -> dict[str, Any] | None:
        """The content of metrics.json; None before the trial has finished."""
        path = Path(self.folder) / "metrics.json"
        return read_metrics(path) if path.is_file() else None

    @property
    def has_checkpoint(self) -> bool:
        """Whether the training can be resumed."""
        return (Path(self.folder) / "checkpoints" / "last.ckpt").is_file()

    def command(self) -> list[str]:
        """The command line that starts the training, or resumes it where there is a checkpoint."""
        if self.has_checkpoint:
            trust = [f"--trust={','.join(self.trust)}"] if self.trust else []
            return [sys.executable, "-m", "commands.resume", f"--run={self.folder}", *trust]
        return [sys.executable, "-m", "commands.train", *self.arguments, *self.sharing, f"--run={self.folder}"]


def missing(trials: list[Trial]) -> list[Trial]:
    """The trials that have not finished.

    Raises:
        ValueError: a trial that has finished, or has a checkpoint, was started with other settings.
    """
    left = []
    for trial in trials:
        if trial.metrics() is None:
            left.append(trial)
            if not trial.has_checkpoint:
                continue
        difference = _difference(trial)
        if difference:
            raise ValueError(
                f"{trial.folder} was trained with other settings ({difference}): give the grid another folder."
            )
    return left


def _difference(trial: Trial) -> str:
    """Describe how a trial differs from its record on disk; empty where it does not."""
    if not trial.record.is_file():
        return f"{trial.record} is missing"
    record = read_json(trial.record)
    arguments = record.get("arguments")
    if not isinstance(arguments, list):
        return f"{trial.record} lists no arguments"
    if arguments != trial.arguments:
        new = [word for word in trial.arguments if word not in arguments]
        return f"{new[0]} is new" if new else "one was dropped"
    return "" if record.get("recipe", "") == trial.recipe else "the experiment's files have changed"


def train(
    trial: Trial, report: Callable[[Progress], object], threads: int | None = None, gpus: float | None = None
) -> dict[str, Any]:
    """Train in a child process, from the last checkpoint where there is one.

    Args:
        trial: the trial; a run folder without a checkpoint is removed first.
        report: called with the progress every few seconds.
        threads: CPU threads of the training; None leaves the environment as it is.
        gpus: GPUs of the training; 0 hides all of them, None leaves the environment as it is.

    Returns:
        The content of metrics.json.

    Raises:
        TrialFailedError: the training failed; the message is its last error.
    """
    folder = Path(trial.folder)
    if not trial.has_checkpoint:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(trial.record, asdict(trial))
    words = trial.command()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 1})
    before, started = images_seen(events), time.monotonic()
    # With a SLURM job's variables, Lightning would take the trial for a rank of the job.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    if gpus == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with trial.log.open("a") as log:
        log.write(f"{PROMPT}{shlex.join(words)}\n")
        log.flush()
        child = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=_terminate_with_parent
        )
        try:
            while child.poll() is None:
                seen = images_seen(events)
                report({"images": seen, "new": seen - before, "seconds": time.monotonic() - started})
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=POLL_SECONDS)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
            elif child.returncode < 0:
                log.write(f"error: ended by signal {-child.returncode}\n")
    metrics = trial.metrics()
    if child.returncode or metrics is None:
        raise TrialFailedError(f"{last_error(trial.log)} ({trial.log})")
    return metrics


def images_seen(events: EventAccumulator) -> int:
    """Training images seen so far in a run folder; 0 where it has no event files.  Reads only what is new in them."""
    if not any(Path(events.path).glob("events.*")):
        return 0
    events.Reload()
    try:
        return int(events.Scalars("perf/images_per_s")[-1].step)
    except (KeyError, IndexError):
        return 0


def last_error(log: Path) -> str:
    """The last line of a log's last attempt that starts with "error: ", else its last line; at most 300 characters."""
    attempt = f"\n{log.read_text(errors='replace')}".rpartition(f"\n{PROMPT}")[2].replace("\r", "\n")
    lines = [line.strip() for line in attempt.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1][:300]


def _terminate_with_parent() -> None:
    """On Linux: end the training with its parent, which may be killed; else it would run beside the next attempt."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
