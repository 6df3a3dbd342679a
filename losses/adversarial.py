"""Multilevel sigmoid loss of the discriminators of `networks.discriminators` (Kumari et al. 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: list[Tensor]) -> Tensor:
    """Adversarial loss of the generator: non-saturating cross-entropy, summed over levels.

    Args:
        fake_logits: one tensor per level, `(B, ...)`, higher for "real".

    Returns:
        Scalar, 0 or more; lower where the discriminator takes fakes for real.
    """
    return _towards(fake_logits, 1.0)


def discriminator_loss(real_logits: list[Tensor], fake_logits: list[Tensor], real_label: float = 1.0) -> Tensor:
    """Loss of the discriminator: cross-entropy on reals and on fakes, each with half weight, summed over levels.

    Args:
        real_logits: of real images, one tensor per level, `(B, ...)`.
        fake_logits: of translations, detached from the generator.
        real_label: target for real images; 0.8 smooths it as in the paired model.

    Returns:
        Scalar, 0 or more; lower where the discriminator separates them better.
    """
    return real_half(real_logits, real_label) + fake_half(fake_logits)


def real_half(real_logits: list[Tensor], real_label: float = 1.0) -> Tensor:
    """The half of `discriminator_loss` from real images, for a separate step."""
    return 0.5 * _towards(real_logits, real_label)


def fake_half(fake_logits: list[Tensor]) -> Tensor:
    """The half of `discriminator_loss` from translations, for a separate step."""
    return 0.5 * _towards(fake_logits, 0.0)


def _towards(logits: list[Tensor], label: float) -> Tensor:
    # Each level is averaged within a sample before samples are averaged: ranks of equal batch then average to the
    # same gradient as one larger batch.  float32, since a sum over levels in bfloat16 keeps under three digits.
    levels = [level.float().flatten(1) for level in logits]
    terms = [F.binary_cross_entropy_with_logits(x, torch.full_like(x, label), reduction="none") for x in levels]
    return torch.stack([term.mean(dim=1).mean() for term in terms]).sum()
