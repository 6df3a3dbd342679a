"""A server that is stopped, whose clients are slow or go away, and that cannot start."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from commands import serve as command
from inference import Translator
from serving.app import DRAIN_SECONDS
from serving.models import LoadedModels
from serving.requests import Limits, RequestError
from serving.server import Answer, Server
from tests.serving.conftest import file_of, photo, refused, same_picture

ROOT = Path(__file__).parents[2]
IN_PROGRESS = "one_step_requests_in_progress"
PNG = file_of(photo())
SLOW = file_of(photo(1024, 2048))  # one pass of the network, one to four seconds of one core


def connected(server):
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def head(length):
    return b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


def is_refused(server):
    try:
        connected(server).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_server_once_what_runs_is_answered(serve, exported, number):
    server = serve(exported)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(server.translate, SLOW)
        server.until_metric(IN_PROGRESS, value=1)
        server.process.send_signal(number)
        end = time.monotonic() + 5
        while not is_refused(server):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert not running.done(), "the translation was too quick to tell"
        assert same_picture(running.result(), Translator.load(exported)(SLOW))
    assert server.process.wait(timeout=10) == 0
    assert server.said.endswith("Stopped.\n") and "Traceback" not in server.said


def test_a_body_that_comes_too_slowly_is_given_up(serve, exported):
    server = serve(exported, "--seconds=1")
    begin = time.monotonic()
    with connected(server) as slow:
        slow.sendall(head(len(PNG)))
        slow.settimeout(0.3)
        answer, end = b"", begin + 20
        for byte in PNG:
            slow.sendall(bytes([byte]))
            try:
                answer = slow.recv(4096)
                break
            except TimeoutError:
                assert time.monotonic() < end
        slow.settimeout(10)
        while b"}" not in answer:  # its head and its body may come apart
            answer += slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"did not arrive within 1 seconds." in answer
        assert time.monotonic() - begin < DRAIN_SECONDS, "it does not wait for the rest"
        assert b"connection: close" in answer.lower()
    server.until_metric(IN_PROGRESS, value=0)
    assert server.metrics()["one_step_errors_total", "slow_body"] == 1
    assert server.translate(PNG).status_code == 200


def test_a_client_that_goes_away_frees_its_place(serve, exported):
    server = serve(exported, "--requests=1")
    client = connected(server)
    client.sendall(head(len(SLOW)) + SLOW)
    server.until_metric(IN_PROGRESS, value=1)
    refused(server.translate(PNG), 503, "busy")
    client.close()
    server.until_metric(IN_PROGRESS, value=0)
    assert server.metrics()["one_step_errors_total", "client_gone"] == 1
    unfinished = connected(server)
    unfinished.sendall(head(len(PNG)) + PNG[:1000])
    server.until_metric(IN_PROGRESS, value=1)
    unfinished.close()
    server.until_metric(IN_PROGRESS, value=0)
    assert server.metrics()["one_step_errors_total", "client_gone"] == 2
    assert same_picture(server.translate(PNG), Translator.load(exported)(PNG))


def test_a_full_server_says_when_to_come_again_and_a_long_translation_is_given_up(serve, exported):
    server = serve(exported, "--seconds=1", "--requests=2")
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(server.translate, SLOW) for _ in range(2)]
        server.until_metric(IN_PROGRESS, value=2)
        busy = server.translate(PNG)
        refused(busy, 503, "busy: try again")
        assert int(busy.headers["retry-after"]) >= 1
        statuses = {one.result().status_code for one in both}
    assert 504 in statuses and statuses <= {200, 504}
    refused(next(one.result() for one in both if one.result().status_code == 504), 504, "longer than 1 seconds")
    errors = server.metrics()
    assert errors["one_step_errors_total", "queue_full"] == 1 and errors["one_step_errors_total", "timeout"] >= 1


@pytest.mark.slow
def test_a_client_that_waits_before_its_next_request_keeps_its_connection(serve, exported):
    """As those do that were refused with Retry-After; uvicorn's own limit is five seconds."""
    server = serve(exported)
    client = HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    client.connect()
    client.auto_open = 0  # it may not connect again
    for seconds in (0, 7):
        time.sleep(seconds)
        client.request("GET", "/health")
        assert client.getresponse().read() == b'{"healthy":true}'
    client.close()


def test_a_refused_client_is_asked_to_wait_as_long_as_recent_answers_took(exported, monkeypatch):
    """By then those that are in progress are answered: polling every second would take time from them."""

    async def answer(self, request, name, suffix):
        await asyncio.sleep(request)
        return Answer(b"", "", 0, 0)

    async def retry_after():
        server = Server(LoadedModels({"halves": exported}), Limits(requests=1))
        for seconds in (1.1, 1.5):
            await server.translate(seconds, "halves", ".png")
        running = asyncio.create_task(server.translate(0.1, "halves", ".png"))
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as busy:
            await server.translate(0.1, "halves", ".png")
        await running
        return busy.value.headers["Retry-After"]

    monkeypatch.setattr(Server, "_within_time", answer)
    assert asyncio.run(retry_after()) == "2"


def wrong(capsys, *words):
    """What a command line that cannot work prints."""
    assert command.main([*map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def test_what_cannot_be_served_is_one_line(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "No adapter at nowhere: give a run folder" in wrong(capsys, "--ckpt", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "No adapter in empty: looked for adapter.json" in wrong(capsys, "--ckpt", "empty", "--port=0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = wrong(capsys, "--ckpt", exported, f"--port={port}")
        assert f"Cannot listen on HOST=127.0.0.1 PORT={port}: Address already in use" in said
    assert "Cannot listen on HOST=192.0.2.1" in wrong(capsys, "--ckpt", exported, "--port=0", "--host=192.0.2.1")
    assert "PORT" in wrong(capsys, "--ckpt", exported, "--port=70000")
    assert "--models" in wrong(capsys, "--ckpt", exported, "--port=0", "--models=0")
    assert "cannot compute at bfloat16" in wrong(capsys, "--ckpt", exported, "--port=0", "--precision=bfloat16")
    monkeypatch.setenv("ONE_STEP_TOKEN", "two words")
    assert "TOKEN may have letters" in wrong(capsys, "--ckpt", exported, "--port=0")


def test_make_names_the_variable_that_is_missing(tmp_path):
    words = ["make", "-f", str(ROOT / "Makefile"), "serve"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 2 and "CKPT= is missing. Example: make serve CKPT=" in done.stderr


def test_everybody_who_can_reach_it_is_warned_of(serve, exported):
    server = serve(exported, "--host=0.0.0.0")
    assert "warning: everybody who reaches 0.0.0.0 can use this server: set TOKEN" in server.said
    assert server.end() == 0
    quiet = serve(exported, "--host=0.0.0.0", token="secret")
    assert "warning" not in quiet.said and "secret" not in quiet.said
    assert httpx.get(f"{quiet.url}/info", trust_env=False).status_code == 401
