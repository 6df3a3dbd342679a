"""The table of ``make bench-base``: means over seeds, and whether the pretrained base beats its baselines."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

from evaluation.compare import differences
from metrics.scores import SCORES, formatted, markdown_table

Key = tuple[str, str, int]  # task, model, seed
# The columns of this benchmark and of its committed results, whatever else metrics.json holds.
COLUMNS = ("fid", "kid", "lpips_truth", "psnr_truth", "structure", "fid_floor")
COPIED = tuple(name for name in COLUMNS if SCORES[name].of_input)


def build_report(
    finished: Mapping[Key, Mapping[str, Any]], command: str, images: int | None, seeds: int, failures: Mapping[str, str]
) -> dict[str, Any]:
    """Content of the table, as plain JSON types.

    Args:
        finished: metrics.json of each finished run.
        command: the command line.
        images: training images of pocket and random; None for the number in each task's recipe.
        seeds: planned runs of each.
        failures: run folder => reason of its failure.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for (task, model, _), metrics in finished.items():
        for direction in ("a2b", "b2a"):
            if direction in metrics:
                groups.setdefault((task, direction, model), []).append(metrics)
    rows = [_row(*key, found) for key, found in groups.items()]
    mismatches = {
        f"{task} seed {seed} {direction}, {model}: {difference}"
        for (task, model, seed), metrics in finished.items()
        for direction in ("a2b", "b2a")
        if direction in metrics and direction in finished.get((task, "pocket", seed), {})
        for difference in differences(finished[task, "pocket", seed][direction], metrics[direction])
    }
    tasks = dict.fromkeys(task for task, _, _ in finished)
    some = next(iter(finished.values()), {})
    return {
        "command": command,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "versions": some.get("versions", {}),
        "images": images,
        "seeds": seeds,
        "placeholders": sorted({name for metrics in finished.values() for name in metrics.get("placeholders", [])}),
        "rows": rows,
        "verdicts": [verdict(task, rows) for task in tasks],
        "mismatches": sorted(mismatches),
        "failures": dict(failures),
    }


def _row(task: str, direction: str, model: str, found: list[Mapping[str, Any]]) -> dict[str, Any]:
    blocks = [metrics[direction] for metrics in found]
    return {
        "task": task,
        "direction": direction,
        "model": model,
        "n": len(found),
        "features": {name: blocks[0].get(f"{name}_features") for name in ("fid", "lpips", "structure")},
        "pictures": blocks[0].get("n_fake"),
        **{name: _summary([block.get(name) for block in blocks]) for name in COLUMNS},
        "copy_input": {name: _summary([block["copy_input"].get(name) for block in blocks]) for name in COPIED},
        "images": _summary([metrics["images_seen"] for metrics in found]),
        "seconds": _summary([metrics["wall_s"] for metrics in found]),
    }


def _summary(values: list[float | None]) -> dict[str, Any] | None:
    """Mean, extremes and the values themselves; None where a run lacks the figure."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return {"mean": sum(known) / len(known), "min": min(known), "max": max(known), "values": known}


def verdict(task: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether pocket's FID is at most half of random's and below resnet's, in every direction; None if not known.

    ``to_copy``: pocket's FID and LPIPS to the ground truth as shares of what returning the input unchanged scores.
    """
    fids: dict[str, dict[str, float]] = {}
    to_copy: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["task"] == task and row["fid"]:
            fids.setdefault(row["direction"], {})[row["model"]] = row["fid"]["mean"]
        if row["task"] == task and row["model"] == "pocket":
            to_copy[row["direction"]] = {
                name: row[name]["mean"] / row["copy_input"][name]["mean"]
                for name in ("fid", "lpips_truth")
                if row[name] and row["copy_input"][name]
            }

    def holds(baseline: str, share: float, strictly: bool) -> bool | None:
        pairs = [(fid.get("pocket"), fid.get(baseline)) for fid in fids.values()]
        known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        if not known or len(known) < len(pairs):
            return None
        return all(ours < share * theirs if strictly else ours <= share * theirs for ours, theirs in known)

    return {
        "task": task,
        "fid": fids,
        "at_most_half_of_random": holds("random", 0.5, strictly=False),
        "below_resnet": holds("resnet", 1.0, strictly=True),
        "to_copy": to_copy,
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a table in Markdown, with a line per task that compares the models."""
    columns = [*COLUMNS, "images", "seconds"]
    number = report["images"] or "The recipe's"
    lines = [
        f"`{report['command']}`",
        "",
        f"{number} images for pocket and random, pocket's seconds for resnet; n = {report['seeds']} per row "
        f"unless it says otherwise, mean (lowest to highest); {report['device']}, {report['threads']} thread(s). "
        "Lower is better but for PSNR.",
        "",
    ]
    if report["placeholders"]:
        lines += [f"PLACEHOLDER: {' and '.join(report['placeholders'])}. These figures say nothing.", ""]
    if report["mismatches"]:
        lines += ["NOT COMPARABLE, measured differently from pocket:", *(f"- {m}" for m in report["mismatches"]), ""]
    rows = []
    for (task, direction), group in _by_direction(report["rows"]).items():
        for row in group:
            note = f" (n = {row['n']})" if row["n"] != report["seeds"] else ""
            rows.append([f"{task} {direction}", f"{row['model']}{note}", *(_cell(row[c]) for c in columns)])
        copied = group[0]["copy_input"]
        rows.append([f"{task} {direction}", "copy of the input", *(_cell(copied.get(c)) for c in columns)])
    headings = ["task", "model", *(SCORES[name].heading for name in COLUMNS), "images", "seconds"]
    lines += [markdown_table(headings, rows), "", *(_sentence(v) for v in report["verdicts"])]
    lines += [f"- no figures from {folder}: {why}" for folder, why in report["failures"].items()]
    return "\n".join(lines) + "\n"


def _by_direction(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["direction"]), []).append(row)
    return groups


def _cell(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "-"
    mean, low, high = (formatted(summary[key]) for key in ("mean", "min", "max"))
    return mean if len(summary["values"]) == 1 else f"{mean} ({low} to {high})"


def _sentence(found: Mapping[str, Any]) -> str:
    figures = "; ".join(
        f"{direction} " + ", ".join(f"{model} {fid:.4g}" for model, fid in fids.items())
        for direction, fids in found["fid"].items()
    )
    answers = {True: "yes", False: "NO", None: "not known"}
    shares = "; ".join(
        f"{direction} " + ", ".join(f"{SCORES[name].heading} {share:.2f}" for name, share in known.items())
        for direction, known in found["to_copy"].items()
    )
    return (
        f"- {found['task']}: pocket's FID at most half of random's: {answers[found['at_most_half_of_random']]}; "
        f"below resnet's: {answers[found['below_resnet']]} ({figures})"
        + (f"; of what a copy scores: {shares}" if shares else "")
    )
