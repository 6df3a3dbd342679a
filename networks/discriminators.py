"""Discriminators: heads on a frozen feature network (vision-aided) and PatchGAN.  Each returns a list of logits.

Only heads and PatchGAN train; the feature network is frozen and outside the module tree (`FeatureNetwork`).
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from limits import check_settings
from networks.features import FeatureNetwork, Features, load_features


class VisionAidedDiscriminator(nn.Module):
    """Heads on two intermediate maps and on the embedding of a frozen network (Kumari et al. 2022, Sec. 3.2).

    Args:
        features: the frozen network or its name; "clip" as in the paper, "lite1" without a download.
        width: hidden channels of every head.
        augment: whether `forward` augments differentiably, before the frozen network, when it is given seeds.
    """

    def __init__(self, features: FeatureNetwork | str = "clip", width: int = 256, augment: bool = True) -> None:
        super().__init__()
        check_settings(width=width)
        self.features = load_features(features) if isinstance(features, str) else features
        if not self.features.discriminator_stages or self.features.width is None:
            raise ValueError(
                f"Feature network '{self.features.name}' lacks the stages or the embedding that a vision-aided "
                "discriminator has heads on; use 'clip', 'lite0', 'lite1' or 'lite2'."
            )
        self.augment = augment
        channels = [self.features.stage_channels[k] for k in self.features.discriminator_stages]
        self.map_heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(count, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                Blur(),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )
            for count in channels
        )
        self.embedding_head = nn.Sequential(
            spectral_norm(nn.Linear(self.features.width, width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(width, 1)),
        )

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> list[Tensor]:
        """Score images; higher logits mean "real".

        Args:
            image: `(B, 3, H, W)` in [-1, 1].
            seeds: `(B,)` int64, one per image, from which its augmentation is drawn; None augments nothing.

        Returns:
            Logits `(B, 1, h, w)` of the two maps and `(B, 1)` of the embedding.
        """
        if self.augment and seeds is not None:
            image = augment(image, seeds)
        found: Features = self.features(image)
        maps = [found.stages[k] for k in self.features.discriminator_stages]
        logits = [head(stage) for head, stage in zip(self.map_heads, maps, strict=True)]
        return [*logits, self.embedding_head(found.embedding)]


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, Appendix 6.1.2); three layers see patches of 70x70 pixels.

    Args:
        width: channels of the first layer, doubled per layer up to eightfold.
        layers: layers of stride 2.
        norm: "instance" normalises all layers but the first and the last, "spectral" bounds every weight instead.
    """

    def __init__(self, width: int = 64, layers: int = 3, norm: str = "instance") -> None:
        super().__init__()
        check_settings(width=width, layers=layers)
        if norm not in ("instance", "spectral"):
            raise ValueError(f"Unknown norm '{norm}' of the PatchGAN discriminator; known: instance, spectral.")
        bounded = spectral_norm if norm == "spectral" else nn.Identity()
        counts = [3, *[width * min(2**k, 8) for k in range(layers + 1)]]
        modules: list[nn.Module] = []
        for k, (before, after) in enumerate(itertools.pairwise(counts)):
            modules.append(bounded(nn.Conv2d(before, after, 4, stride=2 if k < layers else 1, padding=1)))
            if norm == "instance" and k > 0:
                modules.append(nn.InstanceNorm2d(after))
            modules.append(nn.LeakyReLU(0.2))
        self.network = nn.Sequential(*modules, bounded(nn.Conv2d(counts[-1], 1, 4, padding=1)))
        self.smallest = 3 * 2**layers  # below it the last maps have no positions left

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> list[Tensor]:
        """Score images `(B, 3, H, W)` in [-1, 1]; returns one map of logits `(B, 1, h, w)`, higher for "real".

        `seeds` is taken so that all discriminators are called alike; nothing is drawn here.

        Raises:
            ValueError: if a side is shorter than the patches allow.
        """
        if min(image.shape[2:]) < self.smallest:
            size = f"{image.shape[3]}x{image.shape[2]}"
            raise ValueError(f"PatchGAN needs images of {self.smallest} px or more, got {size}; use fewer layers.")
        return [self.network(image)]


class EnsembleDiscriminator(nn.Module):
    """Several discriminators as one: the list of all their logits.

    Args:
        discriminators: modules called as `discriminator(image, seeds) -> list of logits`.
    """

    def __init__(self, discriminators: list[nn.Module]) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("An ensemble needs at least one discriminator.")
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> list[Tensor]:
        """Logits of every member in order, for `image` `(B, 3, H, W)` in [-1, 1]; `seeds` as its members take them."""
        return [logits for member in self.discriminators for logits in member(image, seeds)]


class Blur(nn.Module):
    """Binomial 3x3 low-pass per channel, size kept: heads then depend less on shifts by a pixel (Zhang 2019)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, C, h, w)` to the same shape."""
        channels = hidden.shape[1]
        kernel = self.kernel.to(hidden.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(F.pad(hidden, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def augment(image: Tensor, seeds: Tensor) -> Tensor:
    """Differentiable colour, translation and cutout (DiffAugment; Zhao et al. 2020, Sec. 3.2).

    An image's draws depend on its own seed alone, so neither batch, rank nor resume can change them.

    Args:
        image: `(B, 3, H, W)` in [-1, 1].
        seeds: `(B,)` int64.

    Returns:
        `(B, 3, H, W)`; brightness and contrast may leave [-1, 1], uncovered places are 0 (mid-grey).
    """
    height, width = image.shape[2:]
    # numpy's seeding mixes all 64 bits; torch's generator would ignore the upper half on the CPU
    draws = np.stack([np.random.default_rng(seed % 2**64).random(7) for seed in seeds.tolist()])
    bright, saturate, contrast, *places = torch.from_numpy(draws).to(image).view(-1, 7, 1, 1, 1).unbind(1)
    image = image + (bright - 0.5)
    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * (saturate * 2)
    level = image.mean(dim=(1, 2, 3), keepdim=True)
    image = level + (image - level) * (contrast + 0.5)

    move_y, move_x, hole_y, hole_x = (place.view(-1, 1) for place in places)
    rows = torch.arange(height, device=image.device)[None]  # (1, H), against (B, 1) draws
    columns = torch.arange(width, device=image.device)[None]
    source_y = rows - _offset(move_y, height)
    source_x = columns - _offset(move_x, width)
    inside = _within(source_y, height)[:, None, :, None] & _within(source_x, width)[:, None, None, :]
    batch = torch.arange(len(image), device=image.device)[:, None, None]
    source_y, source_x = source_y.clamp(0, height - 1)[:, :, None], source_x.clamp(0, width - 1)[:, None]
    moved = image.permute(0, 2, 3, 1)[batch, source_y, source_x]
    # a hole of half the side, its centre anywhere, so that part of it may lie outside
    hole = (_near(rows, hole_y, height)[:, None, :, None]) & (_near(columns, hole_x, width)[:, None, None, :])
    return moved.permute(0, 3, 1, 2) * (inside & ~hole)


def _offset(draw: Tensor, side: int) -> Tensor:
    """Whole pixels, uniform up to an eighth of the side either way; `(B, 1)` from draws in [0, 1)."""
    reach = int(side / 8 + 0.5)
    return (draw * (2 * reach + 1)).floor().long() - reach


def _within(position: Tensor, side: int) -> Tensor:
    return (position >= 0) & (position < side)


def _near(position: Tensor, draw: Tensor, side: int) -> Tensor:
    """Mask, along one axis, of a hole of half the side at a random centre; `(B, side)` bool."""
    start = (draw * side).floor().long() - side // 4
    return (position >= start) & (position < start + side // 2)
