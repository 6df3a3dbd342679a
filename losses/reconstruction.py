"""Reconstruction losses: L1, L2, LPIPS, and CLIP similarity to a caption."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.features import ClipFeatures, FeatureNetwork, load_features


def l1(image: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference of images `(B, 3, H, W)` in [-1, 1]; `weights` `(B,)` multiply each image's share.

    Raises:
        ValueError: if the shapes differ.
    """
    return weighted_mean(_difference(image, target).abs().flatten(1).mean(dim=1), weights)


def l2(image: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of images `(B, 3, H, W)` in [-1, 1]; `weights` `(B,)` multiply each image's share.

    Raises:
        ValueError: if the shapes differ.
    """
    return weighted_mean(_difference(image, target).square().flatten(1).mean(dim=1), weights)


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the batch of `values` `(B,)`, each times its weight `(B,)`; not divided by the weights' sum.

    An image of weight 0 counts as an image without loss, so ranks of equal batch average to the larger batch.
    """
    return values.mean() if weights is None else (values * weights).mean()


class PerceptualDistance(nn.Module):
    """LPIPS (Zhang et al. 2018): with "vgg" or "alex" the trained one, with others the same formula without heads.

    Args:
        features: the frozen network or its name.
    """

    def __init__(self, features: FeatureNetwork | str = "vgg") -> None:
        super().__init__()
        self.features = load_features(features) if isinstance(features, str) else features

    @property
    def label(self) -> str:
        """Name of the distance with its network, such as "lpips(vgg)"."""
        return f"lpips({self.features.name})"

    def forward(self, image: Tensor, *targets: Tensor) -> Tensor:
        """Distance of each pair, `(B,)`, 0 for equal images; differentiable in both.

        Args:
            image: `(B, 3, H, W)` in [-1, 1].
            *targets: tensors of images that together are as many; each is described by itself, so that one may be known
                already (`networks.features.described_once`).

        Raises:
            ValueError: if the shapes differ.
        """
        shape = (sum(len(target) for target in targets), *targets[0].shape[1:])
        _check_same(image.shape, torch.Size(shape))
        with torch.autocast(image.device.type, enabled=False):
            stages = zip(*(self.features.stages(target) for target in targets), strict=True)
            return self.features.distance(self.features.stages(image), [torch.cat(parts) for parts in stages])


def clip_similarity_loss(clip: ClipFeatures, image: Tensor, captions: list[str]) -> Tensor:
    """`1 - CLIPScore / 100`, CLIPScore = max(100 cos, 0) of image and caption (Hessel et al. 2021; METHOD, paired).

    Args:
        clip: the frozen CLIP.
        image: `(B, 3, H, W)` in [-1, 1].
        captions: one per image.

    Returns:
        `(B,)` in [0, 1]; lower fits the caption better.

    Raises:
        ValueError: if there is not one caption per image.
    """
    if len(captions) != len(image):
        raise ValueError(f"{len(image)} images but {len(captions)} captions; CLIP similarity needs one per image.")
    with torch.no_grad():
        text = clip.text_embedding(captions)
    return 1 - F.cosine_similarity(clip.embedding(image), text, dim=1).clamp(min=0)


def _difference(image: Tensor, target: Tensor) -> Tensor:
    _check_same(image.shape, target.shape)
    return image.float() - target.float()


def _check_same(shape: torch.Size, other: torch.Size) -> None:
    if shape != other:
        raise ValueError(f"Images of different shapes cannot be compared: {tuple(shape)}, {tuple(other)}.")
