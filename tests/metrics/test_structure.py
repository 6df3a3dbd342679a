import pytest
import torch
import torch.nn.functional as F

from metrics.structure import StructureDistance, structure_distance

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
    metric = StructureDistance("lite0")
    values = []
    for changed in (SMOOTH, SMOOTH * 0.6 + 0.2, SMOOTH.flip(3)):
        metric.reset()
        metric.update(SMOOTH, changed, torch.arange(2))
        values.append(metric.compute().item())
    assert values[0] == 0
    assert values[1] < values[2] / 2


def test_mean_over_images_of_different_sizes():
    metric = StructureDistance("random")
    metric.update(SMOOTH[:1], SMOOTH[:1].flip(2), torch.tensor([0]))
    first = metric.compute().item()
    small = SMOOTH[1:, :, :32, :48]
    metric.update(small, small, torch.tensor([1]))
    assert metric.compute().item() == pytest.approx(first / 2)


def test_no_images_give_nan():
    assert StructureDistance("random").compute().isnan()
