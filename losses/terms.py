"""The one place where loss terms meet their weights."""

import torch
from torch import Tensor


def weighted_total(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum of `weights[name] * terms[name]`.

    Args:
        terms: scalar losses by name.
        weights: their weights by the same names.

    Returns:
        Scalar.

    Raises:
        ValueError: if the names differ: a misspelt weight would otherwise train without its loss.
    """
    if terms.keys() != weights.keys():
        without = ", ".join(sorted(terms.keys() - weights.keys())) or "none"
        unused = ", ".join(sorted(weights.keys() - terms.keys())) or "none"
        raise ValueError(
            f"Loss terms and weights differ. Terms without a weight: {without}; weights without a term: {unused}."
        )
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
