"""``make bench-base``: compare the pretrained base with random weights and with plain networks.

Every task is trained from (a) pocket, (b) pocket's architecture at random weights, for the same number of images, and
(c) as a plain CycleGAN or pix2pix from scratch, for as many seconds as (a) took.  Each training is an ordinary run
folder below ``--root``: a finished one is not repeated, an interrupted one is resumed, and one that fails is shown and
does not stop the others.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from ablation.trials import Trial
from benchmarks.base_table import build_report, markdown
from benchmarks.context import typed_command
from benchmarks.trial_queue import TrialQueue
from commands.cli.recipes import names
from storage import write_json

TASKS = ("day2night", "clear2foggy", "horse2zebra", "edge2image")
MODELS = {
    "pocket": ["--base=pocket"],
    "random": ["--base=pocket", "--model.init_args.generator.init_args.random_init=true"],
    "resnet": ["--base=resnet"],
}


@dataclass(frozen=True)
class Plan:
    """Settings that all trials share.

    Attributes:
        root: folder of all run folders.
        images: training images of pocket and random; None is the recipe's own number.
        overrides: further arguments of every training.
    """

    root: Path
    images: int | None
    overrides: list[str]

    def trials(self, tasks: list[str], models: list[str], seeds: int) -> list[Trial]:
        """All trials: the first seed of every task first, and pocket before resnet, which gets its duration."""
        ordered = [model for model in MODELS if model in models]
        return [self.trial(task, model, seed) for seed in range(seeds) for task in tasks for model in ordered]

    def trial(self, task: str, model: str, seed: int, seconds: float | None = None) -> Trial:
        """Build one trial.

        Args:
            task: name of the experiment.
            model: a key of `MODELS`.
            seed: seed of weights, data and order.
            seconds: its duration, validations included as in ``wall_s``; None trains for a number of images.
        """
        limit = [] if self.images is None else [f"--model.init_args.max_images={self.images}"]
        if seconds is not None:
            limit = ["--model.init_args.max_images=null", f"--trainer.max_time={_clock(seconds)}"]
        arguments = [f"--seed_everything={seed}", f"--exp={task}", *MODELS[model], *limit, *self.overrides]
        folder = self.root / task / model / f"seed{seed}"
        return Trial(f"{task}/{model}", {"task": task, "model": model}, seed, str(folder), arguments)

    def train(self, trials: list[Trial]) -> dict[str, str]:
        """Train the trials that have not finished; returns the reason of each failure by run folder."""
        queue = TrialQueue(trials)
        failures: dict[str, str] = {}
        for trial in trials:
            if metrics := trial.metrics():
                seen = metrics["images_seen"]
                too_few = self.images is not None and trial.labels["model"] != "resnet" and seen < self.images
                note = f" (NOT {self.images})" if too_few else ""
                print(f"{queue.label(trial)}: finished before, {seen} images{note}", flush=True)
                continue
            seconds = None
            if trial.labels["model"] == "resnet":
                pocket = self.trial(trial.labels["task"], "pocket", trial.seed).metrics()
                if pocket is None:
                    failures[trial.folder] = "pocket, whose duration it would get, has not finished"
                    print(f"{queue.label(trial)}: skipped, {failures[trial.folder]}", flush=True)
                    continue
                seconds = pocket["wall_s"]
                trial = self.trial(trial.labels["task"], "resnet", trial.seed, seconds)
            if error := queue.train(trial, seconds):
                failures[trial.folder] = error
        return failures


def _clock(seconds: float) -> str:
    """Days, hours, minutes and seconds as Lightning reads them, at least one second."""
    whole = max(1, round(seconds))
    return f"{whole // 86400:02d}:{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def main(args: list[str] | None = None) -> int:
    """Train, then write and print the tables; returns 1 where a training failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.base_models", description=__doc__)
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=names(), metavar="EXP", help="experiments")
    p.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL", help="(default: all three)"
    )
    p.add_argument(
        "--images", type=int, help="training images of pocket and random (default: the recipe's own, a quick start)"
    )
    p.add_argument("--seeds", type=int, default=1, help="trainings of each, with seeds from 0 (default: %(default)s)")
    p.add_argument("--root", type=Path, default=Path("runs/bench-base"), help="folder of the runs and tables")
    p.add_argument("--out", type=Path, help="write the JSON here too, e.g. benchmarks/results/base_models.json")
    own, overrides = p.parse_known_args(args)
    plan = Plan(own.root, own.images, overrides)
    trials = plan.trials(own.tasks, own.models, own.seeds)
    try:
        failures = plan.train(trials)
    except KeyboardInterrupt:
        print("\nStopped; the same command resumes from the last checkpoint.")
        return 130
    finished = {(t.labels["task"], t.labels["model"], t.seed): metrics for t in trials if (metrics := t.metrics())}
    report = build_report(finished, typed_command(p, args), own.images, own.seeds, failures)
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
