"""Runs side by side in one table, if they were measured by the same protocol."""

from collections.abc import Iterable, Mapping
from typing import Any

from metrics.scores import NETWORK_KEYS, Score, formatted, markdown_table, shown_in

Metrics = Mapping[str, Any]  # content of a metrics.json, or the block of a direction
# Numbers and networks that must be equal, beside metrics.json's "protocol".
DECISIVE = ("n_fake", "n_real", *NETWORK_KEYS.values(), "network_hashes")
# Keys of "protocol" that are shown only: numbers and digests beside them tell whether runs can be compared.
SHOWN_ONLY = ("direction", "reference_folder", "networks", "seed", "versions")


def table(runs: Mapping[str, Metrics]) -> str:
    """Markdown: per direction a row per run, and one with the scores of the input returned unchanged.

    Args:
        runs: content of metrics.json by name of the run.

    Raises:
        ValueError: the runs have no direction in common, or were measured differently.
    """
    directions = [d for d in ("a2b", "b2a") if all(d in metrics for metrics in runs.values())]
    if not directions:
        raise ValueError("These runs have no direction in common.")
    first = next(iter(runs))
    scores = shown_in("compare", [metrics[direction] for metrics in runs.values() for direction in directions])
    rows = []
    for direction in directions:
        for name, metrics in runs.items():
            differs = differences(runs[first][direction], metrics[direction])
            if differs:
                raise ValueError(
                    f"{first} and {name} were measured differently and cannot be compared ({direction}): "
                    f"{'; '.join(differs)}. Evaluate both again in the same way."
                )
            seen = metrics.get("images_seen") or "-"
            rows.append([direction, name, metrics.get("base", "-"), str(seen), *_cells(metrics[direction], scores)])
        copied = runs[first][direction].get("copy_input") or {}
        rows.append([direction, "input unchanged", "-", "-", *_cells(copied, scores)])
    headings = ["direction", "run", "base", "images", *(score.name for score in scores)]
    return "\n".join([markdown_table(headings, rows), "", *_how_measured(runs, directions[0])])


def differences(one: Metrics, other: Metrics) -> list[str]:
    """List the differences in how two blocks of a direction were measured, a phrase each."""
    pairs = [(key, one.get(key), other.get(key)) for key in DECISIVE]
    protocols = [block.get("protocol", {}) for block in (one, other)]
    keys = [key for key in dict.fromkeys([*protocols[0], *protocols[1]]) if key not in SHOWN_ONLY]
    pairs += [(key, protocols[0].get(key), protocols[1].get(key)) for key in keys]
    return [f"{key}: {a} and {b}" for key, a, b in pairs if a != b]


def _cells(block: Metrics, scores: Iterable[Score]) -> list[str]:
    return [formatted(block.get(score.name)) for score in scores]


def _how_measured(runs: Mapping[str, Metrics], direction: str) -> list[str]:
    """Lines below the table: networks, protocol, and the versions where they differ."""
    block = next(iter(runs.values()))[direction]
    networks = ", ".join(f"{name} {digest}" for name, digest in block["network_hashes"].items())
    decisive = {key: value for key, value in block["protocol"].items() if key not in SHOWN_ONLY and value is not None}
    facts = "; ".join(f"{key} {value}" for key, value in decisive.items())
    lines = [f"FID and KID by {block['fid_features']}. Protocol: {facts}; networks {networks}."]
    protocols = {name: metrics[direction]["protocol"] for name, metrics in runs.items()}
    versions = {name: protocol.get("versions", "not known") for name, protocol in protocols.items()}
    if len(set(versions.values())) > 1:
        lines += ["Measured with different versions:", *(f"- {name}: {listed}" for name, listed in versions.items())]
    return lines
