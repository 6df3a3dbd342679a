import json
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from metrics.diversity import nearest_distances, nearest_ratio
from metrics.domain_shift import domain_shift
from metrics.fid import frechet_distance
from metrics.moments import moments_of
from metrics.pixels import from_uint8, to_uint8
from metrics.psnr import psnr
from metrics.scores import FUNCTIONS, SCORES, Score
from metrics.translation import TranslationMetrics
from networks.features import load_features
from tests.networks.features.test_features import tiny_clip

KEYS = [
    "fid", "fid_features", "kid", "kid_std", "n_real", "n_fake", "fid_floor", "structure", "structure_features",
    "lpips_features", "identity_gap", "diversity", "domain_shift", "features_seen_in_training",
    "network_hashes",
]  # fmt: skip


def images(n: int, seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


REAL, SOURCE = images(7, 0) * 0.5 + 0.5, images(5, 1)
TRUTH = SOURCE * 0.5 + 0.5
FAKE = SOURCE * 0.6 + 0.4


def build(**options: object) -> TranslationMetrics:
    network = load_features("random")
    return TranslationMetrics(network, network, network, **options)


def filled(real: bool = True, truth: torch.Tensor | None = TRUTH) -> TranslationMetrics:
    metrics = build(features_seen_in_training=["lite1"])
    if real:
        metrics.update_real(REAL, torch.arange(7))
    metrics.update(SOURCE, FAKE, torch.arange(5), truth)
    return metrics


def test_keys_are_those_of_metrics_json():
    report = filled().compute()
    assert list(report) == [*KEYS, "psnr_truth", "lpips_truth", "copy_input"]
    assert list(report["copy_input"]) == ["fid", "kid", "psnr_truth", "lpips_truth"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["n_real"], report["n_fake"], report["features_seen_in_training"]) == (7, 5, ["lite1"])
    assert report["fid_features"] == report["structure_features"] == report["lpips_features"] == "random"


def test_without_truth_its_keys_are_absent():
    report = filled(truth=None).compute()
    assert list(report) == [*KEYS, "copy_input"]
    assert list(report["copy_input"]) == ["fid", "kid"]


def test_numbers_are_those_of_the_single_metrics():
    report = filled().compute()
    network = load_features("random")
    real, source, fake, truth = (from_uint8(to_uint8(x)) for x in (REAL, SOURCE, FAKE, TRUTH))
    embed = network.embedding
    assert report["fid"] == pytest.approx(frechet_distance(embed(real), embed(fake)).item(), rel=1e-6)
    assert report["copy_input"]["fid"] == pytest.approx(frechet_distance(embed(real), embed(source)).item(), rel=1e-6)
    gap = network.distance(network.stages(fake), network.stages(source)).mean().item()
    assert report["identity_gap"] == pytest.approx(gap, rel=1e-5)
    assert report["psnr_truth"] == pytest.approx(psnr(to_uint8(fake), to_uint8(truth)).mean().item(), rel=1e-6)
    assert report["copy_input"]["psnr_truth"] == pytest.approx(psnr(to_uint8(source), to_uint8(truth)).mean().item())
    # the translation is nearer to the ground truth than the input is
    assert report["psnr_truth"] > report["copy_input"]["psnr_truth"]
    assert report["lpips_truth"] < report["copy_input"]["lpips_truth"]


def test_returning_the_input_has_no_gap_and_scores_as_the_copy():
    metrics = build()
    metrics.update_real(REAL, torch.arange(7))
    metrics.update(SOURCE, SOURCE, torch.arange(5), TRUTH)
    report = metrics.compute()
    assert (report["structure"], report["identity_gap"], report["diversity"]) == (0, 0, 1)
    assert {key: report[key] for key in report["copy_input"]} == report["copy_input"]


def test_collapsed_outputs_have_no_diversity():
    metrics = build()
    metrics.update(SOURCE, FAKE[:1].expand_as(FAKE), torch.arange(5))
    assert metrics.compute()["diversity"] == pytest.approx(0, abs=1e-3)


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shift(real: torch.Tensor, source: torch.Tensor, fake: torch.Tensor) -> float:
    return domain_shift(moments_of(real), moments_of(source), moments_of(fake)).item()


def test_the_shift_is_the_share_of_the_way_between_the_domains():
    """0 for copies and for steps across the way, the step's share else; unknown where sampling explains the way."""
    way = 10 * torch.eye(6, dtype=torch.float64)[0]
    source, real = rows(200, 0), rows(300, 1) + way
    for share in (0.0, 0.5, 1.0):
        assert shift(real, source, source + share * way) == pytest.approx(share, abs=0.03)
    assert shift(real, source, source + way.roll(1)) == pytest.approx(0, abs=0.03)
    assert math.isnan(shift(rows(3, 1), rows(3, 2), rows(3, 3)))


def test_outputs_that_take_turns_are_not_diverse():
    source = rows(40, 0)
    assert nearest_ratio(source, source) == 1
    assert nearest_ratio(source, 0.5 * source).item() == pytest.approx(0.5)
    assert nearest_ratio(source, source[:4].repeat(10, 1)).item() == pytest.approx(0, abs=1e-6)
    assert nearest_ratio(source[:1], source[:1]).isnan()


def test_distances_in_chunks_are_those_at_once():
    torch.testing.assert_close(nearest_distances(rows(50, 0), chunk=7), nearest_distances(rows(50, 0)))


def test_real_set_is_filled_once_and_kept():
    metrics = filled()
    assert not metrics.real_ready
    first = metrics.compute()
    assert metrics.real_ready
    with pytest.raises(RuntimeError, match="fill it once"):
        metrics.update_real(REAL, torch.arange(7))
    metrics.reset()
    assert metrics.real_ready
    metrics.update(SOURCE, FAKE, torch.arange(5), TRUTH)
    assert metrics.compute() == first


def test_each_image_counts_once_in_any_order():
    expected = filled().compute()
    metrics = build(features_seen_in_training=["lite1"])
    for index in (torch.arange(7), torch.tensor([3, 0])):  # as a careless loop would
        metrics.update_real(REAL[index], index)
    for index in (torch.tensor([4, 0]), torch.tensor([1, 3, 2, 0])):
        metrics.update(SOURCE[index], FAKE[index], index, TRUTH[index])
    report = metrics.compute()
    assert len(metrics.table("real")) == 7
    for key in ("fid", "kid", "kid_std", "fid_floor", "diversity", "structure", "lpips_truth"):
        assert report[key] == pytest.approx(expected[key], rel=1e-6), key


def test_every_score_of_the_registry_has_its_function():
    assert FUNCTIONS.keys() == {name for name, score in SCORES.items() if score.needs != "edits"}  # evaluation.edits


def test_a_score_that_is_added_is_computed_for_translations_and_copies(monkeypatch):
    """One entry and one function each: of every image, where there is ground truth, and of the set."""
    monkeypatch.setitem(SCORES, "error", Score("error", "error", needs="truth", per_image=True, of_input=True))
    monkeypatch.setitem(
        FUNCTIONS, "error", lambda images: (images.fake.pixels != images.truth.pixels).float().mean(dim=(1, 2, 3))
    )
    monkeypatch.setitem(SCORES, "bias", Score("bias", "bias", of_input=True))
    monkeypatch.setitem(FUNCTIONS, "bias", lambda sets: (sets.fake.moments.mean - sets.real.moments.mean).sum())
    metrics = build()
    metrics.update_real(REAL, torch.arange(7))
    metrics.update(SOURCE, TRUTH, torch.arange(5), TRUTH)
    report = metrics.compute()
    assert list(report) == [*KEYS, "psnr_truth", "lpips_truth", "error", "bias", "copy_input"]
    assert report["error"] == 0 < report["copy_input"]["error"]
    assert report["bias"] != report["copy_input"]["bias"]
    assert metrics.per_image()["error"].tolist() == [0.0] * 5
    without = build()
    without.update(SOURCE, FAKE, torch.arange(5))
    report = without.compute()
    assert "error" not in report and "error" not in report["copy_input"]
    assert report["bias"] is None


def test_nothing_is_left_of_the_last_epoch():
    metrics = filled()
    metrics.compute()
    metrics.reset()
    metrics.update(SOURCE[:3], FAKE[:3], torch.arange(3))
    report = metrics.compute()
    assert report["n_fake"] == 3
    assert "psnr_truth" not in report


@pytest.mark.parametrize(("n_real", "n_fake"), [(0, 0), (0, 1), (1, 1), (1, 3), (2, 2), (3, 0)])
def test_few_images_lower_the_trust_but_never_raise(n_real, n_fake):
    metrics = build()
    if n_real:
        metrics.update_real(REAL[:n_real], torch.arange(n_real))
    if n_fake:
        metrics.update(SOURCE[:n_fake], FAKE[:n_fake], torch.arange(n_fake))
    with pytest.warns(UserWarning) if not n_fake else nullcontext():
        report = metrics.compute()
    json.dumps(report, allow_nan=False)
    assert (report["n_real"], report["n_fake"]) == (n_real, n_fake)
    assert (report["fid"] is None) == (min(n_real, n_fake) < 2)
    assert (report["kid"] is None) == (min(n_real, n_fake) < 2)
    assert (report["structure"] is None) == (n_fake == 0)
    assert (report["diversity"] is None) == (n_fake < 2)
    assert report["fid_floor"] is None


def test_images_of_different_sizes_and_repeats():
    metrics = filled()
    metrics.update(images(1, 5, 24), images(1, 6, 24), torch.tensor([5]))
    metrics.update(SOURCE[:2], FAKE[:2], torch.arange(2))  # a sampler's padding
    report = metrics.compute()
    assert report["n_fake"] == 6
    assert report["psnr_truth"] is not None  # over the images that have a truth


def test_each_picture_goes_through_the_network_once():
    metrics = build()
    calls = []
    metrics.features.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    metrics.update(SOURCE, FAKE, torch.arange(5), TRUTH)
    assert calls == [5, 5, 5]
    shared = TranslationMetrics("random", "random", "random")
    assert shared.features is shared.structure is shared.lpips


def test_what_a_network_lacks_and_what_does_not_fit_is_said():
    metrics = build()
    with pytest.raises(ValueError, match="need one shape"):
        metrics.update(SOURCE, FAKE[:, :, :8], torch.arange(5))
    with pytest.raises(ValueError, match=r"Images must lie in \[-1, 1\]"):
        metrics.update(SOURCE, FAKE * 3, torch.arange(5))
    blind = load_features("random")
    blind.width = None
    with pytest.raises(ValueError, match="'random' has no embedding"):
        TranslationMetrics(blind, "random", "random")


def test_autocast_changes_nothing():
    plain = filled().compute()
    metrics = build(features_seen_in_training=["lite1"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metrics.update_real(REAL, torch.arange(7))
        metrics.update(SOURCE, FAKE, torch.arange(5), TRUTH)
        assert metrics.compute() == plain


def test_an_owner_cast_to_bfloat16_changes_nothing():
    owner = nn.ModuleDict({"metrics": filled()}).bfloat16()
    assert owner["metrics"].compute() == filled().compute()
    assert not list(owner.parameters())
    assert not owner.state_dict()


def test_captions_are_compared_by_the_clip_that_is_given():
    clip = tiny_clip()
    metrics = TranslationMetrics("random", "random", "random", clip)
    source, fake = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in range(2))
    captions = ["a day", "a foggy night", "a street"]
    metrics.update(source[:2], fake[:2], torch.arange(2), captions=captions[:2])
    metrics.update(source[2:], fake[2:], torch.tensor([2]), captions=captions[2:])
    seen = clip.embedding(from_uint8(to_uint8(fake)))
    expected = torch.nn.functional.cosine_similarity(seen, clip.text_embedding(captions), dim=1)
    report = metrics.compute()
    assert report["caption_similarity"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert report["network_hashes"]["clip"] == clip.hash
    torch.testing.assert_close(metrics.per_image()["caption_similarity"], expected.double(), rtol=1e-5, atol=1e-6)
    without = TranslationMetrics("random", "random", "random")
    without.update(source, fake, torch.arange(3), captions=captions)
    assert "caption_similarity" not in without.compute()
