"""`make serve` as its users meet it: the command in a process of its own, called over HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from prompt_embeddings import PROMPTS, PromptEmbeddings
from tests.inference.test_exported import TEXTS, VALUES, seal

ROOT = Path(__file__).parents[2]
TRAINING = ("lightning", "pytorch_lightning", "ray", "torchmetrics", "tensorboard", "matplotlib", "jsonargparse")
# `python -m commands.serve`, which fails at its end if it imported what it should not.
PROGRAM = """
import runpy, sys

unwanted = {*sys.argv.pop(1).split(",")}
try:
    runpy.run_module("commands.serve", run_name="__main__", alter_sys=True)
finally:
    if imported := unwanted & {*sys.modules}:
        raise SystemExit(f"imported: {imported}")
"""


def python_without(*packages, options=()):
    return (sys.executable, *options, "-c", PROGRAM, ",".join(packages))


COMMAND = python_without(*TRAINING)


class Served:
    """The command, started and ready.

    Attributes:
        client: of its address.
        process: that runs it.
        url: its address.
    """

    def __init__(self, folder, ckpt, *words, program=COMMAND, token="", **variables):
        self._log = folder / f"serve-{time.monotonic_ns()}.log"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ONE_STEP_TOKEN": token} | variables
        command = [*program, "--ckpt", str(ckpt), "--port=0", *words]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            self.url = self._until(lambda: re.search(r"Listening on (http://\S+)", self.said))[1]
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)
            self._until(self._is_ready)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def said(self):
        """All that it printed."""
        return self._log.read_text()

    def translate(self, content, path="/translate", **fields):
        return self.client.post(path, content=content, params=fields)

    def metrics(self):
        """Values by name and label."""
        text = self.client.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, *sample.labels.values()): sample.value for sample in samples}

    def until_metric(self, *key, value):
        self._until(lambda: self.metrics().get(key) == value)

    def end(self, number=signal.SIGTERM):
        """The exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.client.close()

    def _is_ready(self):
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _until(self, condition, seconds=90):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.02)
        return found


def photo(height=40, width=56, seed=0):
    """Smooth colours, ``(height, width, 3)``."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)


def file_of(pixels, kind="PNG", **options):
    """The content of an image file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(content):
    return np.asarray(Image.open(BytesIO(content)))


def many_scans(count):
    """A progressive JPEG of 19 megapixels, one of whose scans is repeated: 5 ms of decoding for 60 bytes."""
    content = file_of(np.full((4400, 4400), 128, np.uint8), "JPEG", progressive=True)
    starts = [found.start() for found in re.finditer(b"\xff\xda", content)]
    scan = content[starts[1] : starts[2]]
    return content[: starts[2]] + scan * count + content[starts[2] :]


def same_picture(answer, wanted, levels=1):
    assert answer.status_code == 200, answer.text
    got, wanted = pixels_of(answer.content), np.asarray(wanted)
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= levels
    return True


def refused(answer, status, says, *secrets):
    """One sentence of JSON that tells nothing about the server's files."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (sentence,) = answer.json().values()
    assert re.search(says, sentence), sentence
    assert [*answer.json()] == ["error"] and "\n" not in sentence and sentence.endswith(".") and len(sentence) < 400
    told = re.sub(r"got '.*'", "", sentence)  # what the client sent
    assert "Traceback" not in told and not re.search(r"(?<![\w/])/(tmp|home|root|usr|work|io)\b|\.py\b| at 0x", told)
    assert not any(str(secret) in sentence for secret in secrets)


def write_slow_onnx(path):
    """``translated = image / 2 + 0 * convolutions``: about two seconds for a megapixel on one core."""
    channels = (3, 64, 64, 3)
    shapes = [(channels[k + 1], channels[k], 3, 3) for k in range(3)]
    zeros = [helper.make_tensor(f"w{k}", TensorProto.FLOAT, s, np.zeros(np.prod(s))) for k, s in enumerate(shapes)]
    names = ["image", "c0", "c1", "c2"]
    nodes = [
        *(helper.make_node("Conv", [names[k], f"w{k}"], [names[k + 1]], pads=[1, 1, 1, 1]) for k in range(3)),
        helper.make_node("Mul", ["image", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "c2"], ["sum"]),
        helper.make_node("ReduceSum", ["embedding"], ["all"], keepdims=0),
        helper.make_node("Mul", ["all", "zero"], ["nothing"]),
        helper.make_node("Add", ["sum", "nothing"], ["translated"]),
    ]
    numbers = [helper.make_tensor(n, TensorProto.FLOAT, [1], [v]) for n, v in (("half", 0.5), ("zero", 0.0))]
    ports = {"image": ["b", 3, "h", "w"], "embedding": ["b", 2, 3], "translated": ["b", 3, "h", "w"]}
    *inputs, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports.items())
    graph = helper.make_graph(nodes, "graph", inputs, [output], [*zeros, *numbers])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Folder of an exported ONNX model that halves the contrast, slowly."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    folder.mkdir()
    for direction in TEXTS:
        write_slow_onnx(folder / f"{direction}.onnx")
    (folder / PROMPTS).write_bytes(PromptEmbeddings("0e7490166411", TEXTS, VALUES).to_bytes())
    card = {"experiment": "halves", "data": "/data and /home/me/photos/, 2 + 2", "base_fingerprint": "0e7490166411"}
    (folder / "adapter.json").write_text(json.dumps(card))
    seal(folder, base="/home/me/models/base of mine")
    return folder


@pytest.fixture(scope="session")
def server(adapter, exported, tmp_path_factory):
    """A server of an adapter and an exported model, the adapter by default."""
    served = Served(tmp_path_factory.mktemp("server"), f"{adapter},{exported}", "--mib=8", "--megapixels=20")
    yield served
    assert served.end() == 0, served.said


@pytest.fixture
def serve(tmp_path):
    """Starts servers, and ends those that a test leaves."""
    started = []

    def start(*words, **more):
        started.append(Served(tmp_path, *words, **more))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.end(signal.SIGKILL)
