"""The function behind each score of `metrics.scores`, and what these functions compute from.

A score per image is a function of a `TranslatedImages` that returns `(B,)`; a score of the whole set is a function of
`TranslatedSets` that returns a scalar.  NaN stands for "not known".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from metrics.diversity import nearest_ratio
from metrics.domain_shift import domain_shift
from metrics.fid import frechet_floor, gaussian_distance
from metrics.kid import kernel_distance
from metrics.moments import Moments
from metrics.pixels import from_uint8, to_uint8
from metrics.psnr import psnr
from metrics.scores import computes
from metrics.structure import structure_distance
from networks.features import ClipFeatures, FeatureNetwork, Features


@dataclass(frozen=True)
class Networks:
    """The feature networks that scores depend on, by role.

    Attributes:
        features: of FID, KID, diversity and domain shift.
        structure: of the structure distance.
        lpips: of perceptual distances.
        clip: of caption similarity; None where it is not computed.
    """

    features: FeatureNetwork
    structure: FeatureNetwork
    lpips: FeatureNetwork
    clip: ClipFeatures | None = None


class DescribedImages:
    """8-bit images with their features; each network runs once on them, when a score first asks for its features.

    Args:
        image: `(B, 3, H, W)` in [-1, 1].

    Attributes:
        pixels: the same, uint8.

    Raises:
        ValueError: a value is not finite or outside [-1, 1]; clamped, it would be scored as another image.
    """

    def __init__(self, image: Tensor) -> None:
        self.pixels = to_uint8(image)
        self._features: dict[FeatureNetwork, Features] = {}

    def embedding(self, network: FeatureNetwork) -> Tensor:
        """One vector per image, `(B, D)`."""
        embedding: Tensor = network.require("embedding", self._of(network).embedding)
        return embedding

    def keys(self, network: FeatureNetwork) -> Tensor:
        """One vector per image position, `(B, T, C)`."""
        keys: Tensor = network.require("keys", self._of(network).keys)
        return keys

    def stages(self, network: FeatureNetwork) -> list[Tensor]:
        """Feature maps, finest first, each `(B, C_k, h_k, w_k)`."""
        stages: list[Tensor] = network.require("stages", self._of(network).stages)
        return stages

    def _of(self, network: FeatureNetwork) -> Features:
        if network not in self._features:
            self._features[network] = network(from_uint8(self.pixels))
        return self._features[network]


@dataclass(frozen=True)
class TranslatedImages:
    """A batch of inputs and outputs, from which scores per image are computed.

    Attributes:
        source: the inputs.
        fake: what is scored: their translations, or the inputs returned unchanged.
        networks: feature networks by role.
        truth: ground truth; given to every score that needs it.
        captions: one per image; given to every score that needs them.
    """

    source: DescribedImages
    fake: DescribedImages
    networks: Networks
    truth: DescribedImages | None = None
    captions: Sequence[str] | None = None


@dataclass(frozen=True)
class FeatureSet:
    """Embeddings of a set of images.

    Attributes:
        sample: `(n, D)`, float64: of all images or, beyond `TableMetric.sample_size`, of a fixed sample.
        moments: of all images.
        known_floor: `floor`, where it was computed before.
    """

    sample: Tensor
    moments: Moments
    known_floor: Tensor | None = None

    @cached_property
    def floor(self) -> Tensor:
        """Fréchet distance between two halves of the sample."""
        return frechet_floor(self.sample) if self.known_floor is None else self.known_floor


@dataclass(frozen=True)
class TranslatedSets:
    """The three sets of images of a direction, from which scores of the whole set are computed.

    Attributes:
        real: real images of the target domain.
        source: the inputs.
        fake: what is scored: their translations, or the inputs returned unchanged.
    """

    real: FeatureSet
    source: FeatureSet
    fake: FeatureSet

    @cached_property
    def kernel_distance(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of KID over subsets."""
        return kernel_distance(self.real.sample, self.fake.sample)


@computes("fid")
def fid(sets: TranslatedSets) -> Tensor:
    """Fréchet distance to the real images."""
    return gaussian_distance(sets.real.moments, sets.fake.moments)


@computes("fid_floor")
def fid_floor(sets: TranslatedSets) -> Tensor:
    """Fréchet distance between two halves of the real images."""
    return sets.real.floor


@computes("kid")
def kid(sets: TranslatedSets) -> Tensor:
    """Kernel distance to the real images: its mean over subsets."""
    return sets.kernel_distance[0]


@computes("kid_std")
def kid_std(sets: TranslatedSets) -> Tensor:
    """Standard deviation of the kernel distance over subsets."""
    return sets.kernel_distance[1]


@computes("diversity")
def diversity(sets: TranslatedSets) -> Tensor:
    """Distance to the nearest other output, relative to that of the inputs."""
    return nearest_ratio(sets.source.sample, sets.fake.sample)


@computes("domain_shift")
def shift(sets: TranslatedSets) -> Tensor:
    """Share of the distance between the domains that the translations covered."""
    return domain_shift(sets.real.moments, sets.source.moments, sets.fake.moments)


@computes("structure")
def structure(images: TranslatedImages) -> Tensor:
    """Structure distance of input and output."""
    network = images.networks.structure
    return structure_distance(images.source.keys(network), images.fake.keys(network))


@computes("identity_gap")
def identity_gap(images: TranslatedImages) -> Tensor:
    """Perceptual distance of output and input."""
    network = images.networks.lpips
    return network.distance(images.fake.stages(network), images.source.stages(network))


@computes("psnr_truth")
def psnr_truth(images: TranslatedImages) -> Tensor:
    """PSNR of output and ground truth, dB."""
    assert images.truth is not None
    return psnr(images.fake.pixels, images.truth.pixels)


@computes("lpips_truth")
def lpips_truth(images: TranslatedImages) -> Tensor:
    """Perceptual distance of output and ground truth."""
    assert images.truth is not None
    network = images.networks.lpips
    return network.distance(images.fake.stages(network), images.truth.stages(network))


@computes("caption_similarity")
def caption_similarity(images: TranslatedImages) -> Tensor:
    """Cosine of CLIP's embeddings of output and caption (Hessel et al. 2021, without their factor)."""
    clip = images.networks.clip
    assert clip is not None and images.captions is not None
    return F.cosine_similarity(images.fake.embedding(clip), clip.text_embedding(list(images.captions)), dim=1)
