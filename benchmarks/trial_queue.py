"""Train the trials of a benchmark one after the other, with the time left on the terminal."""

import time
from collections.abc import Sequence

from tqdm import tqdm

from ablation.trials import Progress, Trial, TrialFailedError, last_error, train


class TrialQueue:
    """Trials in the order of their training, and the time left as estimated from those that have finished.

    A trial with a metrics.json is not trained again, one with a checkpoint is resumed.

    Args:
        trials: all trials; their labels hold "task" and what else tells them apart.

    Attributes:
        seconds: duration of each finished trial, by name.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self.seconds = {trial.name: metrics["wall_s"] for trial in trials if (metrics := trial.metrics())}

    def label(self, trial: Trial) -> str:
        """Name of a trial on the terminal: ``[2/9] day2night random seed 0``."""
        place = [other.name for other in self.trials].index(trial.name) + 1
        return f"[{place}/{len(self.trials)}] {' '.join(trial.labels.values())} seed {trial.seed}"

    def expected_seconds(self, trial: Trial) -> float | None:
        """Mean duration of the finished trials with the same labels, else of the same task, else of all; or None."""
        finished = [(other, self.seconds[other.name]) for other in self.trials if other.name in self.seconds]
        groups = (
            [s for other, s in finished if other.labels == trial.labels],
            [s for other, s in finished if other.labels["task"] == trial.labels["task"]],
            [s for _, s in finished],
        )
        return next((sum(group) / len(group) for group in groups if group), None)

    def train(self, trial: Trial, expected: float | None = None) -> str:
        """Train a trial; print its failure.

        Args:
            trial: one of the queue's trials; its arguments may have changed since.
            expected: its duration in seconds, where it is known; None estimates it.

        Returns:
            The error; empty where training succeeded.
        """
        label = self.label(trial)
        print(f"{label}: {'resuming' if trial.has_checkpoint else 'training'}, log {trial.log}", flush=True)
        names = [other.name for other in self.trials]
        later = [
            self.expected_seconds(other)
            for other in self.trials[names.index(trial.name) + 1 :]
            if other.name not in self.seconds
        ]
        rest = [expected or self.expected_seconds(trial), *later]
        total = None if None in rest else sum(s for s in rest if s is not None)
        started = time.monotonic()
        with tqdm(bar_format="{desc}", leave=False) as line:

            def show(progress: Progress) -> None:
                spent = progress["seconds"]
                left = "time left not known yet" if total is None else f"about {_minutes(max(0, total - spent))} left"
                line.set_description_str(f"  {progress['images']} images, {_minutes(spent)} so far, all: {left}")

            try:
                train(trial, show)
            except TrialFailedError:
                error = last_error(trial.log)
                line.clear()
                print(f"{label}: FAILED: {error} (see {trial.log})", flush=True)
                return error
        self.seconds[trial.name] = time.monotonic() - started
        return ""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
