"""How far the translations moved from the domain of the inputs to the target domain, in feature space."""

import math

import torch
from torch import Tensor

from metrics.moments import Moments


def domain_shift(real: Moments, source: Moments, fake: Moments) -> Tensor:
    """Share of the distance from the input domain to the target domain that the translations covered.

    The projection of the mean step, `mean(fake) - mean(source)`, on `d = mean(real) - mean(source)`, over `|d|^2`.
    0 for copies, 1 for images of the target domain; needs no ground truth.  What sampling alone adds to `|d|^2`,
    `tr(S_real) / n + tr(S_source) / m`, is subtracted from it.

    Args:
        real: of the features of `n` real images of the target domain.
        source: of the features of the `m` inputs.
        fake: of the features of their translations.

    Returns:
        Scalar, float64; NaN where the domains differ by less than twice what sampling explains.
    """
    if min(real.count, source.count) < 2:
        return torch.tensor(math.nan)
    step, way = fake.mean - source.mean, real.mean - source.mean
    sampling = sum(side.variance.sum() / side.count for side in (real, source))
    distance = way.square().sum() - sampling
    return (step * way).sum() / distance if distance > sampling else torch.tensor(math.nan)
