"""Hinge losses of a generator and its discriminator (Lim and Ye 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_generator_loss(fake_logits: list[Tensor]) -> Tensor:
    """Negative mean logit of fakes, averaged over levels.

    Args:
        fake_logits: one tensor per level, `(B, ...)`, higher for "real".

    Returns:
        Scalar of either sign; lower means more realistic fakes.
    """
    return -torch.stack([logits.float().mean() for logits in fake_logits]).mean()


def hinge_discriminator_loss(real_logits: list[Tensor], fake_logits: list[Tensor]) -> Tensor:
    """Hinge loss: how far real logits are below 1 and fake ones above -1, averaged over levels.

    Args:
        real_logits: one tensor per level of real samples, `(B, ...)`.
        fake_logits: the same of fakes, detached from the generator.

    Returns:
        Scalar, 0 or more; 2 where all logits are 0.
    """
    levels = zip(real_logits, fake_logits, strict=True)
    terms = [F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean() for real, fake in levels]
    return torch.stack(terms).mean()
