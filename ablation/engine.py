"""Train the trials of a grid with Ray Tune, on this machine or on a cluster whose nodes share the folders."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablation.trials import Progress, Trial, last_error, train
from ray_cluster import described, fit, join_cluster  # before Ray itself, whose settings it makes

# isort: split
import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial

PRINT_SECONDS = 60.0  # between two progress tables


# After an interruption Ray explains how to resume with its own class, and warns of every trial that had not started.
logging.getLogger("ray.tune.tune").addFilter(lambda record: "Tuner.restore" not in record.getMessage())
logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


class Cluster:
    """A Ray cluster, started here or joined, and the resources that each trial reserves.

    Args:
        address: ``host:port`` of a running cluster, "auto" for the one of this machine; None starts one.
        cores: CPU threads of a trial; None is 1, or 4 beside a GPU.
        gpus: GPUs of a trial, a fraction shares one; None is 1 where there are any.

    Attributes:
        cores: CPU threads of a trial.
        gpus: GPUs of a trial.
        at_once: number of trials that fit side by side.

    Raises:
        ValueError: not even one trial fits, or there is no cluster at the address.
    """

    def __init__(self, address: str | None, cores: int | None, gpus: float | None) -> None:
        if (cores is not None and cores < 1) or (gpus or 0) < 0:
            raise ValueError(f"A trial takes at least one core and no negative GPU, got {cores} and {gpus}.")
        nodes = join_cluster(address)
        cards = sum(node.get("GPU", 0.0) for node in nodes)
        self.gpus = min(1.0, cards) if gpus is None else gpus
        self.cores = cores or (4 if self.gpus else 1)
        self.at_once = sum(fit(node, self.cores, self.gpus) for node in nodes)
        if not self.at_once:
            ray.shutdown()
            raise ValueError(
                f"Not even one trial fits: it takes {self.cores} cores and {self.gpus:g} GPUs of one machine, and "
                f"there are {described(nodes)}. Give it fewer (--cores, --gpus)."
            )

    def run(self, trials: Sequence[Trial], images: int | None, folder: Path) -> dict[str, str]:
        """Train all trials and print their progress; a trial that fails does not stop the others.

        Args:
            trials: the trials.
            images: training images of one trial, for the time left; None where the number is not known.
            folder: folder of the grid; Ray's own files go to ``.ray`` in it.

        Returns:
            The error of each trial that failed, by name.

        Raises:
            KeyboardInterrupt: training was interrupted, which Tune does not raise.
        """
        table = ProgressTable(trials, images, self.at_once)
        tuner = tune.Tuner(
            tune.with_resources(_run, {"cpu": self.cores, "gpu": self.gpus}),
            param_space={
                "trial": tune.grid_search([asdict(t) for t in trials]),
                "threads": self.cores,
                "gpus": self.gpus,
            },
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(folder / ".ray"),
                callbacks=[table],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        tuner.fit()
        if {"runs", "waits"} & set(table.states.values()):
            raise KeyboardInterrupt
        return table.errors

    def close(self) -> None:
        """Leave the cluster; stop it where it was started here."""
        ray.shutdown()


def _run(config: dict[str, Any]) -> None:
    """Train one trial in a Ray worker."""

    def report(progress: Progress) -> None:
        tune.report(dict(progress))

    train(Trial(**config["trial"]), report, config["threads"], config["gpus"])


class ProgressTable(tune.Callback):
    """Prints the state of the trials and, from the first images on, the time left.

    Args:
        trials: all trials of this call.
        images: training images of one trial; None where the number is not known.
        at_once: number of trials that run side by side.

    Attributes:
        states: "waits", "runs", "done" or "failed", by trial.
        seen: training images so far, by trial.
        rates: seconds per training image, by trial.
        errors: error of each trial that failed.
    """

    def __init__(self, trials: Sequence[Trial], images: int | None, at_once: int) -> None:
        self.states = {trial.name: "waits" for trial in trials}
        self.seen = {trial.name: 0 for trial in trials}
        self.rates: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        self.images, self.at_once = images, at_once
        self._started = time.monotonic()
        self._printed = self._started
        self._estimated = False

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        """Set the trial to "runs"."""
        self._set(trial, "runs")

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: object
    ) -> None:
        """Update images and seconds per image from what `_run` reported."""
        name = _name(trial)
        self.seen[name] = result["images"]
        if result["new"]:
            self.rates[name] = result["seconds"] / result["new"]
        self._print(now=False)

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        """Set the trial to "done"."""
        self._set(trial, "done")

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        """Set the trial to "failed" and print its error."""
        log = Trial(**trial.config["trial"]).log
        self.errors[_name(trial)] = f"{last_error(log)} ({log})" if log.is_file() else "it never started"
        self._set(trial, "failed")

    def _set(self, trial: RayTrial, state: str) -> None:
        self.states[_name(trial)] = state
        self._print(now=True)

    def _print(self, now: bool) -> None:
        moment = time.monotonic()
        first_rate = bool(self.rates) and not self._estimated
        if now or first_rate or moment - self._printed >= PRINT_SECONDS:
            self._printed, self._estimated = moment, bool(self.rates)
            print(self.table(moment - self._started), flush=True)

    def table(self, spent: float) -> str:
        """Counts by state and the time left; below them a line per trial that runs or failed.

        Args:
            spent: seconds since training started.
        """
        count = {state: sum(s == state for s in self.states.values()) for state in ("done", "runs", "waits", "failed")}
        lines = [", ".join(f"{number} {state}" for state, number in count.items() if number or state != "failed")]
        for name, state in self.states.items():
            if state in ("runs", "failed"):
                of = f"/{self.images}" if self.images else ""
                why = f": {self.errors[name]}" if name in self.errors else ""
                lines.append(f"  {name:<56} {state:<7} {self.seen[name]}{of} images{why}")
        left = self.seconds_left()
        lines[0] += f"; {_minutes(spent)} so far, " + (
            "time left not known yet" if left is None else f"{_minutes(left)} left"
        )
        return "\n".join(lines)

    def seconds_left(self) -> float | None:
        """Seconds until all trials are done, from the rates so far; None without any rate or the number of images."""
        if not self.rates or not self.images:
            return None
        rate = sum(self.rates.values()) / len(self.rates)
        open_trials = [name for name, state in self.states.items() if state in ("runs", "waits")]
        if not open_trials:
            return 0.0
        left = [max(0, self.images - self.seen[name]) * self.rates.get(name, rate) for name in open_trials]
        return max(sum(left) / min(self.at_once, len(left)), max(left))


def _name(trial: RayTrial) -> str:
    """Name of our trial, see `Trial.name`."""
    config = trial.config["trial"]
    return f"{config['point']}/seed{config['seed']}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
