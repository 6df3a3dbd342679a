"""``make bench-base``: does the pretrained base earn its place?

Every task is trained from (a) pocket, (b) pocket's architecture at random weights, for the same number of images, and
(c) as a plain CycleGAN or pix2pix from scratch, for as many seconds as (a) took.  Each is an ordinary run folder below
``--root``: what is finished is not run again, what was interrupted is resumed, what fails is shown and passed over.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ablation.trials import images_seen, last_words, wait
from benchmarks.base_table import build_report, markdown
from commands.cli.recipes import names
from storage import write_json

TASKS = ("day2night", "clear2foggy", "horse2zebra", "edge2image")
MODELS = {
    "pocket": ["--base=pocket"],
    "random": ["--base=pocket", "--model.init_args.generator.init_args.random_init=true"],
    "resnet": ["--base=resnet"],
}
GLANCE = 5.0  # seconds between two looks at a running training


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        task: name of the experiment.
        model: a key of `MODELS`.
        seed: of weights, data and order.
        folder: its run folder.
    """

    task: str
    model: str
    seed: int
    folder: Path

    @property
    def log(self) -> Path:
        """What the command said; beside the folder, which must be empty when the command starts."""
        return self.folder.with_suffix(".log")

    def metrics(self) -> dict[str, Any] | None:
        """Its metrics.json; None before it has finished."""
        path = self.folder / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else None


def plan(root: Path, tasks: list[str], models: list[str], seeds: int) -> list[Run]:
    """All trainings, pocket before the ResNet that gets its time; the first seed of every task first."""
    ordered = [model for model in MODELS if model in models]
    return [
        Run(task, model, seed, root / task / model / f"seed{seed}")
        for seed in range(seeds)
        for task in tasks
        for model in ordered
    ]


def command(run: Run, images: int | None, seconds: float | None, overrides: list[str]) -> list[str]:
    """The command line that starts a training anew, or resumes it where its folder holds a checkpoint.

    Args:
        run: the training.
        images: where it stops, if it goes by images; None for its recipe's own number.
        seconds: where it stops, if it goes by time; validations within the training count, as in ``wall_s``.
        overrides: further arguments of ``make train``.
    """
    limit = [] if images is None else [f"--model.init_args.max_images={images}"]
    if seconds is not None:
        limit = ["--model.init_args.max_images=null", f"--trainer.max_time={_clock(seconds)}"]
    return start_or_resume(run, [f"--exp={run.task}", *MODELS[run.model], *limit, *overrides])


def start_or_resume(run: Run, arguments: list[str]) -> list[str]:
    """The command line that trains with these arguments, or goes on where the run's folder holds a checkpoint."""
    if (run.folder / "checkpoints" / "last.ckpt").is_file():
        return [sys.executable, "-m", "commands.resume", f"--run={run.folder}"]
    where = [f"--run={run.folder}", f"--seed_everything={run.seed}"]
    return [sys.executable, "-m", "commands.train", *where, *arguments]


def _clock(seconds: float) -> str:
    """Days, hours, minutes and seconds as Lightning reads them, at least one second."""
    whole = max(1, round(seconds))
    return f"{whole // 86400:02d}:{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def train(run: Run, words: list[str], expected: float | None, rest: float | None) -> bool:
    """Run one training to its end, with a line on the screen that moves; returns whether it succeeded.

    Args:
        run: the training.
        words: its command line.
        expected: its length in seconds, if known from others.
        rest: seconds that all later trainings will take, if known.
    """
    if "commands.train" in words and run.folder.exists():
        shutil.rmtree(run.folder)  # interrupted before its first checkpoint
    run.log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with run.log.open("a") as log, tqdm(bar_format="{desc}", leave=False) as line:
        log.write(shlex.join(words) + "\n")
        log.flush()
        child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                spent = time.monotonic() - started
                left = None if expected is None or rest is None else max(0.0, expected - spent) + rest
                line.set_description_str(
                    f"  {images_seen(run.folder)} images, {_minutes(spent)} so far, all: {_eta(left)}"
                )
                wait(child, GLANCE)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    return child.returncode == 0 and run.metrics() is not None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _eta(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"about {_minutes(seconds)} left"


def expectation(run: Run, lengths: dict[Run, float]) -> float | None:
    """Seconds that a training will take, judged by those before it: same task and model, else the nearest to that."""
    alike = (
        [s for r, s in lengths.items() if (r.task, r.model) == (run.task, run.model)],
        [s for r, s in lengths.items() if r.task == run.task],
        list(lengths.values()),
    )
    return next((sum(found) / len(found) for found in alike if found), None)


def train_all(runs: list[Run], images: int | None, overrides: list[str]) -> dict[str, str]:
    """Train what is not finished; returns why by run folder for what failed."""
    lengths = {run: metrics["wall_s"] for run in runs if (metrics := run.metrics())}
    failures: dict[str, str] = {}
    for k, run in enumerate(runs):
        label = f"[{k + 1}/{len(runs)}] {run.task} {run.model} seed {run.seed}"
        if run in lengths:
            seen = (run.metrics() or {})["images_seen"]
            differs = images is not None and run.model != "resnet" and seen < images
            print(f"{label}: finished before, {seen} images{f' (NOT {images})' if differs else ''}", flush=True)
            continue
        seconds = None
        if run.model == "resnet":
            pocket = Run(run.task, "pocket", run.seed, run.folder.parents[1] / "pocket" / run.folder.name).metrics()
            if pocket is None:
                failures[str(run.folder)] = "pocket, whose time it would get, has not finished"
                print(f"{label}: skipped, {failures[str(run.folder)]}", flush=True)
                continue
            seconds = pocket["wall_s"]
        words = command(run, images, seconds, overrides)
        print(f"{label}: {'resuming' if 'commands.resume' in words else 'training'}, log {run.log}", flush=True)
        later = [expectation(r, lengths) for r in runs[k + 1 :] if r not in lengths]
        rest = None if None in later else sum(s for s in later if s is not None)
        started = time.monotonic()
        if train(run, words, seconds or expectation(run, lengths), rest):
            lengths[run] = time.monotonic() - started
        else:
            failures[str(run.folder)] = last_words(run.log)
            print(f"{label}: FAILED: {failures[str(run.folder)]} (see {run.log})", flush=True)
    return failures


def main(args: list[str] | None = None) -> int:
    """Train, write the tables, print them; returns 1 where a training failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.base_models", description=__doc__)
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=names(), metavar="EXP", help="experiments")
    p.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL", help="of the three"
    )
    p.add_argument("--images", type=int, help="that pocket and random see (default: the recipe's own, a quick start)")
    p.add_argument("--seeds", type=int, default=1, help="runs of each, seeds 0 and up (default %(default)s)")
    p.add_argument("--root", type=Path, default=Path("runs/bench-base"), help="folder of the runs and tables")
    p.add_argument("--out", type=Path, help="write the JSON here too, e.g. benchmarks/results/base_models.json")
    own, overrides = p.parse_known_args(args)
    runs = plan(own.root, own.tasks, own.models, own.seeds)
    try:
        failures = train_all(runs, own.images, overrides)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from the last checkpoint.")
        return 130
    typed = ["python", "-m", "benchmarks.base_models", *(sys.argv[1:] if args is None else args)]
    finished = {(r.task, r.model, r.seed): metrics for r in runs if (metrics := r.metrics())}
    report = build_report(finished, shlex.join(typed), own.images, own.seeds, failures)
    own.root.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    (own.root / "table.md").write_text(text)
    for path in (own.root / "table.json", *([own.out] if own.out else [])):
        write_json(path, report)
    print(text)
    print(f"written: {own.root / 'table.md'}, table.json{f', {own.out}' if own.out else ''}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
