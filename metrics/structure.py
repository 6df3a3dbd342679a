"""Structure distance: how far the layout of the output is from the input's (Tumanyan et al. 2022, Sec. 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.pixels import as_image, quantise
from metrics.tables import TableMetric
from networks.features import FeatureNetwork, load_features


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


class StructureDistance(TableMetric):
    """Mean structure distance of inputs and their translations; lower is better, 0 for returning the input.

    Args:
        features: frozen network or name: "dino" as in the paper, or one whose stage cells stand in for its keys.
    """

    def __init__(self, features: FeatureNetwork | str = "dino") -> None:
        super().__init__()
        self.features = load_features(features) if isinstance(features, str) else features
        self.add_table("distance", 1)

    def update(self, source: Tensor, fake: Tensor, index: Tensor) -> None:
        """Add inputs and their translations, both `(B, 3, H, W)` in [-1, 1], at the places `index` `(B,)`."""
        keys, others = (self.features.keys(as_image(quantise(image))) for image in (source, fake))
        self.append("distance", index, structure_distance(keys, others)[:, None])

    def compute(self) -> Tensor:
        """Scalar in [0, 4], float64; nan without images."""
        return self.table("distance").mean()
