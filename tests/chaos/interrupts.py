"""SIGTERM, SIGINT, SIGHUP and SIGUSR1 at seeded times of a training: one signal or two, one process or two ranks."""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .harness import Case, Running, Warm, faults, group
from .results import Result
from .runs import Reference, resumed, whole
from .workshop import IMAGES, Workshop

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
RUN = Path("clear2foggy") / "base" / "version_0"
TWO_RANKS = ("--trainer.devices=2",)
FRESH, TWICE = 10, 5  # every tenth training starts as `make train` does; every fifth gets a second signal
END_S = 30  # seconds that saving and ending may take


def campaign(warm: Warm, workshop: Workshop, known: Reference, folder: Path, count: int, seed: int) -> Result:
    """Interrupt `count` trainings; each ends with its signal's exit code, saved, and resumes to the same bits."""
    result, start = Result("signals", seed), time.monotonic()
    result.notes |= {"with a checkpoint": 0, "two signals": 0, "finished before": 0}
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        here, which = folder / f"{number:04d}", SIGNALS[number % len(SIGNALS)]
        fresh, twice = number % FRESH == 0, number % TWICE == TWICE - 1
        case = Case("train", "train", workshop.train(here / RUN, IMAGES), fresh=fresh)
        after = draw.uniform(0.2, 0.95) * known.seconds + known.start_s * fresh
        pause = draw.choice([0, 0.01, 0.3])
        running = warm.start(case, here)
        _wait(running, after)
        running.kill(which)
        if twice:
            time.sleep(pause)
            running.kill(which)
        name = f"{here.name} {which.name}{f' and {pause} s later again' if twice else ''} after {after:.2f} s"
        result.notes["two signals"] += twice
        _finish(result, name, running, which, warm, known, saves=not twice)
        if here.name not in str(result.failed):
            shutil.rmtree(here, ignore_errors=True)
    result.seconds = round(time.monotonic() - start)
    return result


def two_ranks(warm: Warm, workshop: Workshop, known: Reference, folder: Path, count: int, seed: int) -> Result:
    """Signal one of two ranks: both end, saved; `known` is an uninterrupted training of two ranks."""
    result, start = Result("signals to one of two ranks", seed), time.monotonic()
    result.notes |= {"with a checkpoint": 0, "finished before": 0}
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        here, which = folder / f"{number:04d}", SIGNALS[number % len(SIGNALS)]
        words = workshop.train(here / RUN, IMAGES, *TWO_RANKS)
        running = warm.start(Case("train", "train", words, fresh=True), here)
        after = draw.uniform(0.3, 0.9) * known.seconds
        _wait(running, after)
        ranks = sorted(group(running.process.pid))[:2]
        rank = number // 2 % 2 if len(ranks) == 2 else 0
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(ranks[rank], which)
        _finish(
            result, f"{here.name} {which.name} to rank {rank} after {after:.1f} s", running, which, warm, known, True
        )
    result.seconds = round(time.monotonic() - start)
    return result


def _wait(running: Running, seconds: float) -> None:
    while running.is_alive() and time.monotonic() < running.started + seconds:
        time.sleep(0.002)


def _finish(result: Result, name: str, running: Running, which: int, warm: Warm, known: Reference, saves: bool) -> None:
    """Look at what a signal left, resume it, and count the case."""
    run = running.folder / RUN
    outcome = running.finish(time.monotonic() - running.started + END_S)
    finished = (run / "metrics.json").is_file() and outcome.code == 0
    kinds = faults(running.case, outcome, running.folder, allowed=(0,) if finished else (128 + which,))
    found = whole(run, known)
    there = (run / "checkpoints" / "last.ckpt").is_file()
    if saves and not there and (trained := _images_logged(run)):
        found.append(f"{trained} images were trained and nothing is saved")
    result.notes["with a checkpoint"] += there
    result.notes["finished before"] += finished
    if (run / "config.yaml").is_file() and not kinds:
        kinds, again = resumed(warm, run, known, running.folder, fresh=bool(known.more))
        outcome.err += again.err if kinds else ""
    if found:
        kinds.append("bits lost")
        outcome.err += "\n" + "\n".join(found)
    result.add(name, "train, signal, resume", kinds, outcome)
    if kinds:
        print(f"{name}: {kinds} (code {outcome.code}) {outcome.err[-600:]!r}", flush=True)


def _images_logged(run: Path) -> int:
    """Images after which a training last wrote its losses to TensorBoard; 0 before the first."""
    if not any(run.glob("events.*")):
        return 0
    events = EventAccumulator(str(run)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("train/")]
    return max((events.Scalars(tag)[-1].step for tag in tags), default=0)
