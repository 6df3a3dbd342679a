"""All scores of one translation direction: the per-direction block of metrics.json."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metrics.diversity import nearest_distances
from metrics.functions import (
    DescribedImages,
    FeatureSet,
    Networks,
    TranslatedImages,
    TranslatedSets,
)
from metrics.scores import FUNCTIONS, SCORES, Score
from metrics.tables import TableMetric
from networks.features import ClipFeatures, FeatureNetwork, load_features

# The order of keys in metrics.json; scores that are not listed follow.
KEY_ORDER = (
    *("fid", "fid_features", "kid", "kid_std", "n_real", "n_fake", "fid_floor"),
    *("structure", "structure_features", "lpips_features", "identity_gap", "diversity", "domain_shift"),
    *("features_seen_in_training", "network_hashes", "caption_similarity", "kid_images", "psnr_truth", "lpips_truth"),
)


class TranslationMetrics(TableMetric):
    """Computes every score of the registry for one direction; each image runs through each feature network once.

    Keep it out of any LightningModule's tree.  A network given by the same name for several roles is built once; to
    share networks between two directions, give the first one's `networks` to the second.

    Args:
        features: frozen network, or its name, of FID, KID, diversity and domain shift.
        structure: of the structure distance: "dino", or a convolutional network.
        lpips: of perceptual distances.
        clip: of the similarity of translations and captions, where the task has captions; None leaves it out.
        features_seen_in_training: names of the networks that losses or discriminators used; passed on to the report,
            since scores on a network that was trained against are too good.

    Attributes:
        networks: the feature networks by role.
        scores: the scores that are computed: all that were in the registry when this was built.
        real_ready: whether the real set is complete: true, on all ranks, after the first `compute()` that found one.

    Raises:
        ValueError: `features` yields no embedding.
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
        # separate attributes, since `.to(device)` reaches modules only
        self.features, self.structure, self.lpips = (
            built[network] if isinstance(network, str) else network for network in (features, structure, lpips)
        )
        self.clip = clip
        self.networks = Networks(self.features, self.structure, self.lpips, clip)
        self.features_seen_in_training = list(features_seen_in_training)
        width = self.features.width
        if width is None:
            raise ValueError(f"Feature network '{self.features.name}' has no embedding for FID and KID; use 'lite0'.")
        self.scores = tuple(score for score in SCORES.values() if score.needs != "edits")
        # columns of the table of scores per image: of the translations, then of the inputs returned unchanged
        each = [score for score in self.scores if score.per_image]
        self._columns = [(score, False) for score in each] + [(score, True) for score in each if score.of_input]
        self.add_features("real", width, survives_reset=True)
        self.add_features("source", width)
        self.add_features("fake", width)
        self.add_table("scores", len(self._columns))
        self.real_ready = False
        self._floor: Tensor | None = None

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
        self.add_real(DescribedImages(reference).embedding(self.features), index)

    def add_real(self, features: Tensor, index: Tensor) -> None:
        """Add real images as `update_real` does, from features `(B, D)` of another `indexed_table("real")`."""
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
            truth: ground truth in the target domain, same shape, where the data has it.
            captions: one per image, where the task has them.

        Raises:
            ValueError: if shapes differ or a value is outside [-1, 1].
        """
        if source.shape != fake.shape or (truth is not None and truth.shape != fake.shape):
            raise ValueError(f"Input, translation and ground truth need one shape, got {source.shape}, {fake.shape}.")
        inputs = DescribedImages(source)
        outputs = TranslatedImages(
            inputs,
            DescribedImages(fake),
            self.networks,
            None if truth is None else DescribedImages(truth),
            captions,
        )
        copies = replace(outputs, fake=inputs)
        self.append("source", index, inputs.embedding(self.features))
        self.append("fake", index, outputs.fake.embedding(self.features))
        rows = torch.full((len(index), len(self._columns)), math.nan, device=fake.device)
        for column, (score, of_input) in enumerate(self._columns):
            if self._can_compute(score, outputs):
                rows[:, column] = FUNCTIONS[score.name](copies if of_input else outputs)
        self.append("scores", index, rows)

    def _can_compute(self, score: Score, images: TranslatedImages) -> bool:
        """Whether data and networks have what a score per image needs."""
        given = {"truth": images.truth, "captions": images.captions}
        has_data = score.needs is None or given[score.needs] is not None
        return has_data and (score.network != "clip" or self.clip is not None)

    def compute(self) -> dict[str, Any]:
        """The block of metrics.json; every number a float, or None where the images are too few for it.

        FID and KID need two images on either side, `fid_floor` four real ones, diversity two inputs that differ.
        Beyond `sample_size` images of a set, KID, `fid_floor` and diversity are of a fixed sample; `kid_images`, there
        only then, is its size.  All else is of all images.  Scores that need ground truth or captions are there only
        if these were given.
        """
        real, source, fake = (FeatureSet(self.table(name), self.moments(name)) for name in ("real", "source", "fake"))
        if self.real_ready:
            real = replace(real, known_floor=self._floor)
        outputs, copies = TranslatedSets(real, source, fake), TranslatedSets(real, source, source)
        means = dict(zip(self._columns, self.table("scores").nanmean(dim=0), strict=True))
        report: dict[str, Any] = {
            "fid_features": self.features.name,
            "structure_features": self.structure.name,
            "lpips_features": self.lpips.name,
            "n_real": real.moments.count,
            "n_fake": fake.moments.count,
            "features_seen_in_training": list(self.features_seen_in_training),
            "network_hashes": {network.name: network.hash for network in (self.features, self.structure, self.lpips)},
        }
        if max(real.moments.count, fake.moments.count) > self.sample_size:
            report["kid_images"] = self.sample_size
        copied: dict[str, float | None] = {}
        for score in self.scores:
            value = means[score, False] if score.per_image else FUNCTIONS[score.name](outputs)
            if score.needs is not None and not value.isfinite():
                continue
            report[score.name] = _number(value)
            if score.of_input:
                copied[score.name] = _number(means[score, True] if score.per_image else FUNCTIONS[score.name](copies))
            if score.network == "clip" and self.clip is not None:
                report["network_hashes"] |= {self.clip.name: self.clip.hash}
        self._floor, self.real_ready = real.floor, len(real.sample) > 0
        return {**_in_order(report), "copy_input": _in_order(copied)}

    def of_inputs(self) -> dict[str, Tensor]:
        """Scores of each input returned unchanged, like `per_image`."""
        rows = self.table("scores").unbind(dim=1)
        return {score.name: row for (score, of_input), row in zip(self._columns, rows, strict=True) if of_input}

    def per_image(self) -> dict[str, Tensor]:
        """Scores of each translation, `(n,)` in the order of the split; NaN where it lacks ground truth or captions.

        `nearest` and `nearest_source`: distance of its features, and of its input's, to the nearest other one's, both
        in the sample; NaN outside it.
        """
        index, rows = self.indexed_table("scores")
        columns = dict(zip(self._columns, rows.unbind(dim=1), strict=True))
        found = {
            score.name: columns[score, False]
            for score in self.scores
            if score.per_image and (score.network != "clip" or self.clip is not None)
        }
        for name, features in (("nearest", "fake"), ("nearest_source", "source")):
            sample, vectors = self.indexed_table(features)
            found[name] = torch.full_like(rows[:, 0], math.nan)
            found[name][torch.isin(index, sample)] = nearest_distances(vectors)
        return found


def _in_order(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in KEY_ORDER if key in found} | found


def _number(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None
