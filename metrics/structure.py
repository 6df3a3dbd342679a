"""Structure distance: how far the layout of the output is from the input's (Tumanyan et al. 2022, Sec. 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def structure_distance(keys: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of the cosine self-similarities of two images' keys.

    Args:
        keys: `(B, T, C)`, one vector per image position.
        others: of the other images, same shape.

    Returns:
        `(B,)` in [0, 4], 0 for the same layout; lower keeps more structure.
    """

    def similarity(vectors: Tensor) -> Tensor:
        unit = F.normalize(vectors.float(), dim=2)
        return unit @ unit.mT

    with torch.autocast(keys.device.type, enabled=False):
        return (similarity(keys) - similarity(others)).square().mean(dim=(1, 2))
