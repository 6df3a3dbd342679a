"""The set of numbers that a run reports for one direction: the per-direction block of metrics.json."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.fid import frechet_floor, gaussian_distance
from metrics.kid import kernel_distance
from metrics.moments import Moments
from metrics.pixels import as_image, psnr, quantise
from metrics.structure import structure_distance
from metrics.tables import TableMetric
from networks.features import ClipFeatures, FeatureNetwork, load_features

_SCORES = (
    "structure",
    "identity_gap",
    "psnr_truth",
    "lpips_truth",
    "copy_psnr_truth",
    "copy_lpips_truth",
    "caption_similarity",
)


class TranslationMetrics(TableMetric):
    """FID, KID, structure, perceptual distances and diversity of one direction, each image described once.

    Keep it out of any LightningModule's tree.  A network given by the same name for several purposes is built once; to
    share networks between two directions, give the first one's `features`, `structure` and `lpips` to the second.

    Args:
        features: frozen network or name for FID, KID and diversity.
        structure: for the structure distance: "dino", or a convolutional network.
        lpips: for perceptual distances.
        clip: for the similarity of translations and captions, where the task has captions; None leaves it out.
        features_seen_in_training: names of the networks that losses or discriminators used; passed on to the report,
            since a ruler that was trained against flatters.

    Attributes:
        real_ready: whether the real set is complete: true, on all ranks, after the first `compute()` that found one.
    """

    def __init__(
        self,
        features: FeatureNetwork | str = "lite0",
        structure: FeatureNetwork | str = "lite0",
        lpips: FeatureNetwork | str = "lite0",
        clip: ClipFeatures | None = None,
        features_seen_in_training: Sequence[str] = (),
    ) -> None:
        super().__init__()
        built = {name: load_features(name) for name in {features, structure, lpips} if isinstance(name, str)}
        self.features, self.structure, self.lpips = (
            built[network] if isinstance(network, str) else network for network in (features, structure, lpips)
        )
        self.clip = clip
        self.features_seen_in_training = list(features_seen_in_training)
        if self.features.width is None:
            raise ValueError(f"Feature network '{self.features.name}' has no embedding for FID and KID; use 'lite0'.")
        self.add_features("real", self.features.width, kept=True)
        self.add_features("source", self.features.width)
        self.add_features("fake", self.features.width)
        self.add_table("scores", len(_SCORES))
        self.real_ready = False
        self._floor: float | None = None

    @torch.no_grad()
    def update_real(self, reference: Tensor, index: Tensor) -> None:
        """Add real images of the target domain, once per split; `reset()` keeps them.

        Args:
            reference: `(B, 3, H, W)` in [-1, 1].
            index: `(B,)`, places in the reference split.

        Raises:
            RuntimeError: if the real set was already used by a `compute()`; test `real_ready` first.
        """
        if self.real_ready:
            raise RuntimeError("The real set is complete and was computed with; fill it once, while not real_ready.")
        self.add_real(self.features.embedding(as_image(quantise(reference))), index)

    def add_real(self, features: Tensor, index: Tensor) -> None:
        """As `update_real`, from the images' features ``(B, D)``, which `indexed_table("real")` gave elsewhere."""
        self.append("real", index, features)

    def update(
        self,
        source: Tensor,
        fake: Tensor,
        index: Tensor,
        truth: Tensor | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        """Add inputs with their translations.

        Args:
            source: inputs, `(B, 3, H, W)` in [-1, 1].
            fake: their translations, same shape.
            index: `(B,)`, places in the input split, unique over all ranks.
            truth: true counterparts in the target domain, same shape, where the data has them.
            captions: one per image, where the task has them.

        Raises:
            ValueError: if shapes differ or a value is outside [-1, 1].
        """
        if source.shape != fake.shape or (truth is not None and truth.shape != fake.shape):
            raise ValueError(f"Input, translation and truth want one shape, got {source.shape}, {fake.shape}.")
        pictures = [quantise(source), quantise(fake)]
        vectors, keys, stages = zip(*[self._describe(picture) for picture in pictures], strict=True)
        self.append("source", index, vectors[0])
        self.append("fake", index, vectors[1])
        scores = torch.full((len(index), len(_SCORES)), math.nan, device=fake.device)
        scores[:, 0] = structure_distance(keys[0], keys[1])
        scores[:, 1] = self.lpips.distance(stages[1], stages[0])
        if truth is not None:
            true_picture = quantise(truth)
            true_stages = self.lpips.stages(as_image(true_picture))
            for column, who in ((2, 1), (4, 0)):  # the translation, and the input returned unchanged
                scores[:, column] = psnr(pictures[who], true_picture)
                scores[:, column + 1] = self.lpips.distance(stages[who], true_stages)
        if captions is not None and self.clip is not None:
            text = self.clip.text_embedding(list(captions))
            scores[:, 6] = F.cosine_similarity(self.clip.embedding(as_image(pictures[1])), text, dim=1)
        self.append("scores", index, scores)

    def compute(self) -> dict[str, Any]:
        """The block of metrics.json; every number a float, or None where the images are too few for it.

        FID and KID need two images on either side, `fid_floor` four real ones, diversity two inputs that differ.
        Beyond `sample_size` images of a set, KID, `fid_floor` and diversity are of a fixed sample; `kid_images`, there
        only then, is its size.  All else is of all images.
        Lower is better but for PSNR (dB, at most 100), `caption_similarity` (cosine of CLIP's embeddings; Hessel et al.
        2021 without their factor), diversity and `domain_shift`; see `nearest_ratio` and `domain_shift` for these.  The
        truth's and the captions' keys are there only if they were given.
        """
        sets = ("real", "source", "fake")
        real, source, fake = (self.table(name) for name in sets)
        of_real, of_source, of_fake = (self.moments(name) for name in sets)
        means = dict(zip(_SCORES, self.table("scores").nanmean(dim=0), strict=True))
        has_truth = bool(means["psnr_truth"].isfinite())
        kid, kid_std = kernel_distance(real, fake)
        if self._floor is None or not self.real_ready:
            self._floor = _number(frechet_floor(real))
        self.real_ready = len(real) > 0
        report: dict[str, Any] = {
            "fid": _number(gaussian_distance(of_real, of_fake)),
            "fid_features": self.features.name,
            "kid": _number(kid),
            "kid_std": _number(kid_std),
            "n_real": of_real.count,
            "n_fake": of_fake.count,
            "fid_floor": self._floor,
            "structure": _number(means["structure"]),
            "structure_features": self.structure.name,
            "lpips_features": self.lpips.name,
            "identity_gap": _number(means["identity_gap"]),
            "diversity": _number(nearest_ratio(source, fake)),
            "domain_shift": _number(domain_shift(of_real, of_source, of_fake)),
            "features_seen_in_training": list(self.features_seen_in_training),
            "network_hashes": {n.name: n.hash for n in (self.features, self.structure, self.lpips)},
        }
        if means["caption_similarity"].isfinite() and self.clip is not None:
            report["caption_similarity"] = _number(means["caption_similarity"])
            report["network_hashes"] |= {self.clip.name: self.clip.hash}
        if max(of_real.count, of_fake.count) > self.sample_size:
            report["kid_images"] = self.sample_size
        copy: dict[str, float | None] = {
            "fid": _number(gaussian_distance(of_real, of_source)),
            "kid": _number(kernel_distance(real, source)[0]),
        }
        if has_truth:
            for key in ("psnr_truth", "lpips_truth"):
                report[key], copy[key] = _number(means[key]), _number(means[f"copy_{key}"])
        return {**report, "copy_input": copy}

    def per_image(self) -> dict[str, Tensor]:
        """Scores of each translation, ``(n,)`` in the order of the split; nan where there is no truth.

        ``nearest`` and ``nearest_source``: distance of its features, and of its input's, to the nearest other one's,
        both in the sample; nan outside it.
        """
        index, rows = self.indexed_table("scores")
        scores = dict(zip(_SCORES, rows.unbind(dim=1), strict=True))
        left_out = ("copy_",) if self.clip is not None else ("copy_", "caption_")
        found = {name: values for name, values in scores.items() if not name.startswith(left_out)}
        for name, features in (("nearest", "fake"), ("nearest_source", "source")):
            sample, vectors = self.indexed_table(features)
            found[name] = torch.full_like(rows[:, 0], math.nan)
            found[name][torch.isin(index, sample)] = _nearest(vectors)
        return found

    def _describe(self, picture: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Embedding, keys and stages of uint8 pictures, from one pass through each network."""
        image = as_image(picture)
        found = {network: network(image) for network in {self.features, self.structure, self.lpips}}
        return (
            self.features.require("embedding", found[self.features].embedding),
            self.structure.require("keys", found[self.structure].keys),
            self.lpips.require("stages", found[self.lpips].stages),
        )


def domain_shift(real: Moments, source: Moments, fake: Moments) -> Tensor:
    """Share of the way from the inputs' domain to the target's that the translations went, in feature space.

    The projection of the mean step, `mean(fake) - mean(source)`, on `d = mean(real) - mean(source)`, over `|d|^2`.
    0 for copies, 1 where translations arrived; needs no counterparts.  `|d|^2` is freed from what sampling alone adds,
    `tr(S_real) / n + tr(S_source) / m`.

    Args:
        real: of the features of `n` real pictures of the target domain.
        source: of those of the `m` inputs.
        fake: of those of their translations.

    Returns:
        Scalar, float64; nan where the domains differ by less than twice what sampling explains.
    """
    if min(real.count, source.count) < 2:
        return torch.tensor(math.nan)
    step, way = fake.mean - source.mean, real.mean - source.mean
    sampling = sum(side.variance.sum() / side.count for side in (real, source))
    distance = way.square().sum() - sampling
    return (step * way).sum() / distance if distance > sampling else torch.tensor(math.nan)


def nearest_ratio(source: Tensor, fake: Tensor) -> Tensor:
    """Mean distance of an output's features to the nearest other output's, relative to the inputs'.

    0 when every output has a twin, be it one picture for all or a few that take turns (whose variance would look
    healthy); 1 when outputs differ as the inputs do.

    Args:
        source: features of the inputs, `(m, D)`.
        fake: of their translations, `(m, D)`.

    Returns:
        Scalar, float64; nan below two rows, or where the inputs do not differ.
    """
    return _nearest(fake).mean() / _nearest(source).mean()


def _nearest(rows: Tensor, chunk: int = 1024) -> Tensor:
    """Distance of each row to the nearest other one, ``(n,)``; nan below two rows."""
    if len(rows) < 2:
        return rows.new_full((len(rows),), math.nan)
    nearest = []
    for first in range(0, len(rows), chunk):  # all distances of a large test split at once would take gigabytes
        distance = torch.cdist(rows[first : first + chunk], rows)
        distance.diagonal(first).fill_(math.inf)
        nearest.append(distance.amin(dim=1))
    return torch.cat(nearest)


def _number(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None
