"""The report of more images than features are held of, and of just as many."""

import json
import math

import pytest
import torch

from metrics.diversity import nearest_distances, nearest_ratio
from metrics.fid import frechet_floor
from metrics.kid import kernel_distance
from metrics.translation import TranslationMetrics
from networks.features import load_features


def images(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def sampled(size: int) -> TranslationMetrics:
    """40 translations of 50 real images, 20 at a time, of which `size` are held."""
    network = load_features("random")
    metrics = TranslationMetrics(network, network, network)
    metrics.sample_size = size
    real, source = images(50, 0) * 0.5 + 0.5, images(40, 1)
    for part in torch.arange(50).split(20):
        metrics.update_real(real[part], part)
    for part in torch.arange(40).split(20):
        metrics.update(source[part], source[part] * 0.4 - 0.2, part, source[part] * 0.5 + 0.5)
    return metrics


def test_up_to_the_sample_size_figures_are_those_of_all_rows_to_the_bit():
    metrics = sampled(50)
    report = metrics.compute()
    assert "kid_images" not in report
    assert not any(len(part) for part in [*metrics.real_factor, *metrics.source_factor, *metrics.fake_factor])
    real, source, fake = (torch.cat(getattr(metrics, f"{name}_rows")).double() for name in ("real", "source", "fake"))
    means = [rows.mean(dim=0) for rows in (real, source, fake)]

    def fid(sides: tuple[torch.Tensor, torch.Tensor]) -> float:
        a, b = ((rows - rows.mean(dim=0)) / (len(rows) - 1) ** 0.5 for rows in sides)
        r, s = (torch.linalg.qr(rows, mode="r").R for rows in (a, b))
        mean = (sides[0].mean(dim=0) - sides[1].mean(dim=0)).square().sum()
        return (mean + (a.square().sum() + b.square().sum()) - 2 * torch.linalg.svdvals(r @ s.mT).sum()).item()

    assert report["fid"] == fid((real, fake))
    assert report["copy_input"]["fid"] == fid((real, source))
    assert report["fid_floor"] == frechet_floor(real).item()
    assert [report["kid"], report["kid_std"]] == [value.item() for value in kernel_distance(real, fake)]
    assert report["diversity"] == nearest_ratio(source, fake).item()
    noise = real.var(dim=0).sum() / 50 + source.var(dim=0).sum() / 40
    way = means[0] - means[1]
    assert report["domain_shift"] == (((means[2] - means[1]) * way).sum() / (way.square().sum() - noise)).item()


def test_beyond_the_sample_size_the_report_says_so_and_only_kid_floor_and_diversity_are_of_the_sample():
    metrics, whole = sampled(8), sampled(50).compute()
    report = metrics.compute()
    assert report.pop("kid_images") == 8
    assert list(report) == list(whole)
    assert (report["n_real"], report["n_fake"]) == (50, 40)
    real, source, fake = (metrics.table(name) for name in ("real", "source", "fake"))
    assert len(real) == len(fake) == 8
    assert [report["kid"], report["kid_std"]] == [value.item() for value in kernel_distance(real, fake)]
    assert report["fid_floor"] == frechet_floor(real).item()
    assert report["diversity"] == nearest_ratio(source, fake).item()
    for key in ("fid", "domain_shift", "structure", "identity_gap", "psnr_truth", "lpips_truth"):
        assert report[key] == pytest.approx(whole[key], rel=1e-6), key
    assert report["copy_input"]["fid"] == pytest.approx(whole["copy_input"]["fid"], rel=1e-6)
    json.dumps(report, allow_nan=False)


def test_beyond_the_sample_size_images_keep_their_scores_and_places():
    metrics, whole = sampled(8), sampled(50).per_image()
    found = metrics.per_image()
    assert {len(values) for values in found.values()} == {40}
    places, _ = metrics.indexed_table("fake")
    for name, values in found.items():
        if name.startswith("nearest"):
            assert values.isfinite().nonzero().flatten().tolist() == places.tolist()
            assert (values[places] >= whole[name][places]).all()  # fewer others to be near to
        else:
            torch.testing.assert_close(values, whole[name])
    assert (
        places[nearest_distances(metrics.table("fake")).argmin()] == found["nearest"].nan_to_num(nan=math.inf).argmin()
    )


def test_the_real_set_and_its_summary_outlive_an_epoch():
    metrics = sampled(8)
    first = metrics.compute()
    metrics.reset()
    assert metrics.moments("real").count == 50
    assert metrics.moments("fake").count == 0
    source = images(40, 1)
    metrics.update(source, source * 0.4 - 0.2, torch.arange(40), source * 0.5 + 0.5)
    assert metrics.compute()["fid"] == pytest.approx(first["fid"], rel=1e-6)
