"""Kernel distance between two sets of features (KID; Binkowski et al. 2018, Sec. 4): unbiased at any sample size."""

import torch
from torch import Tensor

from metrics.pixels import as_image, quantise
from metrics.tables import TableMetric
from networks.features import FeatureNetwork, load_features


def polynomial_mmd(real: Tensor, fake: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel `(x.y / D + 1)^3`.

    Args:
        real: `(n, D)`, `n` at least 2.
        fake: `(m, D)`, `m` at least 2.

    Returns:
        Scalar, float64; lower is closer; 0 in expectation for equal distributions, so it may be negative.
    """
    real, fake = real.double(), fake.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[1] + 1) ** 3

    def within(rows: Tensor) -> Tensor:  # mean over pairs of different images
        k = kernel(rows, rows)
        return (k.sum() - k.diagonal().sum()) / (len(rows) * (len(rows) - 1))

    return within(real) + within(fake) - 2 * kernel(real, fake).mean()


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `polynomial_mmd` over seeded random subsets of both sets.

    Subsets have `subset_size` images or, in smaller sets, half of the smaller one (at least 2): subsets as large as
    the set would all be the same and hide how uncertain the number is.

    Args:
        real: `(n, D)`, in an order that does not depend on ranks.
        fake: `(m, D)`, likewise.
        subsets: number of subsets.
        subset_size: images in each, at most.
        seed: of the subsets; the same ones are drawn each time, so that two checkpoints differ by their images only.

    Returns:
        Two scalars, float64, both nan where `n` or `m` is below 2.
    """
    smaller = min(len(real), len(fake))
    if smaller < 2:
        nan = torch.tensor(float("nan"), dtype=torch.float64)
        return nan, nan.clone()
    size = min(subset_size, max(2, smaller // 2))
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)]

    values = torch.stack([polynomial_mmd(draw(real), draw(fake)) for _ in range(subsets)])
    return values.mean(), values.std(correction=0)


class KernelDistance(TableMetric):
    """KID of translated against real images; lower is better.  To be preferred to FID below some thousand images.

    Of a fixed sample of either set beyond `sample_size` images; see `TableMetric`.  The real set is kept across
    `reset()`; an image given twice (same index) counts once.

    Args:
        features: frozen network or name; "inception" gives KID proper, any other its own scale.
        subsets: see `kernel_distance`.
        subset_size: see `kernel_distance`.
    """

    def __init__(
        self, features: FeatureNetwork | str = "inception", subsets: int = 100, subset_size: int = 1000
    ) -> None:
        super().__init__()
        self.features = load_features(features) if isinstance(features, str) else features
        self.subsets, self.subset_size = subsets, subset_size
        width = self.features.width or 0
        self.add_features("real", width, kept=True)
        self.add_features("fake", width)

    def update(self, image: Tensor, index: Tensor, real: bool) -> None:
        """Add images `(B, 3, H, W)` in [-1, 1], `index` `(B,)` their places in their split, to the real or fake set."""
        self.append("real" if real else "fake", index, self.features.embedding(as_image(quantise(image))))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean, which may be negative, and spread, float64 scalars; nan where either set has fewer than two images."""
        return kernel_distance(self.table("real"), self.table("fake"), self.subsets, self.subset_size)
