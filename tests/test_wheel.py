"""The wheel, installed where there is no checkout: the program, its data files, and the package for other programs."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
# A search path that leads to this checkout would make pip find the package installed already.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the programs of a fresh environment that holds the wheel and finds its dependencies in this one."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", work, source]
    subprocess.run(build, env=ENVIRONMENT, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "fresh"], env=ENVIRONMENT, check=True)
    python = work / "fresh" / "bin" / "python"
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], env=ENVIRONMENT, cwd=work, check=True)
    (packages,) = (work / "fresh" / "lib").glob("python*/site-packages")
    # A path in a .pth file: the one below it that leads to this checkout is not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(command, folder):
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_comes_from_the_checkout(installed, tmp_path):
    code = (
        "import storage, networks, commands.cli.recipes as r; print(storage.__file__, networks.__file__, r.EXPERIMENTS)"
    )
    printed = run([installed / "python", "-c", code], tmp_path)
    assert printed.count(str(installed.parent)) == 3 and str(ROOT) not in printed


def test_help_lists_the_commands_in_less_than_a_second(installed, tmp_path):
    start = time.perf_counter()
    printed = run([installed / "one-step", "--help"], tmp_path)
    assert time.perf_counter() - start < 1
    for (
        name
    ) in "train resume translate serve demo export evaluate compare estimate ablate data check-data doctor".split():
        assert f"\n  {name} " in printed


def test_it_translates(installed, adapter, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "photo.png")
    run([installed / "one-step", "translate", "--ckpt", adapter, "--in", "photo.png", "--out", "out.png"], tmp_path)
    code = "from one_step import Translator, load_generator; import sys; "
    code += "Translator.load(sys.argv[1])('photo.png').save('own.png'); print(load_generator.__name__)"
    assert run([installed / "python", "-c", code, adapter], tmp_path) == "load_generator\n"
    translated, own = (np.asarray(Image.open(tmp_path / name)) for name in ("out.png", "own.png"))
    assert (translated == own).all() and translated.shape == (24, 32, 3)


def test_it_has_the_experiments_and_the_packaged_base(installed, tmp_path):
    code = "from commands.cli.recipes import compose; print(compose('clear2foggy', 'pocket').config['data'])"
    assert "datamodules.ClearFoggy" in run([installed / "python", "-c", code], tmp_path)
    assert "pocket                             pretrained" in run([installed / "one-step", "doctor"], tmp_path)
