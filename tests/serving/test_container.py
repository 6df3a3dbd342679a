"""The Dockerfile, as far as it can be tried without Docker: its pip lines, the files that it copies, its command."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

from inference import Translator
from tests.serving.conftest import TRAINING, Served, file_of, photo, python_without, same_picture

ROOT = Path(__file__).parents[2]
PNG = file_of(photo())
LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if line and not line.startswith("#")]
CONTEXT = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
VARIANTS = ("exported", "cpu", "cuda")


def said(instruction):
    return [rest for name, rest in STEPS if name == instruction]


def required(variant):
    """The packages that a variant installs by name."""
    found = set()
    for line in (ROOT / "docker" / f"{variant}.txt").read_text().splitlines():
        if line.startswith("-r "):
            found |= required(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith(("#", "--")):
            found.add(line)
    return found


def with_dependencies(names):
    """The distributions of some packages, and of all that these need."""
    found, waiting, seen = {}, [Requirement(name) for name in names], set()
    while waiting:
        one = waiting.pop()
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        for extra in {"", *one.extras} - {extra for of, extra in seen if of == name}:
            seen.add((name, extra))
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or [])
            waiting += [other for other in needed if not other.marker or other.marker.evaluate({"extra": extra})]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_installed_is_pinned_and_none_of_it_is_for_training(variant):
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert required(variant) <= {*pinned}
    assert not {*with_dependencies(required(variant))} & {*TRAINING, "pytorch-lightning", "pytest", "gradio", "timm"}
    assert ("torch" in with_dependencies(required(variant))) == (variant != "exported")


@pytest.mark.parametrize("variant", ["exported", pytest.param("cuda", marks=pytest.mark.slow)])
def test_nothing_else_is_needed(variant, adapter, exported, tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    for found in with_dependencies(required(variant)).values():
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).is_symlink():  # several have a folder `nvidia`
                (packages / top).symlink_to(found.locate_file(top))
    (packages / "one_step_translation-0.dist-info").mkdir()
    (packages / "one_step_translation-0.dist-info" / "METADATA").write_text("Name: one-step-translation\nVersion: 0\n")
    model = {"exported": exported, "cuda": adapter}[variant]
    program = python_without(*TRAINING, options=("-S",))
    served = Served(tmp_path, model, program=program, PYTHONPATH=f"{ROOT}:{packages}")
    try:
        assert same_picture(served.translate(PNG), Translator.load(model)(PNG))
    finally:
        assert served.end() == 0, served.said


def test_what_the_package_is_built_from_is_sent_to_docker():
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    modules = [f"{name.strip()}.py" for name in declared["options"]["py_modules"].split(",")]
    packages = declared["options.packages.find"]["include"].replace("*", "").split()
    assert {*modules, *packages, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= {*CONTEXT}
    assert all((ROOT / path).exists() for path in CONTEXT)
    assert not {"tests", "runs", "docs", "benchmarks", ".git"} & {*CONTEXT}


def test_the_image_runs_the_server_as_another_user_than_root():
    assert said("USER") == ["server"] and said("STOPSIGNAL") == ["SIGTERM"] and said("EXPOSE") == ["8000"]
    command = json.loads(said("CMD")[0])
    assert command == ["one-step", "serve", "--ckpt", "/models", "--host", "0.0.0.0", "--port", "8000"]
    order = [name for name, _ in STEPS]
    assert order.index("USER") > max(k for k, name in enumerate(order) if name in ("RUN", "COPY"))
    assert said("ARG") == ["FOR=cpu"] and {f"{variant}.txt" for variant in VARIANTS} == {
        path.name for path in (ROOT / "docker").iterdir()
    }


@pytest.mark.slow
def test_its_lines_install_a_server_that_translates(exported, tmp_path):
    """In a fresh environment; needs PyPI."""
    build, models = tmp_path / "build", tmp_path / "models"
    shutil.copytree(exported, models / "halves" / "onnx")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    programs = tmp_path / "fresh" / "bin"
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "FOR": "exported", "HOME": str(tmp_path)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    folder = build
    for name, rest in STEPS:
        if name == "WORKDIR":
            folder = tmp_path / rest.lstrip("/")
            folder.mkdir(exist_ok=True)
        elif name == "COPY":
            source, target = rest.split()
            for path in CONTEXT if source == "." else [source]:
                copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                (folder / target).mkdir(exist_ok=True)
                into = folder / target / path if source == "." or (ROOT / path).is_file() else folder / target
                copy(ROOT / path, into, **({"dirs_exist_ok": True} if (ROOT / path).is_dir() else {}))
        elif name == "RUN" and "pip" in rest:
            subprocess.run(["sh", "-c", rest], cwd=folder, env=environment, check=True, timeout=500)
    listed = subprocess.run([programs / "python", "-m", "pip", "list"], env=environment, capture_output=True, text=True)
    assert not {"torch", *TRAINING} & {*listed.stdout.split()}
    program, command, *words = json.loads(said("CMD")[0])
    assert words[:2] == ["--ckpt", "/models"] and words[-2:] == ["--port", "8000"]
    begin = (str(programs / program), command)
    served = Served(tmp_path, models, *words[2:-2], program=begin, PYTHONPATH="", PATH=environment["PATH"])
    try:
        assert served.client.get("/info").json()["adapters"]["halves"]["backend"] == "onnx"
        assert same_picture(served.translate(PNG), Translator.load(exported)(PNG))
        ask = re.search(r"CMD (\[.*\])$", said("HEALTHCHECK")[0])[1].replace(":8000", f":{urlsplit(served.url).port}")
        subprocess.run(json.loads(ask), env=environment, check=True)
    finally:
        assert served.end() == 0, served.said
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(json.loads(ask), env=environment, check=True, capture_output=True)
