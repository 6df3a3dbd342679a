"""A page that translates in the browser: its graph of pixels, its files, and what a visitor sees."""

import io
import json
import tarfile

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from exporting import site_files
from exporting.export import Samples
from exporting.web import write_page
from inference import Translator
from networks.checkpoints.adapter import read_adapter, save_adapter
from networks.checkpoints.card import RunFacts
from networks.features import load_features
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


@pytest.mark.slow
def test_the_prompt_is_in_the_graph(small_base, tmp_path):
    trained = saved(one_step(small_base), tmp_path)
    folder = written(trained, tmp_path, ("b2a",))
    for shape in (*SIZES, (3, 5)):  # the last is smaller than the padding
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
    assert page["longest"] == 4096
    assert [one["prompt"] for one in page["directions"]] == ["driving in dense fog", "driving on a clear day"]
    for one in page["directions"]:
        content = (site / one["model"]).read_bytes()
        assert len(content) == one["bytes"]
        assert b".py" not in content and str(trained.parent).encode() not in content
