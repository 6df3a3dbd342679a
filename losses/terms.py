"""Loss terms: their inputs (`TermInputs`), their definition (`LossTerm`) and their weighted sum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from limits import WEIGHT, check_range
from networks.contract import Direction

Reading = Literal["fake", "reconstruction", "identity"]


@dataclass(frozen=True)
class TermInputs:
    """One training batch in one direction, as a loss term sees it.

    Images are ``(B, 3, H, W)`` float32 in [-1, 1].

    Attributes:
        direction: "a2b" or "b2a".
        source: real images of the source domain.
        fake: their translations.
        prompts: one target prompt (paired training: one caption) per image.
        seed: ``(B,)`` int64, one integer per image; random draws that start from it repeat when a run is resumed.
        target: ground truth of each translation; None in unpaired training.
        example: real images of the target domain, unrelated to `source`; None in paired training.
        reconstruction: translations of `fake` back to the source domain; None unless the term reads them.
        identity: translations of `example` in this direction; None unless the term reads them.
        strength: ``(B,)`` in [0, 1], the ``r`` of each image in stochastic training; None where it is 1.
    """

    direction: Direction
    source: Tensor
    fake: Tensor
    prompts: list[str]
    seed: Tensor
    target: Tensor | None = None
    example: Tensor | None = None
    reconstruction: Tensor | None = None
    identity: Tensor | None = None
    strength: Tensor | None = None


class TermFunction(Protocol):
    """Computes a loss term."""

    def __call__(self, inputs: TermInputs) -> Tensor:
        """A scalar: the mean over the images of the batch, so that ranks of equal batch average to a larger batch."""


@dataclass(frozen=True)
class LossTerm:
    """A named part of the generator's loss.

    Attributes:
        name: as logged, without direction.
        function: computes it for one direction.
        weight: its factor in the sum.
        reads: the translations that its gradient flows through.
    """

    name: str
    function: TermFunction
    weight: float
    reads: frozenset[Reading] = frozenset(("fake",))

    def __call__(self, inputs: TermInputs) -> Tensor:
        """The unweighted term.

        Raises:
            ValueError: the function returns something else than a scalar tensor.
        """
        value = self.function(inputs)
        if not isinstance(value, Tensor) or value.dim():
            found = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"Loss term {self.name!r} must return a scalar tensor, got {found}.")
        return value


def term_name(family: str, direction: Direction) -> str:
    """The name under which a term of one direction is weighted and logged: "cycle_lpips_a2b"."""
    return f"{family}_{direction}"


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of `weights[name] * terms[name]`.

    Args:
        terms: scalar losses by name.
        weights: their weights by the same names.

    Returns:
        Scalar.

    Raises:
        ValueError: if the names differ: a misspelt weight would otherwise train without its loss.
    """
    check_names(terms, weights)
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def check_weights(weights: Mapping[str, float]) -> None:
    """Require weights that a loss can have: with a negative one, training would move away from what the term measures.

    Raises:
        ValueError: one is negative or not finite.
    """
    for name, weight in weights.items():
        check_range(f"weights.{name}", weight, WEIGHT)


def check_names(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
    """Require one weight per term and one term per weight.

    Raises:
        ValueError: the names differ; both differences are named.
    """
    if terms.keys() != weights.keys():
        without = ", ".join(sorted(terms.keys() - weights.keys())) or "none"
        unused = ", ".join(sorted(weights.keys() - terms.keys())) or "none"
        raise ValueError(
            f"Loss terms and weights differ. Terms without a weight: {without}; weights without a term: {unused}."
        )
