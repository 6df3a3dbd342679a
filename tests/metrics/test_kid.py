import pytest
import torch

from metrics.kid import kernel_distance, polynomial_mmd


def sample(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_mmd_written_out():
    real, fake = sample(4, 0), sample(6, 1, 0.5)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 5 + 1) ** 3

    within = 0.0
    for rows in (real, fake):
        n = len(rows)
        within += sum(kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    between = sum(kernel(x, y) for x in real for y in fake) / (4 * 6)
    assert polynomial_mmd(real, fake).item() == pytest.approx(within - 2 * between, rel=1e-12)


def test_mmd_equals_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    real, fake = sample(8, 0), sample(8, 1, 0.5)
    assert polynomial_mmd(real, fake).item() == pytest.approx(poly_mmd(real, fake).item(), rel=1e-9)


def test_mmd_equals_clean_fid_and_torch_fidelity():
    """Both draw subsets: of everything, there is one."""
    from cleanfid.fid import kernel_distance as clean
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = sample(40, 0), sample(40, 1, 0.5)
    ours = polynomial_mmd(real, fake).item()
    assert ours == pytest.approx(clean(real.numpy(), fake.numpy(), num_subsets=2, max_subset_size=40), rel=1e-4)
    theirs = kid_features_to_metric(real, fake, kid_subsets=2, kid_subset_size=40, verbose=False)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_unbiased_mean_over_draws_of_one_distribution_is_zero():
    values = torch.stack([polynomial_mmd(sample(5, 2 * k), sample(5, 2 * k + 1)) for k in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20


def test_subsets_are_seeded_and_show_a_spread():
    real, fake = sample(20, 0), sample(20, 1, 0.7)
    torch.manual_seed(1)
    first = kernel_distance(real, fake)
    torch.manual_seed(2)
    assert kernel_distance(real, fake) == first
    assert first[1] > 0
    # the mean over subsets estimates the value of the whole sets
    assert first[0].item() == pytest.approx(polynomial_mmd(real, fake).item(), abs=first[1].item())


def test_subset_size_is_capped_by_the_sets():
    assert kernel_distance(sample(3, 0), sample(2, 1))[0].isfinite()
    assert kernel_distance(sample(2, 0), sample(1, 1))[0].isnan()
    assert kernel_distance(sample(0, 0), sample(5, 1))[1].isnan()
