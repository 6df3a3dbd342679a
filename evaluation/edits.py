"""Scores by kind of edit: distance to the truth, success in what was asked for, preservation of all else.

Success and preservation are read by linear probes on the features of FID, trained on scenes of known attributes; the
rate at which the same probes read them off the true images stands beside.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.batches import Asked
from evaluation.protocol import Stage
from metrics.functions import DescribedImages
from metrics.probe import attributes_of
from metrics.scores import formatted, markdown_table
from metrics.translation import TranslationMetrics

SCENES = 40  # of each place, in all their states, that the probes are trained on
BATCH = 16  # images described at once
OVERALL = "all changes"
PER_IMAGE = ("lpips_truth", "psnr_truth", "identity_gap", "caption_similarity")
COLUMNS = {
    "n": "images",
    "lpips_truth": "LPIPS to truth",
    "copy_lpips_truth": "LPIPS, input to truth",
    "psnr_truth": "PSNR to truth",
    "copy_psnr_truth": "PSNR, input to truth",
    "success": "success",
    "success_truth": "success, true images",
    "preserved": "preserved",
    "preserved_truth": "preserved, true images",
    "identity_gap": "LPIPS to input",
    "caption_similarity": "caption similarity",
}


@runtime_checkable
class EditData(Protocol):
    """Protocol of data whose captions ask for different things."""

    def asked(self, stage: Stage) -> Sequence[Asked]:
        """What each caption of a split asks for; empty where nobody knows."""

    def labelled(self, scenes: int) -> Iterable[tuple[Mapping[str, str], Tensor]]:
        """Images of known attributes, which are in no split; none where the data has no attributes."""


class EditScores:
    """Computes scores by kind of edit; the probes' images are rendered and described once.

    Args:
        data: knows what was asked for.
    """

    def __init__(self, data: EditData) -> None:
        self.data = data
        self._described: tuple[list[Mapping[str, str]], Tensor] | None = None

    def compute(self, stage: Stage, metrics: TranslationMetrics) -> dict[str, Any]:
        """The part of a direction's block of metrics.json that tells scores by kind; every rank must call it.

        Args:
            stage: the split.
            metrics: of all its images, each with one ground truth.

        Returns:
            `by_kind`: scores by kind, and of all images that should change; `edit_success` and `edit_preserved`: rates
            in [0, 1] of the latter, where attributes are known.
        """
        asked = self.data.asked(stage)
        if not asked:
            return {}
        with metrics.sync_context():
            rows = _scores_per_image(metrics) | self._read_off(asked, metrics)
            evaluated = metrics.indexed_table("scores")[0].tolist()  # not all of the split, where batches are limited
        groups: dict[str, list[int]] = {}
        for place, k in enumerate(evaluated):
            groups.setdefault(asked[k].kind, []).append(place)
        if changes := [place for place, k in enumerate(evaluated) if asked[k].is_change]:
            groups[OVERALL] = changes
        by_kind = {
            kind: {"n": len(places)} | _known({name: float(row[places].nanmean()) for name, row in rows.items()})
            for kind, places in groups.items()
        }
        overall = by_kind.get(OVERALL, {})
        rates = {f"edit_{name}": overall[name] for name in ("success", "preserved") if name in overall}
        return {**rates, "by_kind": by_kind}

    def _read_off(self, asked: Sequence[Asked], metrics: TranslationMetrics) -> dict[str, Tensor]:
        """Success and preservation of each image and of its truth, 0 or 1; NaN where nothing is known of it.

        Each `(n,)`, of the images that were evaluated, in the order of the split.
        """
        if self._described is None:
            self._described = self._describe(metrics)
        labels, train = self._described
        if not labels:
            return {}
        evaluated = metrics.indexed_table("scores")[0].tolist()
        rates = {}
        tables = [metrics.indexed_table(name) for name in ("fake", "real")]  # of many images a sample
        read = attributes_of(train, labels, torch.cat([features for _, features in tables]).cpu())
        for suffix, (index, _), first in zip(("", "_truth"), tables, (0, len(tables[0][0])), strict=True):
            row_of = {k: row for row, k in enumerate(index.tolist(), first)}
            for name, wanted in (("success", "change"), ("preserved", "keep")):
                rate = torch.full((len(evaluated),), torch.nan, dtype=torch.float64)
                for place, k in enumerate(evaluated):
                    values: Mapping[str, str] = getattr(asked[k], wanted)
                    if values and k in row_of:
                        shown = (read[attribute][row_of[k]] == value for attribute, value in values.items())
                        rate[place] = float(all(shown))
                rates[f"{name}{suffix}"] = rate
        return rates

    def _describe(self, metrics: TranslationMetrics) -> tuple[list[Mapping[str, str]], Tensor]:
        """Attributes of the probes' images, and their embeddings `(N, D)`."""
        labels: list[Mapping[str, str]] = []
        parts = []
        labelled = iter(self.data.labelled(SCENES))
        while some := list(itertools.islice(labelled, BATCH)):
            labels += [values for values, _ in some]
            images = torch.stack([image for _, image in some]).to(metrics.device)
            parts.append(DescribedImages(images).embedding(metrics.features).cpu())
        return labels, torch.cat(parts) if parts else torch.empty(0)


def edit_table(by_kind: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of scores by kind, without columns that no kind has."""
    used = [name for name in COLUMNS if any(name in scores for scores in by_kind.values())]
    cells = [[kind, *(formatted(scores.get(name)) for name in used)] for kind, scores in by_kind.items()]
    return ["edit", *(COLUMNS[name] for name in used)], cells


def edit_text(by_kind: Mapping[str, Mapping[str, float]]) -> str:
    """The table of scores by kind, in Markdown."""
    return markdown_table(*edit_table(by_kind))


def _scores_per_image(metrics: TranslationMetrics) -> dict[str, Tensor]:
    found = {name: row for name, row in metrics.per_image().items() if name in PER_IMAGE}
    copies = {f"copy_{name}": row for name, row in metrics.of_inputs().items() if name in PER_IMAGE}
    return {name: row.cpu() for name, row in (found | copies).items()}


def _known(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if value == value}
