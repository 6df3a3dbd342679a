"""A few cases of each campaign of `make test-chaos`, in seconds."""

import os
import subprocess
import sys
import time

import pytest

from . import command_lines, images, runs
from .harness import CANARY, CHILDREN, ROOT, Case, faults
from .results import run_cases
from .workshop import Workshop

RUN = ROOT / "tests" / "networks" / "checkpoints" / "version_0_run"

pytestmark = pytest.mark.long  # once the server of cases runs, a case takes a second or two


@pytest.fixture(scope="module")
def room(two_level_base, folder_of_two_domains):
    return Workshop(two_level_base, folder_of_two_domains, RUN)


@pytest.mark.parametrize(("campaign", "count"), [(command_lines, 6), (images, 3)])
def test_hostile_input_ends_in_a_line(campaign, count, warm, room, tmp_path):
    result = run_cases("short", 3, warm, campaign.cases(room, tmp_path, count, 3))
    assert result.faults == {}, result.failed


def test_a_training_killed_while_it_writes_leaves_whole_files_and_goes_on(warm, room, tmp_path):
    run, known = tmp_path / "run", runs.Reference(tmp_path, (), {}, 0, 0, 0)
    running = warm.start(Case("killed", "train", room.train(run, 2, "--trainer.val_check_interval=1")), tmp_path)
    while running.is_alive() and not (run / "adapter" / "adapter.json").is_file():
        time.sleep(0.001)
    running.kill()
    assert running.finish().code == 128 + 9
    assert runs.whole(run, known) == []
    again = Case("resume", "resume", [f"--run={run}"])
    assert faults(again, warm.run(again, tmp_path), tmp_path, allowed=(0,)) == []
    assert runs.whole(run, known) == []


def test_faults_are_found(tmp_path, warm):
    """The harness itself: a traceback, a hang, code that runs, a process that is left, too many processes."""
    for name, expected in {
        "traceback": ["traceback"],
        "hang": ["hang"],
        "code": ["code run"],
        "left": ["left behind"],
        "many": ["traceback", "processes", "left behind"],
        "lines": ["message"],
    }.items():
        case = Case(name, f"{__name__}:{name}", [], limit_s=1.5)
        assert faults(case, warm.run(case, tmp_path / name), tmp_path / name) == expected, name


def traceback():
    return {}["missing"]


def hang():
    time.sleep(100)


def code():
    return os.system(f"touch {CANARY}")


def left():
    subprocess.Popen(["sleep", "100"])
    return 0


def many():
    for _ in range(CHILDREN + 1):
        subprocess.Popen(["sleep", "100"])


def lines():
    print("error: one\ntwo\nthree", file=sys.stderr)
    return 2
