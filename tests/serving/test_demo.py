"""The web page of `make demo`, in a real browser, served by a real process."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from inference import Translator
from prompt_embeddings import PROMPTS, PromptEmbeddings
from tests.inference.test_exported import TEXTS, VALUES, seal, write_onnx

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.browser


# Python imports this by its name when it starts.
SITE = """import os, sys
def note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["ASKED"], "a") as log:
            print(args[1] if event == "socket.connect" else args[0], file=log)
sys.addaudithook(note)
"""


class Demo:
    """The command in a process of its own.

    Attributes:
        url: its address.
        said: what it printed.
        asked: file with the addresses that it connected to or looked up.
    """

    def __init__(self, folder, temporary, *words):
        (temporary / "sitecustomize.py").write_text(SITE)
        self.asked = temporary / "asked.log"
        self.asked.touch()
        paths = f"{temporary}{os.pathsep}{ROOT}"
        environment = os.environ | {"PYTHONPATH": paths, "TMPDIR": str(temporary), "ASKED": str(self.asked)}
        command = [sys.executable, "-m", "commands.demo", "--port=0", *map(str, words)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"http://\S+", line):
                self.url = found[0]
                return
        raise AssertionError(self.said)

    def end(self, number=signal.SIGTERM):
        """Exit code, and seconds that ending took."""
        begin = time.monotonic()
        self.process.send_signal(number)
        try:
            self.said += self.process.communicate(timeout=60)[0]
        finally:
            self.process.kill()
        return self.process.returncode, time.monotonic() - begin


@pytest.fixture(scope="module")
def desk(adapter, tmp_path_factory):
    """A folder with two models: an adapter, and an exported one that makes images darker."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(adapter, desk / "runs" / "day2night" / "adapter")
    exported = desk / "runs" / "onnx"
    exported.mkdir()
    for direction in TEXTS:
        write_onnx(exported / f"{direction}.onnx")
    (exported / PROMPTS).write_bytes(PromptEmbeddings("0e7490166411", TEXTS, VALUES).to_bytes())
    (exported / "adapter.json").write_text('{"experiment": "street", "preprocessing": {"preprocess": "canny"}}')
    seal(exported)
    (desk / "tmp").mkdir()
    return desk


@pytest.fixture(scope="module")
def demo(desk):
    """The demo without CKPT, in a folder that has runs."""
    demo = Demo(desk, desk / "tmp")
    yield demo
    code, seconds = demo.end()
    assert code == 0 and "Traceback" not in demo.said, demo.said
    assert seconds < 15
    assert "Open " in demo.said and demo.asked.read_text() == "", "the server asks no other machine for anything"
    assert not any((desk / "tmp").glob("one-step-demo-*")), "its files are removed"
    assert {path.name for path in desk.iterdir()} == {"runs", "tmp"}, "nothing is written where it was started"


@pytest.fixture
def page(demo, browser_page):
    """The page, before anything was chosen; it asks no other machine for anything and has no errors."""
    browser_page.page.set_default_timeout(90_000)  # of a machine that is busy
    browser_page.page.goto(demo.url)
    browser_page.page.wait_for_selector("#go")
    yield browser_page.page
    assert browser_page.outside == [] and browser_page.errors == []


@pytest.fixture
def photo(tmp_path):
    """A photograph as cameras write them: it lies on its side by EXIF."""
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=(200, 40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "Foto 1.jpg", quality=92, exif=exif)
    return tmp_path / "Foto 1.jpg"


def choose(page, name):
    page.locator("#adapter input").click()
    page.get_by_role("option", name=name).click()


def upload(page, path):
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector("#photo img")


def fill(page, selector, text):
    """Type into a field; Gradio empties one that was typed into in the moment in which it opens."""
    for _ in range(20):
        page.locator(selector).fill(text)
        page.wait_for_timeout(300)
        if page.locator(selector).input_value() == text:
            return
    raise AssertionError(f"{selector} does not keep {text}")


def translate(page, says=" s, "):
    """Click, and wait for a new picture and the line below it."""
    before = page.evaluate("document.querySelectorAll('#slider img')[1]?.src")
    page.locator("#go").click()
    page.wait_for_function(
        "([before, says]) => document.querySelector('#summary').innerText.includes(says)"
        " && ![null, undefined, before].includes(document.querySelectorAll('#slider img')[1]?.src)",
        arg=[before, says],
    )
    page.wait_for_function(
        "() => [...document.querySelectorAll('#slider img')].filter(i => i.naturalWidth > 0).length == 2"
    )


def downloaded(page, folder):
    with page.expect_download() as waiting:
        page.locator("#download").click()
    waiting.value.save_as(folder / "downloaded.png")
    return waiting.value.suggested_filename, np.asarray(Image.open(folder / "downloaded.png"))


def test_a_photograph_is_translated_compared_and_downloaded_whole(page, photo, desk, tmp_path):
    choose(page, "day2night")
    upload(page, photo)
    translate(page, "PyTorch float32 on cpu, directly at 64 x 96 px")
    name, pixels = downloaded(page, tmp_path)
    assert name == "Foto_1-day2night-a2b.png"
    translator = Translator.load(desk / "runs" / "day2night")
    assert np.array_equal(pixels, np.asarray(translator(photo)))

    after, handle = page.locator("#slider img").nth(1), page.locator("#slider [data-testid=slider]")
    assert "50%" in after.evaluate("image => image.style.clipPath")
    box, whole = handle.bounding_box(), page.locator("#slider .slider-wrap").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(whole["x"] + whole["width"] / 4, box["y"] + 5, steps=4)
    page.mouse.up()
    share = float(re.findall(r"([\d.]+)%", after.evaluate("image => image.style.clipPath"))[0])
    assert abs(share - 25) < 4, "the translation now begins at a quarter"

    page.get_by_text("B to A: driving in the day").click()
    page.locator("#prompt textarea, #prompt input").fill("a street in the fog")
    page.get_by_text("Size and resolution").click()
    fill(page, "#size input", "48")
    translate(page, "directly at 48 x 72 px")
    expected = translator(photo, direction="b2a", prompt="a street in the fog", size=48)
    assert np.array_equal(downloaded(page, tmp_path)[1], np.asarray(expected))


def test_a_strength_below_one_gives_variants_of_which_one_is_chosen(page, photo, desk, tmp_path):
    choose(page, "day2night")
    upload(page, photo)
    assert page.locator("#variation").count() == 0
    page.locator("#strength input[type=number]").fill("0.5")
    page.locator("#strength input[type=number]").press("Enter")
    page.wait_for_selector("#variation")
    translate(page)
    page.wait_for_function("() => document.querySelectorAll('#variants img').length == 4")
    translator = Translator.load(desk / "runs" / "day2night")
    expected = [np.asarray(translator(photo, strength=0.5, seed=seed)) for seed in range(4)]
    assert np.array_equal(downloaded(page, tmp_path)[1], expected[0])
    assert not np.array_equal(expected[0], expected[2])
    page.locator("#variants button.thumbnail-item").nth(2).click()
    page.wait_for_function("() => document.querySelectorAll('#slider img')[1].src.endsWith('-2.jpg')")
    name, pixels = downloaded(page, tmp_path)
    assert name == "Foto_1-day2night-a2b-2.png" and np.array_equal(pixels, expected[2])


def test_an_exported_model_offers_what_it_can_do(page, photo, desk, tmp_path):
    choose(page, "onnx")
    page.wait_for_function("() => document.querySelector('#about').innerText.includes('ONNX Runtime')")
    assert "translates at strength 1" in page.inner_text("#about")
    assert page.locator("#strength").count() == page.locator("#prompt").count() == 0
    upload(page, photo)
    translate(page, "ONNX Runtime float32 on cpu")
    translator = Translator.load(desk / "runs" / "onnx")
    expected = np.asarray(translator(photo, preprocess="canny"))  # the lines that it was trained on
    assert np.array_equal(downloaded(page, tmp_path)[1], expected)
    page.locator("#lines input").uncheck()
    translate(page, "ONNX Runtime")
    assert np.array_equal(downloaded(page, tmp_path)[1], np.asarray(translator(photo)))


def test_a_file_that_browsers_do_not_show_is_shown_and_translated_from_its_own_pixels(page, desk, tmp_path):
    pixels = np.linspace(0, 65535, 40 * 56 * 3).reshape(40, 56, 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", pixels, photometric="rgb")
    choose(page, "day2night")
    page.wait_for_function("() => document.querySelector('#about').innerText.includes('PyTorch')")
    upload(page, tmp_path / "deep.tif")
    page.wait_for_function("() => document.querySelector('#photo img')?.naturalWidth == 56")
    translate(page)
    name, result = downloaded(page, tmp_path)
    assert name == "deep-day2night-a2b.png"
    assert np.array_equal(result, np.asarray(Translator.load(desk / "runs" / "day2night")(tmp_path / "deep.tif")))


def broken(name, photo):
    if name == "huge.png":
        header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    return {"text.png": b"no image at all", "empty.jpg": b"", "half.jpg": photo.read_bytes()[:-900]}[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("text.png", "text.png cannot be read as an image: not a PNG, JPEG"),
        ("empty.jpg", "empty.jpg cannot be read as an image: the file is empty"),
        ("huge.png", "huge.png cannot be read as an image: it has more than 100 megapixels"),
        ("half.jpg", "Cannot read half.jpg as an image: image file is truncated"),
    ],
)
def test_a_broken_file_is_a_sentence_and_the_page_goes_on(page, photo, tmp_path, name, says):
    (tmp_path / name).write_bytes(broken(name, photo))
    page.set_input_files("#photo input[type=file]", tmp_path / name)
    if name == "half.jpg":  # whose header is whole
        page.wait_for_selector("#photo img")
        page.locator("#go").click()
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    assert says in toast.inner_text() and str(tmp_path) not in toast.inner_text() and "/" not in toast.inner_text()
    page.get_by_test_id("toast-close").click()
    if name == "half.jpg":
        page.locator("#photo").get_by_label("Remove Image").click()
    page.wait_for_selector("#photo button:has-text('Drop a photograph here')")
    upload(page, photo)
    translate(page)


def test_what_is_missing_or_out_of_range_is_a_sentence(page, photo):
    page.locator("#go").click()
    page.get_by_text("Drop a photograph first.").wait_for()
    upload(page, photo)
    page.get_by_text("Size and resolution").click()
    fill(page, "#size input", "100000")
    page.locator("#go").click()
    page.get_by_text("The short side must have 16 to 2048 pixels.").wait_for()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_fits_a_phone(page, photo, colours):
    page.emulate_media(color_scheme=colours)
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.wait_for_selector("#go")
    choose(page, "day2night")
    upload(page, photo)
    page.locator("#strength input[type=number]").fill("0.5")
    page.locator("#strength input[type=number]").press("Enter")
    translate(page)
    page.wait_for_selector("#variants img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for element in ("#photo", "#adapter", "#direction", "#strength", "#go", "#slider", "#variants", "#download"):
        box = page.locator(element).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, element
    page.wait_for_function("() => document.querySelector('#slider').getBoundingClientRect().top < innerHeight")


def test_nothing_else_of_this_machine_is_served(demo, desk):
    policy = httpx.get(demo.url).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    card = desk / "runs" / "day2night" / "adapter" / "adapter.json"
    for path in ("/etc/passwd", card, card.relative_to(desk), f"{desk}/tmp/../runs/day2night/adapter/adapter.json"):
        assert httpx.get(f"{demo.url}/gradio_api/file={path}").status_code in (403, 404), path
    assert httpx.get(f"{demo.url}/docs").status_code == httpx.get(f"{demo.url}/openapi.json").status_code == 404
    assert httpx.get(f"{demo.url}/gradio_api/info").json()["named_endpoints"] == {}


def test_it_ends_at_once_though_a_page_is_open_and_a_translation_runs(browser_page, desk, tmp_path):
    Image.effect_noise((3000, 2000), 60).convert("RGB").save(tmp_path / "large.png")
    demo, page = Demo(desk, tmp_path, "--ckpt=runs/day2night"), browser_page.page
    page.set_default_timeout(90_000)
    try:
        page.goto(demo.url)
        upload(page, tmp_path / "large.png")
        page.get_by_text("Size and resolution").click()
        fill(page, "#size input", "2000")
        page.get_by_label("direct", exact=True).check()
        page.locator("#go").click()
        page.wait_for_selector("#slider [data-testid=status-tracker]:not(.hide)")
        time.sleep(3)
    finally:
        code, seconds = demo.end(signal.SIGINT)
    assert (code, "Traceback" in demo.said, "Stopped." in demo.said) == (0, False, True), demo.said
    assert seconds < 15
    assert not any(tmp_path.glob("one-step-demo-*"))
