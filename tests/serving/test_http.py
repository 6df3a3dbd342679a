"""What a client of `make serve` gets over HTTP: `Translator`'s pictures, or a status and one sentence."""

import re
import socket
import struct
import zlib
from io import BytesIO
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import urlopen

import cv2
import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from images.reading import read_image_with_alpha
from images.writing import encode_image
from inference import Translator
from serving.requests import TYPES
from tests.serving.conftest import (
    TRAINING,
    file_of,
    many_scans,
    photo,
    pixels_of,
    python_without,
    refused,
    same_picture,
)

PNG = file_of(photo())


@pytest.fixture(scope="module")
def translator(adapter):
    return Translator.load(adapter, precision="float32", device="cpu")


def sixteen_bits():
    return cv2.imencode(".png", photo().astype(np.uint16) * 257 + 77)[1].tobytes()


def with_orientation(turn, kind="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = turn
    return file_of(photo(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def transparent():
    alpha = np.linspace(0, 255, 40 * 56).reshape(40, 56, 1).astype(np.uint8)
    return file_of(np.concatenate([photo(), alpha], axis=2))


def cmyk():
    file = BytesIO()
    Image.fromarray(photo()).convert("CMYK").save(file, "TIFF")
    return file.getvalue()


def deep_tiff():
    file = BytesIO()
    tifffile.imwrite(file, photo().astype(np.uint16) * 257, photometric="rgb")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        PNG,
        file_of(photo(), "JPEG"),
        file_of(photo(), "WEBP"),
        file_of(photo(), "TIFF"),
        file_of(photo(), "BMP"),
        file_of(photo()[..., 0]),
        transparent(),
        sixteen_bits(),
        deep_tiff(),
        with_orientation(6),
        with_orientation(8, "PNG"),
        cmyk(),
        file_of(photo(1, 1)),
        file_of(photo(3, 200)),
    ],
    ids="png jpeg webp tiff bmp grey alpha deep deep-tiff exif exif-png cmyk one-pixel strip".split(),
)
def test_a_picture_is_what_translator_makes_of_it(server, translator, content):
    wanted = translator(content)
    assert same_picture(server.translate(content), wanted)
    form = server.client.post("/translate", files={"image": ("x", content)})
    assert same_picture(form, wanted)


@pytest.mark.parametrize(
    "fields",
    [
        {"direction": "b2a"},
        {"prompt": "a street in heavy rain"},
        {"strength": 0.4},
        {"strength": 0.4, "seed": 7},
        {"size": 24},
        {"resolution": "lift"},
        {"preprocess": "canny"},
        {"direction": "b2a", "prompt": "snow/../%2e", "size": 30, "strength": 0.7, "seed": 2**63 - 1},
    ],
    ids=str,
)
def test_fields_reach_the_translation(server, translator, fields):
    wanted = translator(PNG, **fields)
    plain = np.asarray(translator(PNG))
    others = [plain, np.asarray(translator(PNG, strength=0.4)) if "seed" in fields else plain]
    for other in others:
        assert other.shape != np.asarray(wanted).shape or np.abs(other.astype(int) - np.asarray(wanted)).max() > 3
    assert same_picture(server.translate(PNG, **fields), wanted)
    form = {name: str(value) for name, value in fields.items()}
    assert same_picture(server.client.post("/translate", files={"image": PNG}, data=form), wanted)
    (first, *rest) = form.items()
    mixed = server.client.post("/translate", files={"image": PNG}, data=dict(rest), params=dict([first]))
    assert same_picture(mixed, wanted)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("", "image/png"),
        ("image/*", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("image/webp, image/png;q=0.9", "image/webp"),
        ("image/png;q=0.5, image/jpeg;q=0.8, */*;q=0.1", "image/jpeg"),
        ("image/jpeg;q=0.5, image/webp;q=0.50, image/*;q=0.1", "image/jpeg"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("text/html, application/xhtml+xml, image/avif, IMAGE/WebP, */*;q=0.8", "image/webp"),
    ],
)
def test_the_answer_has_the_type_that_is_wanted_most(server, translator, accept, kind):
    answer = server.client.post("/translate", content=transparent(), headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    image, alpha = read_image_with_alpha(transparent())
    result = translator(image)
    wanted = encode_image(result, TYPES[kind], alpha)
    assert Image.open(BytesIO(answer.content)).format == Image.open(BytesIO(wanted)).format
    difference = np.abs(pixels_of(answer.content).astype(int) - pixels_of(wanted))
    assert difference.max() <= 1 if kind == "image/png" else difference.mean() < 1


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "image/png;q=0", "image/*;q=0.0", ",", "image/png;q=x"])
def test_a_type_that_is_not_sent_is_refused(server, accept):
    refused(server.client.post("/translate", content=PNG, headers={"Accept": accept}), 406, "image/png, image/jpeg")


def test_the_content_decides_not_its_name_or_type(server, translator):
    wanted = translator(PNG)
    for kind in ("image/gif", "text/plain", "application/x-www-form-urlencoded", "multipart/mixed; boundary=x"):
        answer = server.client.post("/translate", content=PNG, headers={"Content-Type": kind})
        assert same_picture(answer, wanted)
    for name in ("photo.exe", "../../etc/passwd", "photo.gif\0.png", "/dev/zero"):
        assert same_picture(server.client.post("/translate", files={"image": (name, PNG, "text/html")}), wanted)
    named = server.client.post("/translate", files={"image": ("photo.png", b"GIF89a" + bytes(50), "image/png")})
    refused(named, 415, "not a PNG, JPEG, WebP, TIFF, BMP or PPM image")


def test_several_adapters_are_told_apart_by_their_names(server, translator, adapter, exported):
    first, second = server.client.get("/info").json()["adapters"]
    assert (first, second) == (adapter.parent.name, exported.name)
    assert same_picture(server.translate(PNG, f"/translate/{first}"), translator(PNG))
    halved = Translator.load(exported)(PNG)
    assert same_picture(server.translate(PNG, f"/translate/{second}"), halved)
    assert np.abs(np.asarray(halved).astype(int) - np.asarray(translator(PNG))).max() > 10


def bomb(width=30_000, height=30_000):
    """A PNG of a few bytes per row, bilevel, all black."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + -(-width // 8))
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def damaged():
    content = bytearray(file_of(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)))
    content[3000:3040] = bytes(40)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "fields", "status", "says"),
    [
        (b"", {}, 400, "has no image"),
        (PNG[:-100], {}, 400, "cannot be read"),
        (damaged(), {}, 400, "cannot be read"),
        (file_of(photo(), "JPEG")[:200], {}, 400, "cannot be read"),
        (b"hello", {}, 415, "not a PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 415, "not a PNG, JPEG"),
        (file_of(photo(), "GIF"), {}, 415, "not a PNG, JPEG"),
        (PNG, {"strength": "nan"}, 422, "Field strength"),
        (PNG, {"strength": "1.01"}, 422, "Field strength: .* less than or equal to 1, got '1.01'"),
        (PNG, {"strength": "many"}, 422, "Field strength"),
        (PNG, {"seed": "-1"}, 422, "Field seed"),
        (PNG, {"seed": "9" * 5000}, 422, "Field seed"),
        (PNG, {"size": "0"}, 422, "Field size"),
        (PNG, {"size": "64.5"}, 422, "Field size"),
        (PNG, {"direction": "sideways"}, 422, "Field direction"),
        (PNG, {"resolution": "high"}, 422, "Field resolution"),
        (PNG, {"preprocess": "../x"}, 422, "Field preprocess"),
        (PNG, {"prompt": "x" * 2001}, 422, "Field prompt"),
        (PNG, {"promt": "rain"}, 422, "Unknown field 'promt'. Did you mean 'prompt'"),
        (PNG, {"size": ["24", "25"]}, 422, "Field 'size' is given twice"),
        (file_of(photo(1600, 1600)), {"resolution": "direct"}, 422, "Above one megapixel"),
        (file_of(photo(16, 4000)), {"size": "400"}, 422, "Crop it, or give a smaller size"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, bytes) else f"{len(value)}B",
)
def test_what_cannot_be_answered_is_one_sentence_with_its_code(server, adapter, content, fields, status, says):
    refused(server.translate(content, **fields), status, says, adapter)


@pytest.mark.parametrize(
    ("content", "fields", "says"),
    [
        (bomb(), {}, "more than 100 megapixels"),
        (bomb(9_999, 10_000), {}, "9999 x 10000 pixels; at most 20 megapixels"),
        (bomb(17_000, 8), {}, "17000 x 8 pixels; .*16,384 pixels a side"),
        (PNG, {"size": "2000", "resolution": "direct"}, "The network would get 2800 x 2000"),
        (many_scans(10_000), {}, "more than 100 scans"),
        (bytes(9 << 20), {}, "at most 8 MiB"),
    ],
    ids=["bomb", "many", "long", "network", "scans", "body"],
)
def test_what_is_too_large_is_refused_before_it_is_decoded(server, adapter, content, fields, says):
    assert content[1:4] != b"PNG" or len(content) < 200_000
    refused(server.translate(content, **fields), 413, says, adapter)


def test_a_body_is_limited_by_what_it_says_and_by_what_it_has(server):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n")
        connection.sendall(b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    pieces = (bytes(1 << 16) for _ in range(9 * 16))
    refused(server.client.post("/translate", content=pieces), 413, "at most 8 MiB")
    form = server.client.post("/translate", files={"image": bytes(9 << 20)})
    refused(form, 413, "at most 8 MiB")
    with pytest.raises(HTTPError) as closing:  # it sends all of its body first, and "Connection: close"
        urlopen(f"{server.url}/translate", data=bytes(50 << 20), timeout=20)
    assert closing.value.code == 413 and b"at most 8 MiB" in closing.value.read()


def test_info_has_the_bytes_of_the_weights_that_are_loaded(serve, exported):
    """Of an exported model's files; each direction is opened when it is first used."""
    served = serve(exported)

    def weight_bytes():
        (one,) = served.client.get("/info").json()["adapters"].values()
        return one["loaded"]["weight_bytes"]

    a2b, b2a = ((exported / f"{direction}.onnx").stat().st_size for direction in ("a2b", "b2a"))
    assert weight_bytes() == 0
    assert served.translate(PNG).status_code == 200 and weight_bytes() == a2b
    assert served.translate(PNG, direction="b2a").status_code == 200 and weight_bytes() == a2b + b2a


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def part(head, content=b"1"):
    return b"--x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "has no image"),
        (b"nothing of the kind", 400, "The form cannot be read"),
        (part(b'name="size"') + b"--x--\r\n", 400, "has no image"),
        (part(b'name="size"') * 20 + b"--x--\r\n", 400, "Too many fields"),
        (part(b'name="prompt"', b"x" * 9000) + b"--x--\r\n", 400, "exceeded maximum size"),
        (part(b'name="image"; filename="a"', PNG) * 2 + b"--x--\r\n", 400, "Too many files"),
        (part(b'name="photo"; filename="a"', PNG) + b"--x--\r\n", 422, "one file, named 'image'"),
        (part(b'name="image"', b"text") + b"--x--\r\n", 422, "one file, named 'image'"),
        (part(b'filename="a"', PNG) + b"--x--\r\n", 400, "name"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, bytes) else f"{len(value)}B",
)
def test_a_form_that_cannot_be_read_is_one_sentence(server, body, status, says):
    refused(server.client.post("/translate", content=body, headers=FORM), status, says)
    without = {"Content-Type": "multipart/form-data"}
    refused(server.client.post("/translate", content=body, headers=without), 400, "Missing boundary")


@pytest.mark.parametrize(
    "name", ["night", "..%2f..%2fetc%2fpasswd", "%2e%2e", "%00", "a%0db", "x" * 500, "http:%2f%2fx"]
)
def test_an_adapter_that_is_not_there_is_told_with_those_that_are(server, adapter, name):
    answer = server.client.post(f"/translate/{name}", content=PNG)
    refused(answer, 404, "There is no adapter .* Known: |There is no such address", adapter)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/translate", 405),
        ("PUT", "/info", 405),
        ("GET", "/", 404),
        ("GET", "/static/../../x", 404),
        ("POST", "/translate/", 404),
    ],
)
def test_other_addresses_and_methods_are_refused_as_json(server, method, path, status):
    refused(server.client.request(method, path), status, "address")


def test_info_tells_what_clients_need_and_no_path(server, adapter, exported):
    info = server.client.get("/info")
    found = info.json()
    (first, second) = found["adapters"].values()
    assert (first["directions"], first["backend"], second["backend"]) == (["a2b", "b2a"], "torch", "onnx")
    assert (first["prompts"]["a2b"], second["title"], second["trained_only"]) == (
        "driving in the night",
        "halves",
        True,
    )
    assert first["edits"] == []
    assert (first["loaded"]["precision"], first["loaded"]["device"]) == ("float32", "cpu")
    assert (found["limits"]["body"], found["limits"]["pixels"]) == (8 << 20, 20_000_000)
    assert not re.search(r"(?<![\w.:])/\w", info.text), info.text
    assert str(adapter) not in info.text and "/home" not in info.text and "data and " in info.text


def test_metrics_count_what_was_sent(server):
    before = server.metrics()
    assert server.translate(PNG).status_code == 200
    assert server.translate(PNG, size="x").status_code == 422
    assert server.translate(b"x").status_code == 415
    assert server.translate(PNG, "/translate/none").status_code == 404
    after = server.metrics()
    change = {key: after[key] - before.get(key, 0) for key in after if key[0].startswith("one_step")}
    for status in ("200", "422", "415", "404"):
        assert change["one_step_requests_total", status] == 1
    for kind in ("field", "format", "not_found"):
        assert change["one_step_errors_total", kind] == 1
    assert change["one_step_request_seconds_count",] == change["one_step_queue_seconds_count",] == 1
    assert change["one_step_request_seconds_bucket", "+Inf"] == 1
    assert 0 < change["one_step_request_seconds_sum",] < 60
    assert after["one_step_queue_length",] == after["one_step_requests_in_progress",] == 0
    assert after["process_resident_memory_bytes",] > 1e7


def test_a_translation_tells_its_layout_and_times(server):
    answer = server.translate(PNG, resolution="lift")
    assert answer.headers["resolution"] == "lift from 56 x 40"
    assert re.fullmatch(r"queue;dur=\d+\.\d, compute;dur=\d+\.\d, total;dur=\d+\.\d", answer.headers["server-timing"])
    assert "server" not in answer.headers


def test_the_documentation_loads_nothing_from_elsewhere(server):
    described = server.client.get("/openapi.json").json()
    page = server.client.get("/docs").text
    assert "http" not in page and not re.search(r"[\"'(]//", page)
    linked = re.findall(r"(?:src|href)=[\"']([^\"']+)", page)
    assert len(linked) >= 2
    for link in linked:
        found = server.client.get(urljoin(f"{server.url}/docs", link))
        assert found.status_code == 200
        if "css" in found.headers["content-type"]:
            assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", found.text)
    post = described["paths"]["/translate"]["post"]
    assert {"direction", "prompt", "strength", "seed", "size"} <= {one["name"] for one in post["parameters"]}
    assert {"200", "400", "401", "404", "406", "408", "413", "415", "422", "503", "504"} <= {*post["responses"]}
    assert "http" not in str(described).replace("HTTPBearer", "").replace("'http'", "")


@pytest.mark.browser
def test_the_documentation_is_shown_without_an_outside_request(server, browser_page):
    browser_page.page.goto(f"{server.url}/docs")
    browser_page.page.get_by_text("Translate an image", exact=True).wait_for()
    assert (browser_page.outside, browser_page.errors) == ([], [])


def test_an_exported_model_needs_neither_torch_nor_lightning(serve, exported):
    program = python_without("torch", "torchvision", "diffusers", "transformers", "peft", *TRAINING)
    served = serve(exported, program=program)
    assert same_picture(served.translate(PNG, direction="b2a"), Translator.load(exported)(PNG, "b2a"))
    refused(served.translate(PNG, strength=0.5), 422, "strength 1 only")
    refused(served.translate(PNG, prompt="rain"), 422, "leave the prompt out", exported)
    assert served.end() == 0, served.said
    assert served.said.endswith("Stopped.\n")


def test_a_token_is_needed_but_for_probes(serve, exported):
    served = serve(exported, token="correct-horse")
    with httpx.Client(base_url=served.url, trust_env=False) as stranger:
        for path in ("/health", "/ready"):
            assert stranger.get(path).status_code == 200
        for wrong in (
            None,
            "",
            "Bearer",
            "Bearer wrong",
            "Bearer correct-horse-",
            "Basic correct-horse",
            "Bearer \xff",
        ):
            headers = {} if wrong is None else {"Authorization": wrong.encode("latin-1")}
            for method, path in (
                ("GET", "/info"),
                ("GET", "/metrics"),
                ("GET", "/docs"),
                ("GET", "/openapi.json"),
                ("POST", "/translate"),
                ("POST", "/translate/x"),
            ):
                answer = stranger.request(method, path, headers=headers, content=PNG if method == "POST" else None)
                refused(answer, 401, "Authorization: Bearer TOKEN", "correct-horse")
                assert answer.headers["www-authenticate"] == "Bearer"
    assert served.translate(PNG).status_code == served.client.get("/openapi.json").status_code == 200
    assert served.metrics()["one_step_errors_total", "token"] == 42
    assert "correct-horse" not in served.said
