"""Scores the translations of a test split outside of training: what `make evaluate` runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.batches import Direction, EvaluationBatch, Translation
from evaluation.compare import differences
from evaluation.gallery import Gallery, Record
from evaluation.protocol import EvaluationData
from evaluation.scorer import Scorer
from metrics.scores import read_metrics

# Figures of a training in metrics.json that an evaluation cannot measure.
OF_TRAINING = ("batches", "wall_s", "seconds_per_batch", "peak_memory_mb")


def evaluate(
    scorer: Scorer,
    data: EvaluationData,
    directions: Sequence[Direction],
    translate: Callable[[EvaluationBatch], Tensor],
    device: torch.device,
    training_features: Sequence[str] = (),
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Record]]]:
    """Translate and score the test split.

    Args:
        scorer: computes the scores.
        data: whose test split.
        directions: those to evaluate; others of the data are left out.
        translate: the translations of a batch, `(B, 3, H, W)` in [-1, 1].
        device: where to translate and score.
        training_features: names of the feature networks that training used.

    Returns:
        The per-direction blocks of metrics.json, and the images with their scores by direction.
    """
    scorer.start(data, "test", directions, training_features, device)
    galleries = {direction: Gallery() for direction in directions}
    for direction, loader in zip(data.directions, data.test_dataloader(), strict=True):
        if direction not in galleries:
            continue
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=None):
            truth = None if batch.truth is None else batch.truth.to(device)
            batch = replace(batch, real=batch.real.to(device), truth=truth)
            fake = translate(batch)
            done = Translation(direction, batch.real, fake, batch.index, batch.names, batch.truth, batch.captions)
            scorer.update(done)
            galleries[direction].add(done)
    blocks = scorer.finish()
    return blocks, {d: gallery.records(scorer.per_image(d)) for d, gallery in galleries.items()}


def with_training_figures(file: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """The report, preceded by what only training measures, from the metrics.json that it will replace.

    Figures of another state are dropped.  The run's best state stays only where it was measured in the same way.

    Args:
        file: the metrics.json; need not be there.
        report: the new content.
    """
    old = read_metrics(file) if file.is_file() else {}
    if old.get("images_seen") is None or old["images_seen"] != report.get("images_seen"):
        return dict(report)
    figures = {key: old[key] for key in OF_TRAINING if key in old}
    best = old.get("best")
    measured = [d for d in ("a2b", "b2a") if best and d in best]
    if best and not any(differences(best[d], report.get(d, {})) for d in measured):
        figures["best"] = best
    return {**figures, **report}
