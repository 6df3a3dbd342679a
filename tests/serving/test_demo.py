"""The web page of `make demo`, in a real browser, served by a real process."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from inference import Translator

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.browser


class Demo:
    """The command in a process of its own.

    Attributes:
        url: its address.
        said: what it printed.
    """

    def __init__(self, folder, *words):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
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
def desk(tmp_path_factory):
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def demo(adapter, desk):
    demo = Demo(desk, f"--ckpt={adapter}")
    yield demo
    code, seconds = demo.end()
    assert (code, "Traceback" in demo.said) == (0, False), demo.said
    assert seconds < 10


@pytest.fixture
def photo(desk):
    """A photograph as cameras write them: lying on its side by EXIF, in another colour space than sRGB."""
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=(200, 40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(desk / "Foto 1.jpg", quality=92, exif=exif, icc_profile=profile)
    return desk / "Foto 1.jpg"


def upload(page, path):
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector("#photo img")


def translate(page):
    page.locator("#go").click()
    page.wait_for_function("() => document.querySelector('#summary').innerText.includes(' s, ')")
    page.wait_for_selector("#slider img")


def downloaded(page, folder):
    with page.expect_download() as waiting:
        page.locator("#download").click()
    waiting.value.save_as(folder / "downloaded.png")
    return waiting.value.suggested_filename, np.asarray(Image.open(folder / "downloaded.png"))


def test_a_photograph_is_translated_compared_and_downloaded_whole(demo, browser_page, photo, adapter, tmp_path):
    page = browser_page.page
    page.goto(demo.url)
    upload(page, photo)
    translate(page)
    assert re.search(r"\d s, PyTorch float32 on cpu, directly at 64 x 96 px", page.inner_text("#summary"))

    name, pixels = downloaded(page, tmp_path)
    assert name.startswith("Foto_1-") and name.endswith("-a2b.png")
    assert np.array_equal(pixels, np.asarray(Translator.load(adapter)(photo)))

    assert page.locator("#slider img").count() == 2
    assert browser_page.outside == [] and browser_page.errors == []
