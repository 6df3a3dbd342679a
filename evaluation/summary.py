"""The scores of a metrics.json in a few lines for the terminal."""

from collections.abc import Mapping
from typing import Any

from evaluation.edits import edit_text
from metrics.scores import formatted, network_of, shown_in


def summary(metrics: Mapping[str, Any]) -> str:
    """A line per direction, with the network behind each score; the best state's lines below the last state's.

    Images that training skipped come last.
    """
    best = metrics.get("best")
    lines = _lines("last " if best else "", metrics)
    if best:
        same = ", the last state" if best.get("is_last") else ""
        lines.append(f"best, by validation: {best['checkpoint']} after {best['images_seen']} images{same}")
        lines += _lines("best ", best)
    skipped = metrics.get("skipped_images", {})
    lines += [f"skipped in {number} draws of training: {message}" for message, number in skipped.items()]
    return "\n".join(lines)


def _lines(state: str, metrics: Mapping[str, Any]) -> list[str]:
    found = [d for d in ("a2b", "b2a") if d in metrics]
    edits = [edit_text(metrics[d]["by_kind"]) for d in found if metrics[d].get("by_kind")]
    return [f"{state}{d}: {_scores(metrics[d])}" for d in found] + edits


def _scores(block: Mapping[str, Any]) -> str:
    copied = block.get("copy_input") or {}
    parts = []
    for score in shown_in("terminal"):
        network = network_of(score, block)
        value = f"{score.heading}{f' ({network})' if network else ''} {formatted(block.get(score.name))}"
        unchanged = f" (input unchanged {formatted(copied[score.name])})" if score.name in copied else ""
        parts.append(f"{value}{f' {score.unit}' if score.unit else ''}{unchanged}")
    return "  ".join([*parts, f"{block['n_fake']} images against {block['n_real']}"])
