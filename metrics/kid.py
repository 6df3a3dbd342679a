"""Kernel distance between two sets of features (KID; Binkowski et al. 2018, Sec. 4): unbiased at any sample size."""

import torch
from torch import Tensor


def polynomial_mmd(real: Tensor, fake: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel `(x.y / D + 1)^3`.

    Args:
        real: `(n, D)`, `n` at least 2.
        fake: `(m, D)`, `m` at least 2.

    Returns:
        Scalar, float64; lower is closer; 0 in expectation for equal distributions, so it may be negative.
    """
    real, fake = real.double(), fake.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[1] + 1) ** 3

    def within(rows: Tensor) -> Tensor:  # mean over pairs of different images
        k = kernel(rows, rows)
        return (k.sum() - k.diagonal().sum()) / (len(rows) * (len(rows) - 1))

    return within(real) + within(fake) - 2 * kernel(real, fake).mean()


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `polynomial_mmd` over seeded random subsets of both sets.

    Subsets have `subset_size` images or, in smaller sets, half of the smaller one (at least 2): subsets as large as
    the set would all be the same and hide how uncertain the number is.

    Args:
        real: `(n, D)`, in an order that does not depend on ranks.
        fake: `(m, D)`, likewise.
        subsets: number of subsets.
        subset_size: images in each, at most.
        seed: of the subsets; the same ones are drawn each time, so that two checkpoints differ by their images only.

    Returns:
        Two scalars, float64, both nan where `n` or `m` is below 2.
    """
    smaller = min(len(real), len(fake))
    if smaller < 2:
        nan = torch.tensor(float("nan"), dtype=torch.float64)
        return nan, nan.clone()
    size = min(subset_size, max(2, smaller // 2))
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)]

    values = torch.stack([polynomial_mmd(draw(real), draw(fake)) for _ in range(subsets)])
    return values.mean(), values.std(correction=0)
