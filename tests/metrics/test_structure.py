import pytest
import torch
import torch.nn.functional as F

from metrics.pixels import from_uint8, to_uint8
from metrics.structure import structure_distance
from metrics.translation import TranslationMetrics
from networks.features import load_features

SMOOTH = F.interpolate(torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1, 96, mode="bilinear")


def test_formula_written_out():
    a, b = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for i in range(3):
        for j in range(3):
            cosines = [float(x[0, i] @ x[0, j] / x[0, i].norm() / x[0, j].norm()) for x in (a, b)]
            expected += (cosines[0] - cosines[1]) ** 2 / 9
    assert structure_distance(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_layout_counts_and_colour_hardly_does():
    network = load_features("lite0")
    changes = (SMOOTH, SMOOTH * 0.6 + 0.2, SMOOTH.flip(3))
    original, *keys = (network.keys(from_uint8(to_uint8(image))) for image in (SMOOTH, *changes))
    values = [structure_distance(original, changed).mean().item() for changed in keys]
    assert values[0] == 0
    assert values[1] < values[2] / 2


def test_mean_over_images_of_different_sizes():
    metrics = TranslationMetrics("random", "random", "random")
    metrics.update(SMOOTH[:1], SMOOTH[:1].flip(2), torch.tensor([0]))
    first = metrics.compute()["structure"]
    small = SMOOTH[1:, :, :32, :48]
    metrics.update(small, small, torch.tensor([1]))
    assert metrics.compute()["structure"] == pytest.approx(first / 2)
