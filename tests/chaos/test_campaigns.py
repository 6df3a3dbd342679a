"""The campaigns of `make test-chaos`: seeded cases, counted; every kind of fault must be zero."""

import pytest

from . import command_lines, images, kills
from .results import run_cases

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


def test_kills(warm, workshop, known, share, results, tmp_path):
    finish(kills.campaign(warm, workshop, known, tmp_path, round(100 * share), SEED), results)
