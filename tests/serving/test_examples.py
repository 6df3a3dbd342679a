"""The examples of docs/serving.md, each as it stands there, but for the address."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from commands.serve import parser
from inference import Translator
from serving.app import KINDS
from tests.serving.conftest import file_of, photo, pixels_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


CURL = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("curl")]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(file_of(photo(), "JPEG"))
    (tmp_path / "token.txt").write_text("any")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURL)
def test_curl(line, server, adapter, desk):
    words = line.replace(ADDRESS, server.url).replace("curl ", "curl --fail --noproxy '*' ")
    done = subprocess.run(["sh", "-c", words], cwd=desk, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    translated = [path for path in desk.iterdir() if path.stem == "foggy"]
    if "/translate" not in line:
        assert done.stdout.startswith(b'{"adapters"')
        return
    found = pixels_of(translated[0].read_bytes()).astype(int)
    wanted = np.asarray(Translator.load(adapter)("photo.jpg", size=512 if "size=512" in line else None))
    assert found.shape == wanted.shape
    assert abs(found - wanted).mean() < (3 if "jpeg" in line else 0.5)


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code, server, adapter, desk):
    assert ADDRESS in code
    exec(compile(code.replace(ADDRESS, server.url), "serving.md", "exec"), {})
    assert (
        abs(pixels_of((desk / "foggy.png").read_bytes()).astype(int) - Translator.load(adapter)("photo.jpg")).max() <= 1
    )


def options_of(words):
    known = parser()
    return known.parse_args(words)


def test_the_unit_starts_the_command():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(blocks("ini")[0])
    service = unit["Service"]
    program, module, name, *words = shlex.split(service["ExecStart"])
    assert (module, name, Path(program).name) == ("-m", "commands.serve", "python")
    assert int(service["TimeoutStopSec"]) > options_of(words).seconds + 1


def test_the_deployment_starts_the_command_and_asks_addresses_that_there_are(server):
    (text,) = blocks("yaml")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][:2] == ["one-step", "serve"]
    options = options_of(container["args"][2:])
    assert (options.host, options.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert pod["terminationGracePeriodSeconds"] > options.seconds + 1
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[name]["httpGet"]
        assert asked["port"] == options.port and server.client.get(asked["path"]).status_code == 200


def test_the_tables_name_what_there_is(server):
    kinds = re.findall(r"^\| (\d{3})? ?\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {kind for _, kind in kinds} == {*KINDS.values()}
    assert all(KINDS[int(status)] == kind for status, kind in kinds if status)
    server.translate(b"")
    told = server.client.get("/metrics").text
    for name in re.findall(r"^\| `(one_step_\w+|process_\w+)", PAGE.partition("## Metrics")[2], re.MULTILINE):
        assert f"\n{name}" in told
    for address in re.findall(r"`(?:GET )?(/\w[\w.]*)`", PAGE.partition("| address |")[2].partition("The image")[0]):
        assert server.client.get(address).status_code == 200
