"""Ray Tune runs the trials: on this machine, or on every node of a cluster that shares its folders."""

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablation.trials import Trial, last_words, train

# Before Ray is imported: no usage reports, no change of folder, no advice.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # trials are the work, not the background

import ray
from ray import tune

OBJECT_STORE = 128 * 2**20  # bytes: trials exchange a few numbers
SHOW_EVERY = 60.0  # seconds between two tables


def _is_for_us(record: logging.LogRecord) -> bool:
    return "Tuner.restore" not in record.getMessage()


# After an interruption Ray tells how to go on with its own class, and complains of every trial that was still waiting.
logging.getLogger("ray.tune.tune").addFilter(_is_for_us)
logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


class Room:
    """A Ray cluster, local or joined, and what one trial takes of it.

    Args:
        address: of a running cluster, "auto" for the one of this machine; None starts one for these trials.
        cores: CPU threads of a trial; None takes 1, beside a GPU 4.
        gpus: GPUs of a trial; a fraction shares one; None takes 1 where there are any.

    Attributes:
        at_once: trials that fit side by side.

    Raises:
        ValueError: there is no room for even one trial, or no cluster at the address.
    """

    def __init__(self, address: str | None, cores: int | None, gpus: float | None) -> None:
        if (cores is not None and cores < 1) or (gpus or 0) < 0:
            raise ValueError(f"A trial takes at least one core and no negative GPU, got {cores} and {gpus}.")
        if address not in (None, "auto"):
            _call(str(address))
        try:
            ray.init(
                address=address or "local",  # without, Ray would join whatever cluster it finds
                include_dashboard=False,
                log_to_driver=False,
                num_cpus=None if address else _own_cores(),
                configure_logging=False,
                object_store_memory=None if address else OBJECT_STORE,
                runtime_env={"env_vars": {"PYTHONPATH": _search_path()}},
            )
        except ConnectionError as error:
            raise ValueError(f"No Ray cluster at ADDRESS={address}: start one with `ray start --head`.") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cards = sum(node.get("GPU", 0.0) for node in nodes)
        self.gpus = min(1.0, cards) if gpus is None else gpus
        self.cores = cores or (4 if self.gpus else 1)
        self.at_once = sum(_fit(node, self.cores, self.gpus) for node in nodes)
        if not self.at_once:
            ray.shutdown()
            most = " or ".join(sorted({f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes}))
            raise ValueError(
                f"No room for a single trial: it takes {self.cores} cores and {self.gpus:g} GPUs of one machine, and "
                f"there are {most}. Give it fewer with --cores and --gpus (in ARGS)."
            )

    def run(self, trials: Sequence[Trial], images: int | None, folder: Path) -> dict[str, str]:
        """Train all; a trial that fails is shown and does not stop the others.

        Args:
            trials: what is to be run.
            images: of a whole trial, for the time left.
            folder: of the grid; Ray's own notes go to ``.ray`` in it.

        Returns:
            The error of each trial that failed, by name.

        Raises:
            KeyboardInterrupt: it was interrupted; Tune itself would keep that quiet.
        """
        board = Board(trials, images, self.at_once)
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
                callbacks=[board],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        tuner.fit()
        if {"runs", "waits"} & set(board.states.values()):
            raise KeyboardInterrupt
        return board.errors

    def close(self) -> None:
        """Leave the cluster, or stop it where it was started here."""
        ray.shutdown()


def _fit(node: dict[str, float], cores: int, gpus: float) -> int:
    """Trials that a machine can hold; a fraction of a GPU comes from one card."""
    by_cores = int(node.get("CPU", 0) // cores)
    cards = int(node.get("GPU", 0))
    if not gpus:
        return by_cores
    return min(by_cores, cards * int(1 / gpus) if gpus < 1 else int(cards // gpus))


def _call(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No Ray cluster at ADDRESS={address} ({error}): give host:port as `ray start --head` says, or auto."
        ) from error


def _own_cores() -> int | None:
    """Cores that this process may use, where they are fewer than the machine's; Ray itself sees a container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return cores if cores and cores < (os.cpu_count() or 0) else None


def _search_path() -> str:
    """This checkout before whatever the environment names: workers start elsewhere."""
    here = str(Path(__file__).parents[1])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def _run(config: dict[str, Any]) -> None:
    train(Trial(**config["trial"]), tune.report, config["threads"], config["gpus"])


class Board(tune.Callback):
    """Prints where every trial stands, and the time left, from the first images on.

    Args:
        trials: all that will run.
        images: of a whole trial; None where it is not known.
        at_once: trials that run side by side.
    """

    def __init__(self, trials: Sequence[Trial], images: int | None, at_once: int) -> None:
        self.states = {trial.name: "waits" for trial in trials}
        self.seen = {trial.name: 0 for trial in trials}
        self.rates: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        self.images, self.at_once = images, at_once
        self._started = time.monotonic()
        self._shown = self._started
        self._estimated = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It runs."""
        self._set(trial, "runs")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Images and seconds so far."""
        name = _name(trial)
        self.seen[name] = result["images"]
        if result["new"]:
            self.rates[name] = result["seconds"] / result["new"]
        self._show(now=False)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It is done."""
        self._set(trial, "done")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed: say why at once."""
        log = Trial(**trial.config["trial"]).log
        self.errors[_name(trial)] = f"{last_words(log)} ({log})" if log.is_file() else "it never started"
        self._set(trial, "failed")

    def _set(self, trial: Any, state: str) -> None:
        self.states[_name(trial)] = state
        self._show(now=True)

    def _show(self, now: bool) -> None:
        moment = time.monotonic()
        first_rate = bool(self.rates) and not self._estimated
        if now or first_rate or moment - self._shown >= SHOW_EVERY:
            self._shown, self._estimated = moment, bool(self.rates)
            print(self.table(moment - self._started), flush=True)

    def table(self, spent: float) -> str:
        """A line per trial that has begun, and how long all will take.

        Args:
            spent: seconds since the first began.
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
        """From the seconds per image of the trials so far; None before the first, or without a number of images."""
        if not self.rates or not self.images:
            return None
        rate = sum(self.rates.values()) / len(self.rates)
        open_trials = [name for name, state in self.states.items() if state in ("runs", "waits")]
        if not open_trials:
            return 0.0
        left = [max(0, self.images - self.seen[name]) * self.rates.get(name, rate) for name in open_trials]
        return max(sum(left) / min(self.at_once, len(left)), max(left))


def _name(trial: Any) -> str:
    config = trial.config["trial"]
    return f"{config['point']}/seed{config['seed']}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
