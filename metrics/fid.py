"""Fréchet distance between the Gaussians fitted to two sets of features (FID; Heusel et al. 2017, Eq. 6)."""

import torch
from torch import Tensor

from metrics.moments import Moments, moments_of


def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """`gaussian_distance` of the means and unbiased covariances of two samples, `(n, D)` and `(m, D)`."""
    return gaussian_distance(moments_of(real), moments_of(fake))


def gaussian_distance(real: Moments, fake: Moments) -> Tensor:
    """`|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` of two means and unbiased covariances.

    With deviations `A`, `B` scaled so that `S1 = A'A`, `S2 = B'B`, the trace of the root is the sum of the singular
    values of `AB'`: no covariance is formed, and few images of many features cost little and lose no digits.

    Args:
        real: of `n` vectors of length `D`.
        fake: of `m` vectors of length `D`.

    Returns:
        Scalar, float64, 0 or more; lower is closer; nan where `n` or `m` is below 2.  Depends on `n` and `m`: it
        falls as they grow.
    """
    if min(real.count, fake.count) < 2:
        return torch.tensor(float("nan"), dtype=torch.float64)
    shift = (real.mean - fake.mean).square().sum()
    scaled = [side.deviations / (side.count - 1) ** 0.5 for side in (real, fake)]
    spread = scaled[0].square().sum() + scaled[1].square().sum()
    # beyond D rows, the triangular factor has the same A'A
    a, b = (torch.linalg.qr(rows, mode="r").R if rows.shape[0] > rows.shape[1] else rows for rows in scaled)
    return (shift + spread - 2 * torch.linalg.svdvals(a @ b.mT).sum()).clamp(min=0)


def frechet_floor(real: Tensor, seed: int = 0) -> Tensor:
    """Fréchet distance between two seeded halves of the real set: about the lowest FID that a perfect model gets.

    Args:
        real: `(n, D)`, in an order that does not depend on ranks.
        seed: of the split into halves.

    Returns:
        Scalar, float64; nan below 4 rows.  Halves are smaller sets, so it lies above the floor of the whole.
    """
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).to(real.device)
    half = len(real) // 2
    return frechet_distance(real[order[:half]], real[order[half:]])
