"""How different the outputs are from each other: distances to the nearest neighbour in feature space."""

import math

import torch
from torch import Tensor


def nearest_ratio(source: Tensor, fake: Tensor) -> Tensor:
    """Mean distance of an output's features to the nearest other output's, relative to that of the inputs.

    0 when every output has a near duplicate, be it one image for all inputs or a few that take turns (whose variance
    would look normal); 1 when outputs differ as the inputs do.

    Args:
        source: features of the inputs, `(m, D)`.
        fake: features of their translations, `(m, D)`.

    Returns:
        Scalar, float64; NaN below two rows, or where the inputs do not differ.

    Examples:
        >>> inputs = torch.tensor([[0.0], [1.0], [2.0]])
        >>> nearest_ratio(inputs, inputs + 5).item(), nearest_ratio(inputs, 0 * inputs).item()
        (1.0, 0.0)
    """
    return nearest_distances(fake).mean() / nearest_distances(source).mean()


def nearest_distances(rows: Tensor, chunk: int = 1024) -> Tensor:
    """Distance of each row to the nearest other one, `(n,)`; NaN below two rows.

    Args:
        rows: `(n, D)`.
        chunk: rows whose distances are computed at once; all at once would take gigabytes for a large test split.
    """
    if len(rows) < 2:
        return rows.new_full((len(rows),), math.nan)
    nearest = []
    for first in range(0, len(rows), chunk):
        distance = torch.cdist(rows[first : first + chunk], rows)
        distance.diagonal(first).fill_(math.inf)
        nearest.append(distance.amin(dim=1))
    return torch.cat(nearest)
