"""Hinge loss of a discriminator (Lim and Ye 2017): used where the pocket base is made."""

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_generator_loss(fake_logits: list[Tensor]) -> Tensor:
    """Minus the mean logit of fakes, averaged over levels.

    Args:
        fake_logits: one tensor per level, `(B, ...)`, higher for "real".

    Returns:
        Scalar of either sign; lower fools better.
    """
    return -torch.stack([logits.float().mean() for logits in fake_logits]).mean()


def hinge_discriminator_loss(real_logits: list[Tensor], fake_logits: list[Tensor]) -> Tensor:
    """How far real logits are below 1 and fake ones above -1, averaged over levels.

    Args:
        real_logits: of real samples, one tensor per level, `(B, ...)`.
        fake_logits: of fakes, detached from the generator.

    Returns:
        Scalar, 0 or more; 2 where nothing is told apart.
    """
    levels = zip(real_logits, fake_logits, strict=True)
    terms = [F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean() for real, fake in levels]
    return torch.stack(terms).mean()
