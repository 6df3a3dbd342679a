import html.parser
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batches import Translation
from evaluation.gallery import FAILURES, Gallery, Record
from evaluation.report import write_report
from evaluation.verdict import verdict

N = 12
BLOCK = {
    "fid": 12.5,
    "fid_floor": 3.25,
    "kid": None,
    "n_fake": N,
    "n_real": N,
    "diversity": 0.1,
    "copy_input": {"fid": 99.5},
    "network_hashes": {"lite0": "0123456789ab"},
    "protocol": {"split": "test", "size": "short side 32"},
}


def gallery():
    """Twelve green pictures of red ones; the last one is blown out, and the first is a copy."""
    found = Gallery()
    order = torch.tensor([*range(6, N), *range(6)])  # as batches of several shapes may come
    for index in order.split(4):
        real, fake = torch.full((4, 3, 32, 48), -1.0), torch.full((4, 3, 32, 48), -0.9)
        real[:, 0], fake[:, 1] = 0.5, 0.5
        fake[index == N - 1] = 1.0
        names = [f"<{k}>.png" for k in index.tolist()]
        found.add(Translation("a2b", real, fake, index, names, truth=fake * 0.9))
    return found


def scores():
    ramp = torch.linspace(0.1, 0.2, N)
    gap = ramp.clone()
    gap[0] = 1e-4
    return {
        "lpips_truth": ramp,
        "psnr_truth": 10 * ramp,
        "structure": torch.full((N,), torch.nan),
        "identity_gap": gap,
        "nearest": torch.where(torch.arange(N) < 2, 0.01, 1.0),
        "nearest_source": torch.ones(N),
    }


@pytest.fixture
def page(tmp_path):
    records = gallery().records(scores())
    report = {"base": "pocket", "data": "twin <world>", "images_seen": 700, "a2b": BLOCK}
    write_report(tmp_path / "report.html", report, {"a2b": records}, None)
    return tmp_path / "report.html"


def test_pictures_keep_the_order_of_their_scores():
    records = gallery().records(scores())
    assert [record.name for record in records] == [f"<{k}>.png" for k in range(N)]
    assert records[3].scores["lpips_truth"] == pytest.approx(0.1 + 3 * 0.1 / (N - 1))
    assert "structure" not in records[3].scores


def test_the_best_state_stands_beside_the_last(tmp_path):
    records = gallery().records(scores())
    report = {"base": "pocket", "a2b": BLOCK, "best": {"checkpoint": "best-3.ckpt", "a2b": {**BLOCK, "fid": 8.75}}}
    write_report(tmp_path / "report.html", report, {"a2b": records}, None)
    text = (tmp_path / "report.html").read_text()
    assert "<th>best-3.ckpt, best by validation</th>" in text
    assert "<tr><td>fid</td><td>12.5</td><td>99.5</td><td>8.75</td></tr><tr><td>fid_floor</td><td>3.25</td>" in text


def test_failures_are_told_apart():
    records = gallery().records(scores())
    found = [record.failures(usual_nearest=1.0, usual_gap=0.15) for record in records]
    assert found[0] == ["near-duplicate", "copy"]
    assert found[1] == ["near-duplicate"]
    assert found[N - 1] == ["saturated"]
    assert found[5] == []


@pytest.mark.parametrize(("usual", "copied"), [(0.0, True), (0.002, True), (0.2, False)])
def test_copies_are_found_where_every_image_is_one(usual, copied):
    record = Record("a.png", {}, (0.0, 0.0), {"identity_gap": usual})
    assert record.failures(usual_nearest=1.0, usual_gap=usual) == (["copy"] if copied else [])
    assert Record("b.png", {}, (0.0, 0.0)).failures(usual_nearest=1.0, usual_gap=usual) == [], "nothing is known of it"


def test_the_page_holds_everything_itself(page):
    text = page.read_text()
    html.parser.HTMLParser().feed(text)
    assert not re.search(r"https?://|src=\"(?!data:)", text)
    held = json.loads(re.search(r"const pictures = (.*);", text)[1])
    asked = set(re.findall(r'data-(?:p|real|truth)="([^"]+)"', text))
    assert asked == held.keys()
    assert "<world>" not in text and "<0>.png" not in text, "names are text, not markup"
    for words in ("99.5", "short side 32", "mode collapse", "worst psnr_truth", "saturated: 1 of 12", "copy: 1 of 12"):
        assert words in text
    assert "best structure" not in text
    assert all(explained in html.unescape(text) for explained in FAILURES.values())


@pytest.mark.browser
def test_the_page_shows_input_and_translation_side_by_side(page, browser_page):
    """In a real browser: the left half of the viewer is the red input, the right half the green translation."""
    browser_page.page.goto(page.as_uri())
    shot = io.BytesIO(browser_page.page.screenshot(full_page=True))
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 60)
    green = (pixels[..., 1] > 150) & (pixels[..., 0] < 60)
    rows = np.flatnonzero((red.sum(1) > 200) & (green.sum(1) > 200))
    assert len(rows) > 200, "the viewer is the only place where wide red meets wide green"
    row = rows[len(rows) // 2]
    assert np.flatnonzero(red[row]).max() < np.flatnonzero(green[row]).min() + 8
    assert (browser_page.outside, browser_page.errors) == ([], [])


def verdict_of(n=60, lpips=0.2, **changed):
    """Sixty images whose distance to the truth varies a little around 0.2."""
    values = (lpips + 0.01 * torch.randn(n, generator=torch.Generator().manual_seed(0))).tolist()
    records = [Record(str(k), {}, (0.0, 0.0), {"lpips_truth": value}) for k, value in enumerate(values)]
    block = {"n_fake": n, "n_real": n, "fid": 50.0, "lpips_truth": lpips}
    block |= {"copy_input": {"fid": 90.0, "lpips_truth": 0.3}} | changed
    return " ".join(verdict(block, records, {"saturated": 19, "copy": 0}))


def test_the_verdict_compares_with_copying_the_input():
    text = verdict_of()
    assert "Better than copying the input by FID and LPIPS." in text
    assert "19 of 60 images blown out." in text
    assert "Not compared with copying, since not measured: KID and PSNR." in text
    mixed = verdict_of(lpips=0.4)
    assert "Better than copying the input by FID; worse than copying the input by LPIPS." in mixed


def test_the_verdict_calls_noise_noise():
    assert "no clear difference to copying by LPIPS" in verdict_of(lpips=0.301)
    assert "no clear difference to copying by FID" in verdict_of(fid=88.0).replace("No", "no")
    assert "FID of 12 images are mostly noise" in verdict_of(n=12)
    noisy = verdict_of(kid=0.01, kid_std=0.02, copy_input={"kid": 0.03})
    assert "No clear difference to copying by KID." in noisy


def test_the_page_says_the_verdict_first_and_leaves_out_what_is_empty(page):
    text = page.read_text()
    order = [text.index(words) for words in ("mode collapse in a2b", 'class="strip"', "short side 32")]
    assert order == sorted(order), "verdict and alarm, then images, then protocol"
    assert "<td>kid</td>" not in text
    block = {key: value for key, value in BLOCK.items() if key != "copy_input"}
    write_report(page, {"a2b": block}, {"a2b": gallery().records(scores())}, None)
    assert "<th>input unchanged</th>" not in page.read_text()


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_its_window_and_cuts_no_image(page, browser_page, width):
    browser_page.page.set_viewport_size({"width": width, "height": 800})
    browser_page.page.goto(page.as_uri())
    assert browser_page.page.evaluate("document.documentElement.scrollWidth") <= width
    cut = "[...document.images].filter(i => i.clientWidth && getComputedStyle(i).objectFit !== 'contain').length"
    assert browser_page.page.evaluate(cut) == 0
