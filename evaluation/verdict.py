"""The verdict of a report: how translations compare with their unchanged inputs, in words."""

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any, Literal

from evaluation.gallery import Record
from metrics.scores import SCORES, Score

FEW = 50  # images, below which scores of the whole set are mostly noise
CLEAR = 0.05  # relative difference of two FIDs below which neither counts as better; FID has no error of its own here
FAILED = {"saturated": "blown out", "near-duplicate": "near-duplicates", "copy": "copies of the input"}

Outcome = Literal["better", "worse", "no clear difference", "too few images"]


def verdict(block: Mapping[str, Any], records: Sequence[Record], failed: Mapping[str, int]) -> list[str]:
    """Sentences about one direction.

    Args:
        block: the direction's of metrics.json.
        records: its images.
        failed: number of images by kind of failure, see `evaluation.gallery.FAILURES`.
    """
    copied = block.get("copy_input") or {}
    compared = [score for score in SCORES.values() if score.better and score.of_input]
    names: dict[Outcome, list[str]] = {}
    missing = []
    for score in compared:
        if block.get(score.name) is None or copied.get(score.name) is None:
            missing.append(_short(score))
        else:
            names.setdefault(_outcome(score, block, copied, records), []).append(_short(score))
    parts = [
        f"{word} than copying the input by {_listed(names[word])}" for word in ("better", "worse") if word in names
    ]
    if "no clear difference" in names:
        parts.append(f"no clear difference to copying by {_listed(names['no clear difference'])}")
    sentences = [_sentence("; ".join(parts))] if parts else []
    if "too few images" in names:
        number = min(block["n_fake"], block["n_real"])
        sentences.append(f"{_listed(names['too few images'])} of {number} images are mostly noise: not judged.")
    if missing:
        sentences.append(f"Not compared with copying, since not measured: {_listed(missing)}.")
    found = [f"{number} of {len(records)} images {FAILED[kind]}" for kind, number in failed.items() if number]
    sentences.append(_sentence("; ".join(found) or "no image blown out, copied or nearly the same as another"))
    return sentences


def _outcome(score: Score, block: Mapping[str, Any], copied: Mapping[str, float], records: Sequence[Record]) -> Outcome:
    """A difference counts where it is above twice the standard error, for FID above 5 %."""
    own, other = block[score.name], copied[score.name]
    values = [record.scores[score.name] for record in records if score.name in record.scores]
    if score.per_image:
        error = 2 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    elif min(block["n_fake"], block["n_real"]) < FEW:
        return "too few images"
    elif score.name == "kid":
        error = 2 * (block.get("kid_std") or 0.0)
    else:
        error = CLEAR * max(abs(own), abs(other))
    if abs(own - other) <= error:
        return "no clear difference"
    return "better" if (own < other) == (score.better == "lower") else "worse"


def _short(score: Score) -> str:
    return score.heading.removesuffix(" to truth")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
