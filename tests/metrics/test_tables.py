import pytest
import torch

from metrics.moments import fold, moments_of, unfold
from metrics.tables import TableMetric, _scramble

WIDTH, SIZE = 6, 8


class Vectors(TableMetric):
    """A single table of features, filled without a network."""

    sample_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.add_features("x", WIDTH)

    def update(self, index, rows):
        self.append("x", index, rows)

    def compute(self):
        return self.moments("x").mean


def rows(n: int) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0)) + 3


def filled(n: int, batch: int = 5, order: torch.Tensor | None = None) -> Vectors:
    metric = Vectors()
    for part in (torch.arange(n) if order is None else order).split(batch):
        metric.update(part, rows(n)[part])
    return metric


def shuffled(n: int, seed: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def assert_close(found, expected):
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.variance, expected.variance, rtol=1e-10, atol=0)
    products = [side.deviations.mT @ side.deviations for side in (found, expected)]
    torch.testing.assert_close(*products, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_neither_order_nor_batches_decide_on_the_sample_or_the_moments(seed, batch):
    n = 60
    index, table = filled(n).indexed_table("x")
    metric = filled(n, batch, None if seed is None else shuffled(n, seed))
    found, found_table = metric.indexed_table("x")
    assert torch.equal(found, index)
    assert torch.equal(found_table, table)
    assert torch.equal(table, rows(n)[index].double())
    assert index.tolist() == sorted(_scramble(torch.arange(n)).argsort()[:SIZE].tolist())
    assert_close(metric.moments("x"), moments_of(rows(n)))


def elements(metric: TableMetric, *parts: str) -> int:
    return sum(tensor.numel() for part in parts for tensor in getattr(metric, f"x_{part}"))


def test_memory_grows_by_an_index_an_image():
    few, many = filled(100), filled(1000)
    sizes = [sum(t.numel() for state in metric._defaults for t in getattr(metric, state)) for metric in (few, many)]
    assert sizes[1] - sizes[0] <= 900 + SIZE * WIDTH
    assert elements(many, "index", "evicted") == 1000
    assert elements(many, "factor") == (WIDTH + 1) ** 2
    most = 0
    metric = Vectors()
    for part in torch.arange(1000).split(5):
        metric.update(part, rows(1000)[part])
        most = max(most, elements(metric, "rows"))
    assert most < 2 * SIZE * WIDTH


def test_up_to_the_sample_size_everything_is_held():
    metric = filled(SIZE)
    assert elements(metric, "evicted", "factor") == 0
    assert torch.equal(metric.table("x"), rows(SIZE).double())
    found, expected = metric.moments("x"), moments_of(rows(SIZE))
    for part in ("mean", "variance", "deviations"):
        assert torch.equal(getattr(found, part), getattr(expected, part))


def test_an_image_given_again_counts_once_even_after_its_eviction():
    metric = filled(60)
    first, sample = metric.moments("x"), metric.table("x")
    for part in torch.arange(60).split(7):
        metric.update(part, rows(60)[part] + 1)  # would change the moments
    assert torch.equal(metric.table("x"), sample)
    assert_close(metric.moments("x"), first)
    repeated = Vectors()  # more rows than are held at a time, of no more images than the sample has
    for _ in range(5):
        repeated.update(torch.arange(SIZE), rows(SIZE))
    assert elements(repeated, "evicted", "factor") == 0
    assert torch.equal(repeated.table("x"), rows(SIZE).double())


def test_reset_forgets_the_summary():
    metric = filled(60)
    metric.reset()
    assert metric.moments("x").count == 0
    metric.update(torch.arange(5), rows(5))
    assert_close(metric.moments("x"), moments_of(rows(5)))


def test_scramble_is_a_permutation_that_leaves_no_trace_of_the_order():
    places = _scramble(torch.arange(20000))
    assert len(places.unique()) == 20000
    assert places.min() >= 0
    assert places.max() < 2**32
    unit = places.double() / 2**32
    assert (unit.sort().values - torch.arange(20000) / 20000).abs().max() < 0.02
    for lag in (1, 2, 8):
        assert abs(torch.corrcoef(torch.stack([unit[lag:], unit[:-lag]]))[0, 1]) < 0.03


def test_factors_of_parts_are_summaries_of_the_whole():
    x = rows(30)
    nothing = torch.empty(0, WIDTH + 1, dtype=torch.float64)
    parts = torch.cat([fold(nothing, x[:3]), fold(nothing, x[3:20])])  # the first has fewer rows than features
    assert_close(unfold(fold(parts, x[20:], chunk=4), 30), moments_of(x))


def test_a_large_mean_costs_few_digits():
    x = rows(500).double() + 1e4
    summary = unfold(fold(torch.empty(0, WIDTH + 1, dtype=torch.float64), x, chunk=50), 500)
    torch.testing.assert_close(summary.variance, x.var(dim=0), rtol=1e-10, atol=0)
