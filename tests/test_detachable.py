"""pretraining/ can be removed: a copy of the checkout without it trains, translates and passes its other tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from images.writing import write_image

from .commands.conftest import QUICK

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("networks", "losses", "metrics", "images", "datamodules", "lightning_modules"),
    *("evaluation", "inference", "ablation", "commands", "benchmarks"),
)
# What is removed: the package, its tests, its command, ...
FILES = ("pretraining", "tests/pretraining", "commands/pocket.py")
# ... and where another file names one of these, this part of it (file, pattern, number of times).
MENTIONS = (
    ("Makefile", r"(?m)^pocket: .*\n(\t.*\n)+\n?", 1),  # the target
    ("Makefile", r"(?m)(?<=^\.PHONY: )(.*) pocket\b", 1),
    ("setup.cfg", r"(?m)^    pretraining\*\n", 1),  # packages to find
    ("setup.cfg", r"(?m)^# .*\npretraining = .*\n", 1),  # its YAML
    ("pyproject.toml", r'"pretraining", ', 1),  # packages that mypy reads
    ("docs/bases.md", r"trained on rendered scenes by `make pocket` ", 1),
    ("docs/commands.md", r"`make pocket`, ", 1),
    ("docs/architecture.md", r"(?m)^\| `pretraining/` .*\n", 1),
    ("docs/architecture.md", r"; nothing imports it but `commands/pocket\.py`", 1),
)
# About half of the quick tests; the whole suite would take too long here.
TESTS = ("test_imports.py", "test_house.py", "test_docs.py", "networks", "losses", "metrics", "datamodules")
# Commands and code of the pages: they train for minutes, which `test_it_trains_and_translates` does in seconds.
NOT_RUN = ("command_runs", "command_of_several_processes_runs", "the_run_left_what_the_pages_name", "python_runs")

IMPORT_ALL = """
import importlib, sys
from pathlib import Path
here = Path.cwd()
for package in sys.argv[1:]:
    for path in sorted((here / package).rglob("*.py")):
        parts = path.relative_to(here).with_suffix("").parts
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        assert Path(module.__file__) == path, module.__file__
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_pretraining")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        gone = any(name == path or name.startswith(f"{path}/") for path in FILES)
        if not gone and (ROOT / name).is_file():  # deleted files that git still lists
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name, pattern, times in MENTIONS:
        text, count = re.subn(pattern, lambda m: m[1] if "PHONY" in m.re.pattern else "", (folder / name).read_text())
        assert count == times, f"{name}: {pattern!r} is there {count} times"
        (folder / name).write_text(text)
    # This environment may know the original checkout; its package must not stand in for the missing one.
    (folder / "pretraining.py").write_text('raise ImportError("pretraining was removed")\n')
    return folder


def run(copy, *words):
    environment = {**os.environ, "PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1"}
    # A make above this test run must not hand its variables down.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        environment.pop(name, None)
    done = subprocess.run([*words], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_every_other_module_is_imported_from_the_copy(copy):
    run(copy, sys.executable, "-c", IMPORT_ALL, *PACKAGES)


@pytest.mark.slow
def test_make_no_longer_knows_the_target(copy):
    targets = [line.split()[0] for line in run(copy, "make", "help").splitlines()]
    assert "train" in targets and "pocket" not in targets


@pytest.mark.slow
def test_it_trains_and_translates(copy, two_level_base, tmp_path):
    for k, name in enumerate(("train_A", "train_B", "test_A", "test_B")):
        for index in range(6):
            noise = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(10 * k + index))
            write_image(tmp_path / "data" / name / f"{index}.png", noise * 2 - 1)
    where = [f"--base={two_level_base}", f"--data={tmp_path / 'data'}", f"--run={tmp_path / 'run'}"]
    limits = ["--model.init_args.max_images=2", "--trainer.limit_val_batches=0"]
    run(copy, sys.executable, "-m", "commands.train", "--exp=clear2foggy", *where, *QUICK, *limits)
    words = [f"--ckpt={tmp_path / 'run'}", f"--in={tmp_path / 'data' / 'test_A'}", f"--out={tmp_path / 'out'}"]
    run(copy, sys.executable, "-m", "commands.translate", *words)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"{k}.png" for k in range(6)]


@pytest.mark.slow
def test_the_other_tests_pass(copy):
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses=2", "--dist=loadfile"]
    words += [f"tests/{name}" for name in TESTS]
    words += [f"--deselect=tests/test_docs.py::test_{name}" for name in NOT_RUN]
    said = run(copy, sys.executable, *words)
    assert int(re.search(r"(\d+) passed", said)[1]) > 300
