"""Runs side by side in one table, where they were measured by the same protocol."""

from typing import Any

SCORES = ("fid", "fid_floor", "kid", "structure", "lpips_truth", "psnr_truth", "identity_gap", "diversity")
# Beside metrics.json's "protocol": numbers of images and networks.
DECIDE = ("n_fake", "n_real", "fid_features", "structure_features", "lpips_features", "network_hashes")
# Of "protocol": what is told and refuses nobody; the numbers and digests beside it decide.
TOLD = ("direction", "reference_folder", "networks", "seed", "versions")


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per run and direction, those of a direction together, and what returning the input scores.

    Args:
        found: content of metrics.json by name.

    Raises:
        ValueError: two runs have no direction in common, or were measured differently.
    """
    directions = [d for d in ("a2b", "b2a") if all(d in metrics for metrics in found.values())]
    if not directions:
        raise ValueError("These runs have no direction in common.")
    first = next(iter(found))
    lines = ["| direction | run | base | images | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 4) + "|"]
    for direction in directions:
        for name, metrics in found.items():
            differs = differences(found[first][direction], metrics[direction])
            if differs:
                raise ValueError(
                    f"{first} and {name} were measured differently and cannot be compared ({direction}): "
                    f"{'; '.join(differs)}. Measure both anew: make evaluate CKPT=... DATA=..."
                )
            cells = " | ".join(_cell(metrics[direction], score) for score in SCORES)
            seen = metrics.get("images_seen")
            lines.append(f"| {direction} | {name} | {metrics.get('base', '-')} | {seen or '-'} | {cells} |")
        copied = found[first][direction].get("copy_input") or {}
        cells = " | ".join(_cell(copied, score) for score in SCORES)
        lines.append(f"| {direction} | input unchanged | - | - | {cells} |")
    block = found[first][directions[0]]
    networks = ", ".join(f"{name} {digest}" for name, digest in block["network_hashes"].items())
    decisive = {key: value for key, value in block["protocol"].items() if key not in TOLD and value is not None}
    said = "; ".join(f"{key} {value}" for key, value in decisive.items())
    lines += ["", f"FID and KID by {block['fid_features']}. Protocol: {said}; networks {networks}."]
    protocols = {name: metrics[directions[0]]["protocol"] for name, metrics in found.items()}
    versions = {name: protocol.get("versions", "not known") for name, protocol in protocols.items()}
    if len(set(versions.values())) > 1:
        lines += ["Measured with different versions:", *(f"- {name}: {said}" for name, said in versions.items())]
    return "\n".join(lines)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What sets two measurements of a direction apart, a phrase each."""
    pairs = [(key, one.get(key), other.get(key)) for key in DECIDE]
    said = [block.get("protocol", {}) for block in (one, other)]
    keys = [key for key in dict.fromkeys([*said[0], *said[1]]) if key not in TOLD]
    pairs += [(key, said[0].get(key), said[1].get(key)) for key in keys]
    return [f"{key}: {a} and {b}" for key, a, b in pairs if a != b]


def _cell(block: dict[str, Any], score: str) -> str:
    value = block.get(score)
    return "-" if value is None else f"{value:.4g}"
