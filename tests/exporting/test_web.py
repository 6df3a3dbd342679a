"""A page that translates in the browser: its graph of pixels, its files, and what a visitor sees."""

import base64
import io
import json
import os
import re
import shutil
import tarfile
from hashlib import sha512

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from commands import export
from exporting import site_files
from exporting.export import Samples
from exporting.pixel_graph import before
from exporting.web import longest_side, write_page
from images.reading import composite
from images.resizing import resize, resized_shape
from inference import Translator
from inference.backends import Training
from inference.high_resolution import choose_layout
from inference.processing import pad
from networks.checkpoints.adapter import read_adapter, save_adapter
from networks.checkpoints.card import RunFacts
from networks.features import load_features
from tests.browser import served
from tests.exporting.conftest import images, one_step, resnet

SIZE = 24  # that the adapter was trained at, pixels
SIZES = ((24, 32), (13, 23), (5, 7), (25, 24), (61, 90), (90, 61))  # pixels: up to that size, and above it


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An adapter of two directions whose models read no prompt: they are converted in seconds."""
    return saved(resnet(), tmp_path_factory.mktemp("trained"))


def saved(generator, folder):
    return save_adapter(generator, folder / "adapter", RunFacts(preprocessing={"eval_size": SIZE}))


@pytest.fixture(scope="module")
def site(trained, tmp_path_factory):
    """Its page, with empty files in place of onnxruntime-web's."""
    return written(trained, tmp_path_factory.mktemp("site"), ("a2b", "b2a"))


def written(trained, folder, directions):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_files, "fetch_runtime", lambda: archive(folder / "fake.tgz", *site_files.RUNTIME))
        network = load_features("random")
        samples = Samples({direction: images(1) for direction in directions}, network)
        write_page(read_adapter(trained), None, folder / "site", directions, samples)
    return folder / "site"


def archive(path, *names):
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            file.addfile(tarfile.TarInfo(f"package/dist/{name}"), io.BytesIO())
    return path


def photograph(height, width, seed=0):
    """Smooth colours with an edge, and noise; the lower half partly transparent."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    pixels[:, width // 2 :] //= 2
    pixels = (pixels.astype(int) + rng.integers(-8, 9, pixels.shape)).clip(0, 255).astype(np.uint8)
    opacity = np.full((height, width, 1), 255, np.uint8)
    opacity[height // 2 :] = 200
    return np.concatenate([pixels, opacity], axis=2)


def run(path, pixels):
    return onnxruntime.InferenceSession(path).run(["result"], {"pixels": pixels})[0]


@pytest.mark.parametrize("shape", SIZES)
def test_the_graph_translates_pixels_like_the_translator(site, trained, shape):
    """Transparency, padding, cropping, and above the trained size lift included."""
    check_like_translator(site, trained, shape)


@pytest.mark.parametrize("shape", [*SIZES, (3, 5)])  # the last is smaller than the padding
def test_the_network_gets_the_translator_s_own_input(shape):
    pixels = photograph(*shape)
    session = onnxruntime.InferenceSession(before.to_model_proto().SerializeToString())
    sizes = {"size": np.array([SIZE]), "multiple": np.array([8])}
    _, small, padded, _ = session.run(None, {"pixels": pixels, **sizes})
    full, _ = composite(pixels)
    expected = resize(full, resized_shape(*shape, min(SIZE, *shape)))[None]
    assert np.abs(small - expected).max() < 1e-5
    assert np.abs(padded - pad(expected, 8)).max() < 1e-5


@pytest.mark.slow
def test_the_prompt_is_in_the_graph(small_base, tmp_path):
    trained = saved(one_step(small_base), tmp_path)
    folder = written(trained, tmp_path, ("b2a",))
    for shape in (*SIZES, (3, 5)):
        check_like_translator(folder, trained, shape)


def check_like_translator(folder, trained, shape):
    pixels = photograph(*shape)
    result = run(folder / "b2a.onnx", pixels)
    expected = Translator.load(trained, "float32", "cpu")(pixels, direction="b2a")
    assert result.dtype == np.uint8 and result.shape == pixels.shape
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert np.abs(result.astype(int) - pixels)[..., :3].mean() > 5, "it is no copy"


def test_the_folder_has_what_the_page_loads_and_no_path_of_this_machine(site, trained):
    assert {file.name for file in site.iterdir()} == site_files.NAMES
    page = json.loads((site / "page.json").read_text())
    assert page["longest"] == 3072
    assert [one["prompt"] for one in page["directions"]] == ["driving in dense fog", "driving on a clear day"]
    for one in page["directions"]:
        content = (site / one["model"]).read_bytes()
        assert len(content) == one["bytes"]
        assert b".py" not in content and str(trained.parent).encode() not in content


@pytest.fixture(scope="module")
def complete(site, tmp_path_factory):
    """The page with onnxruntime-web, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches onnxruntime-web, is not installed")
    folder = shutil.copytree(site, tmp_path_factory.mktemp("complete") / "site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONE_STEP_CACHE", str(tmp_path_factory.mktemp("npm")))
        site_files.write_site_files(folder)
    return folder


def saved_photograph(path, height, width):
    Image.fromarray(photograph(height, width)[..., :3]).save(path)
    return path


def opaque(path):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)], axis=2)


def translate(page, direction=None):
    """Press the button and download what comes, as PNG."""
    if direction is not None:
        page.select_option("#direction", direction)
    page.click("#translate")
    page.wait_for_selector("#download:visible, #error:visible")
    assert page.locator("#error").inner_text() == ""
    with page.expect_download() as download:
        page.click("#download")
    return download.value


@pytest.mark.browser
def test_a_visitor_translates_compares_and_downloads(complete, browser_page, tmp_path):
    """The downloaded pixels are those of ONNX Runtime in Python; nothing is asked of another machine."""
    page = browser_page.page
    photo = saved_photograph(tmp_path / "street.png", 90, 61)
    with served(complete) as address:
        page.goto(address)
        page.set_input_files("#file", photo)
        for direction in ("a2b", "b2a"):
            download = translate(page, direction)
            assert download.suggested_filename == f"street-{direction}.png"
            found = np.asarray(Image.open(download.path()).convert("RGBA")).astype(int)
            assert np.abs(found - run(complete / f"{direction}.onnx", opaque(photo))).max() <= 1
            assert re.fullmatch(r"61 x 90 pixels, \d+\.\d seconds", page.inner_text("#figures"))
        for place in (0.3, 0.7):
            box = page.locator("#stage").bounding_box()
            page.mouse.click(box["x"] + place * box["width"], box["y"] + box["height"] / 4)
            shot = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB").resize((61, 90))
            shown = np.asarray(shot).astype(int)[56:88]  # below words and handle
            left, right = slice(2, int(place * 61) - 2), slice(int(place * 61) + 3, 59)
            before, after = opaque(photo)[56:88, :, :3].astype(int), found[56:88, :, :3]
            assert np.abs(before - after).mean() > 20
            assert np.abs(shown - before)[:, left].mean() < 6, "left of the line is the photograph"
            assert np.abs(shown - after)[:, right].mean() < 6, "right of it the translation"
    assert (browser_page.outside, browser_page.errors) == ([], [])


@pytest.mark.browser
def test_a_photograph_is_dropped_and_a_large_one_scaled_down(complete, browser_page, tmp_path):
    page = browser_page.page
    folder = shutil.copytree(complete, tmp_path / "site")
    told = json.loads((folder / "page.json").read_text()) | {"longest": 50}
    (folder / "page.json").write_text(json.dumps(told))
    content = list(saved_photograph(tmp_path / "street.png", 60, 100).read_bytes())
    with served(folder) as address:
        page.goto(address)
        page.wait_for_selector("#controls:visible")
        dropped = page.evaluate_handle(
            """content => {
                const dropped = new DataTransfer();
                dropped.items.add(new File([new Uint8Array(content)], "street.png", { type: "image/png" }));
                return dropped;
            }""",
            content,
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
        page.wait_for_selector("#translate:enabled")
        assert page.inner_text("#figures") == "50 x 30 pixels, scaled down from 100 x 60"
        assert Image.open(translate(page).path()).size == (50, 30)


@pytest.mark.browser
def test_what_cannot_be_translated_gets_a_sentence(complete, browser_page, tmp_path):
    """A broken file, then a missing model; the page goes on in both cases, at a phone's width too."""
    page = browser_page.page
    page.set_viewport_size({"width": 390, "height": 844})
    folder = shutil.copytree(complete, tmp_path / "site")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no photograph")
    photo = saved_photograph(tmp_path / "street.png", 40, 600)
    with served(folder) as address:
        page.goto(address)
        page.set_input_files("#file", tmp_path / "broken.jpg")
        page.wait_for_selector("#error:visible")
        assert page.inner_text("#error") == "broken.jpg cannot be read as an image. Choose a JPEG, PNG or WebP file."
        assert page.is_disabled("#translate")
        page.set_input_files("#file", photo)
        model = (folder / "a2b.onnx").rename(tmp_path / "a2b.onnx")
        page.click("#translate:enabled")
        page.wait_for_selector("#error:visible")
        assert page.inner_text("#error") == "The photograph could not be translated: a2b.onnx is missing (404)."
        model.rename(folder / "a2b.onnx")
        translate(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.browser
def test_opened_as_a_file_the_page_says_how_to_serve_it(site, browser_page):
    browser_page.page.goto((site / "index.html").as_uri())
    assert "python -m http.server" in browser_page.page.inner_text("#unserved")
    assert browser_page.page.is_hidden("#controls")


def npm(folder, monkeypatch, text):
    """A program in place of npm."""
    program = folder / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_the_archive_of_npm_is_kept_and_only_the_known_one_is_taken(tmp_path, own_cache, monkeypatch):
    known = archive(tmp_path / "known.tgz", *site_files.RUNTIME)
    npm(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/calls; cp {known} "$6"/onnxruntime-web.tgz')
    with pytest.raises(ValueError, match=r"another file for onnxruntime-web@[\d.]+ than its known one \(sha512\)"):
        site_files.fetch_runtime()
    assert [*own_cache.iterdir()] == [], "nothing of it is kept"
    monkeypatch.setattr(site_files, "INTEGRITY", base64.b64encode(sha512(known.read_bytes()).digest()).decode())
    kept = site_files.fetch_runtime()
    assert kept.read_bytes() == known.read_bytes() and kept.parent == own_cache
    assert site_files.fetch_runtime() == kept
    kept.write_bytes(b"damaged")
    assert site_files.fetch_runtime().read_bytes() == known.read_bytes()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 3 and all(f"pack {site_files.PACKAGE} --ignore-scripts" in call for call in calls)


def test_what_npm_says_is_said(tmp_path, monkeypatch):
    npm(tmp_path, monkeypatch, "echo 'npm error network: no route to registry' >&2; exit 1")
    with pytest.raises(ValueError, match=r"npm could not fetch onnxruntime-web.*no route to registry.*npm pack"):
        site_files.fetch_runtime()


def test_a_user_s_mistakes_get_a_line_before_anything_is_converted(trained, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    words = [f"--ckpt={trained}", "--format=web", f"--data={tmp_path}"]

    def refused(*more):
        assert export.main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "FORMAT=web has float32" in refused(f"--out={tmp_path / 'out'}", "--precision=int8")
    assert "it holds 'notes.txt'" in refused(f"--out={tmp_path / 'mine'}")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "npm, which fetches onnxruntime-web@" in refused(f"--out={tmp_path / 'out'}")
    monkeypatch.setattr(site_files, "fetch_runtime", lambda: archive(tmp_path / "fake.tgz", *site_files.RUNTIME))
    monkeypatch.setattr("exporting.web.MOST_BYTES", 1000)
    assert "too large for a page" in (error := refused(f"--out={tmp_path / 'out'}")) and "FORMAT=onnx" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("training", "longest"),
    [
        ({"preprocessing": {"eval_size": 128}, "resolution": "tiles"}, 256),
        ({"preprocessing": {"eval_size": 512}, "resolution": "tiles"}, 768),
        ({"preprocessing": {"eval_size": 128}, "resolution": "direct"}, 1024),
    ],
)
def test_without_lift_an_image_is_at_most_what_the_network_gets_at_once(training, longest):
    """So that the page gives the translator's own result: one tile, or one image of a megapixel."""
    training = Training.from_card(training)
    assert longest_side(training) == longest
    layout = choose_layout("auto", "an image", (longest, longest), None, training, False)
    assert layout.network_shape == (longest, longest)
