"""What a checkout promises before any code of it runs: make, dependencies, pins, licence."""

import configparser
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):.*?## (.+)$", MAKEFILE, re.MULTILINE)
FIXED = """help setup doctor train resume translate evaluate ablate data check-data tensorboard
test test-slow lint format bench""".split()


def make(*words, env=(), cwd=ROOT):
    # A make above this test run must not hand its variables down.
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    return subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *words], cwd=cwd, env=clean | dict(env), capture_output=True, text=True
    )


@pytest.fixture
def recorded(tmp_path):
    """Run a target with a Python that only writes down how it was called."""
    recorder = tmp_path / "recorder.py"
    recorder.write_text("import json, sys\nprint('CALLED' + json.dumps(sys.argv[1:]))\n")

    def call(*words, env=()):
        done = make(*words, f"PY={sys.executable} {recorder}", env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.partition("CALLED")[2])

    return call


def requirements(section, key):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in config[section][key].strip().splitlines()]


EXTRAS = ("dev", "serve", "demo", "docs")  # some of export and video depend on the version of Python
ALL_REQUIREMENTS = [
    *requirements("options", "install_requires"),
    *(requirement for extra in EXTRAS for requirement in requirements("options.extras_require", extra)),
]


def pins(name):
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            yield pin.name.lower(), pin


def test_help_lists_every_target_on_one_line():
    done = make("help")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [name for name, _ in TARGETS]
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE).group(1).split()
    assert sorted(phony) == sorted(name for name, _ in TARGETS)
    assert set(FIXED) <= set(phony)


def test_values_reach_the_command_whole(recorded):
    prompt = 'driving in "dense" fog; it\'s $(grey) & `wet`'.replace("$", "$$")  # make's own escape
    argv = recorded("translate", "CKPT=my run", "IN=-a b.jpg", "OUT=o*", f"PROMPT={prompt}", "STRENGTH=0")
    assert argv == [
        "-m", "commands.translate", "--ckpt=my run", "--in=-a b.jpg", "--out=o*",
        f"--prompt={prompt.replace('$$', '$')}", "--strength=0",
    ]  # fmt: skip


def test_args_are_split_like_a_shell_does(recorded):
    argv = recorded("train", "EXP=clear2foggy", "ARGS=--trainer.max_epochs=3 --x='one word'")
    assert argv == ["-m", "commands.train", "--exp=clear2foggy", "--trainer.max_epochs=3", "--x=one word"]


def test_variables_of_the_users_shell_are_not_ours(recorded):
    argv = recorded("train", "EXP=clear2foggy", env={"DATA": "/elsewhere", "BASE": "other", "ARGS": "--wrong"})
    assert argv == ["-m", "commands.train", "--exp=clear2foggy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "EXP= is missing"),
        (["resume"], "RUN= is missing"),
        (["translate", "CKPT=a", "OUT=b"], "IN= is missing"),
        (["evaluate"], "CKPT= is missing"),
        (["data"], "NAME= is missing"),
        (["check-data", "EXP=clear2foggy"], "DATA= is missing"),
        (["train", "EXP=clear2foggy", "DATE=folder"], "Unknown variable DATE"),
        (
            ["train", "EXP=clear2foggy", "SIZE=256", "SEED=7"],
            "no SEED SIZE, only EXP BASE DATA A B MEMORY INIT ARGS",
        ),
        (["train", "EXP=clear2foggy", "PY=/nowhere/python"], "make setup"),
    ],
)
def test_a_wrong_call_gets_one_line_and_exit_code_2(words, said):
    done = make(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("make")]) <= 1


def test_setup_refuses_another_python_before_anything_is_made(tmp_path):
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    old = tmp_path / "python3.9"
    # The version check reads sys.version_info: give it 3.9's.
    old.write_text(
        f"#!/bin/sh\nshift\nexec {sys.executable} -c "
        '"import sys; sys.version_info = (3, 9, 0); exec(sys.argv[1])" "$1"\n'
    )
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode == 2
    assert "Python 3.10 to 3.12 is needed" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_setup_does_nothing_when_nothing_changed(tmp_path):
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert "pip" not in make("-n", "setup", cwd=tmp_path).stdout
    os.utime(tmp_path / "setup.cfg", (4e9, 4e9))
    assert "-c constraints.txt -e '.[dev,export,video,serve,demo,docs]'" in make("-n", "setup", cwd=tmp_path).stdout


def test_every_dependency_has_its_reason_and_a_range():
    lines = (ROOT / "setup.cfg").read_text().splitlines()
    for requirement in ALL_REQUIREMENTS:
        place = next(k for k, line in enumerate(lines) if re.match(rf"    {requirement.name}\W", line))
        assert lines[place - 1].startswith("    # "), f"{requirement.name} has no reason"
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{requirement.name} has no lower bound"
        assert "<" in operators or requirement.name == "tifffile", f"{requirement.name} has no upper bound"


def test_the_pins_lie_in_the_ranges():
    pinned = dict(pins("constraints.txt"))
    for requirement in ALL_REQUIREMENTS:
        pin = pinned[requirement.name.lower()]
        (specifier,) = pin.specifier
        assert requirement.specifier.contains(specifier.version), f"{pin} is outside {requirement}"
        assert pin.marker is None, f"{pin} is pinned on some platforms only"


def test_every_lower_bound_can_be_installed():
    """The lowest resolution has each bound itself: none is shut out by what another package needs."""
    lowest = {name: pin for name, pin in pins("constraints-lowest.txt") if not pin.marker or pin.marker.evaluate()}
    for requirement in ALL_REQUIREMENTS:
        (bound,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
        (pin,) = lowest[requirement.name.lower()].specifier
        assert Version(pin.version) == bound, f"{requirement}, but the lowest is {pin.version}"


def test_licence_and_citation():
    # The text published at apache.org/licenses/LICENSE-2.0.txt.
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert citation["version"] == config["metadata"]["version"]
    assert citation["license"] == config["metadata"]["license"] == "Apache-2.0"
    assert "2403.12036" in citation["preferred-citation"]["url"]


def test_ci_calls_only_known_targets():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    called = re.findall(r"^make ([a-z-]+)", script.read_text(), re.MULTILINE)
    assert called[:1] == ["setup"]
    assert {"lint", "test", "train"} <= set(called) <= {name for name, _ in TARGETS}


def test_every_target_calls_a_module_that_runs_when_called():
    """`python -m` on a module without its last two lines does nothing, and says so to nobody."""
    modules = set(re.findall(r"-m ((?:commands|benchmarks)\.\w+)", (ROOT / "Makefile").read_text()))
    assert len(modules) > 15
    for module in modules:
        text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert re.search(r'if __name__ == "__main__":\n    .*main\(\)', text), module


def test_the_hosted_workflow_runs_what_ci_runs_on_every_python():
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert job["steps"][-1]["run"] == "PYTHON=python .ci/run"
    allowed = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())
    assert job["strategy"]["matrix"]["python"] == allowed


def test_hooks_are_the_tools_of_make_lint():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split(" --")[0] for hook in repository["hooks"]]
    assert entries == [".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/mypy"]


def test_the_image_is_built_from_everything_that_is_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    modules = {f"{name.strip()}.py" for name in config["options"]["py_modules"].split(",")}
    packages = {name.rstrip("*") for name in config["options.packages.find"]["include"].split()}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert len(modules) > 4 and len(packages) > 14 and modules | packages <= sent
