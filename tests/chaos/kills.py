"""SIGKILL at seeded times of a training, and at the moments when it writes; then resume."""

import random
import shutil
import time
from pathlib import Path

from .harness import Case, Running, Warm
from .results import Result
from .runs import Reference, listing, resumed, whole
from .workshop import IMAGES, Workshop

FRESH = 10  # every tenth training is started as `make train` does, the others are forked from a process with torch
AGAIN = 4  # every fourth is killed in its resumption, too


def campaign(warm: Warm, workshop: Workshop, known: Reference, folder: Path, count: int, seed: int) -> Result:
    """Kill `count` trainings, one after the other, look at what they leave, and resume them."""
    result, start = Result("kills", seed), time.monotonic()
    moments = {"at a time": 0, "at a write": 0, "with a checkpoint": 0, "killed again": 0, "finished before": 0}
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        here = folder / f"{number:04d}"
        run = here / "clear2foggy" / "base" / "version_0"
        fresh = number % FRESH == 0
        case = Case("train", "train", workshop.train(run, IMAGES), fresh=fresh)
        how, killed = _kill(warm.start(case, here), run, known, draw, number % 2 == 1, known.start_s * fresh)
        moments["at a write" if number % 2 else "at a time"] += killed
        moments["finished before"] += not killed
        found = whole(run, known)
        if number % AGAIN == 3 and (run / "checkpoints" / "last.ckpt").is_file():
            again = warm.start(Case("resume", "resume", [f"--run={run}"]), here)
            more, _ = _kill(again, run, known, draw, number % 8 == 3, 0)
            how += f", the resumption {more}"
            moments["killed again"] += 1
            found += whole(run, known)
        moments["with a checkpoint"] += (run / "checkpoints" / "last.ckpt").is_file()
        kinds, outcome = resumed(warm, run, known, here)
        if found:
            kinds.append("bits lost")
            outcome.err += "\n" + "\n".join(found)
        result.add(f"{here.name} {how}", "train, kill, resume", kinds, outcome)
        if kinds:
            print(f"{here.name} {how}: {kinds} {outcome.err[-400:]!r}", flush=True)
        else:
            shutil.rmtree(here, ignore_errors=True)
    result.notes.update(moments)
    result.seconds = round(time.monotonic() - start)
    return result


def _kill(
    running: Running, run: Path, known: Reference, draw: random.Random, at_write: bool, more_s: float
) -> tuple[str, bool]:
    """Kill a training at a seeded time, or a seeded moment after a seeded change of its files."""
    if at_write:
        change, delay = draw.randrange(1, known.changes + 1), draw.choice([0, 0, 0, draw.uniform(0, 0.03)])
        how, seen, count = f"killed {1000 * delay:.0f} ms after change {change}", listing(run), 0
        while running.is_alive() and count < change:
            now = listing(run)
            count, seen = count + (now != seen), now
        time.sleep(delay)
    else:
        after = draw.uniform(0.1, 0.9 * known.seconds) + more_s
        how = f"killed after {after:.2f} s"
        while running.is_alive() and time.monotonic() < running.started + after:
            time.sleep(0.002)
    killed = running.is_alive()
    running.kill()
    running.finish()
    return how, killed
