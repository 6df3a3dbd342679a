"""The campaigns of `make test-chaos`: seeded cases, counted; every kind of fault must be zero."""

import pytest

from . import command_lines, disks, files, images, interrupts, kills
from .results import run_cases
from .runs import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SEED = 18


def finish(result, folder):
    result.write(folder)
    assert result.cases
    assert result.faults == {}, [f"{case['case']}: {case['faults']}" for case in result.failed]


def test_command_lines_and_configurations(warm, workshop, share, results, tmp_path):
    made = command_lines.cases(workshop, tmp_path / "cases", round(300 * share), SEED)
    finish(run_cases("command lines", SEED, warm, made), results)


def test_images(warm, workshop, share, results, tmp_path):
    made = images.cases(workshop, tmp_path / "cases", round(600 * share), SEED)
    finish(run_cases("images", SEED, warm, made), results)


def test_files(warm, workshop, share, results, tmp_path):
    made = files.cases(workshop, tmp_path / "cases", round(200 * share), SEED)
    finish(run_cases("adapters, checkpoints, bases, archives", SEED, warm, made), results)


def test_kills(warm, workshop, known, share, results, tmp_path):
    finish(kills.campaign(warm, workshop, known, tmp_path, round(100 * share), SEED), results)


def test_signals(warm, workshop, known, share, results, tmp_path):
    finish(interrupts.campaign(warm, workshop, known, tmp_path, round(40 * share), SEED), results)


def test_signals_to_one_of_two_ranks(warm, workshop, share, results, tmp_path):
    """Both ranks end and nothing is lost."""
    known = reference(warm, workshop, tmp_path / "reference", *interrupts.TWO_RANKS)
    finish(interrupts.two_ranks(warm, workshop, known, tmp_path, round(8 * share), SEED), results)


def test_full_disks(warm, workshop, known, share, results, tmp_path):
    finish(disks.campaign(warm, workshop, known, tmp_path, round(60 * share), SEED), results)
