"""A loss term: a translation should keep the mean colour of its source."""

import torch.nn.functional as F
from torch import Tensor

from losses.terms import TermInputs


def mean_colour(inputs: TermInputs) -> Tensor:
    """Mean absolute difference of mean colours over a batch in one direction, a scalar."""
    return F.l1_loss(inputs.fake.mean((2, 3)), inputs.source.mean((2, 3)))
