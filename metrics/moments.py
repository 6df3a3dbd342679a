"""Mean and covariance of a set of feature vectors, from the vectors themselves or from a summary of fixed size."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The first two moments of `count` vectors of length `D`, in float64.

    Attributes:
        count: number of vectors.
        mean: `(D,)`; nan without vectors.
        variance: of each feature, unbiased, `(D,)`; nan below two vectors.
        deviations: `(r, D)` with `A'A` the sum of outer products of the centred vectors: these, or fewer rows.
    """

    count: int
    mean: Tensor
    variance: Tensor
    deviations: Tensor


def double(rows: Tensor) -> Tensor:
    """Convert to float64; on the CPU for tensors of MPS, which has no float64."""
    return rows.cpu().double() if rows.device.type == "mps" else rows.double()


def moments_of(rows: Tensor) -> Moments:
    """Moments of `rows` `(n, D)`."""
    rows = double(rows)
    mean = rows.mean(dim=0)
    variance = rows.var(dim=0, correction=1) if len(rows) > 1 else torch.full_like(mean, torch.nan)
    return Moments(len(rows), mean, variance, rows - mean)


def fold(factor: Tensor, rows: Tensor, chunk: int = 4096) -> Tensor:
    """Add vectors to a summary: the triangular factor of QR of `[1 | rows]`, of all rows so far.

    Factors of disjoint sets, one below the other, are a summary of their union: what ranks gathered needs no more.
    Mean and covariance are never squared, so no digits are lost as in sums of products.

    Args:
        factor: `(r, D + 1)` float64, `(0, D + 1)` for none so far; need not be triangular.
        rows: `(n, D)`.
        chunk: rows at a time, which bounds the memory.

    Returns:
        `(min(r + n, D + 1), D + 1)`, float64, upper triangular.
    """
    for part in rows.split(chunk):
        augmented = torch.cat([factor.new_ones(len(part), 1), double(part)], dim=1)
        factor = torch.linalg.qr(torch.cat([factor, augmented]), mode="r").R
    return factor


def unfold(factor: Tensor, count: int) -> Moments:
    """Moments of the `count` vectors, two or more, that `fold` made into `factor` `(r, D + 1)`."""
    # the first row is sqrt(n) [1 | mean] up to its sign, the others are the triangular factor of the deviations
    mean, deviations = factor[0, 1:] / factor[0, 0], factor[1:, 1:]
    return Moments(count, mean, deviations.square().sum(dim=0) / (count - 1), deviations)
