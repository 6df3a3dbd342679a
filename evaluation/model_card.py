"""What the end of training adds to ``adapter/``: the test split's figures in adapter.json, and a card to read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from networks.checkpoints.adapter import CARD, WEIGHTS
from storage import write_json

# Of metrics.json: what the card shows, and the network that each figure depends on.
FIGURES = {
    "fid": "fid",
    "fid_floor": "fid",
    "kid": "fid",
    "structure": "structure",
    "lpips_truth": "lpips",
    "psnr_truth": None,
}


def finish_adapter(folder: Path, metrics: Mapping[str, Any]) -> str:
    """Complete an adapter with what was measured.

    Args:
        folder: holds adapter.json and adapter.safetensors.
        metrics: content of metrics.json.

    Returns:
        A line for the screen: where it is and its size.
    """
    card = json.loads((folder / CARD).read_text())
    card["metrics"] = {direction: metrics[direction] for direction in ("a2b", "b2a") if direction in metrics}
    card.pop("best", None)
    if "best" in metrics:
        card["best"] = metrics["best"]
    write_json(folder / CARD, card)
    size = (folder / WEIGHTS).stat().st_size / 2**20
    (folder / "README.md").write_text(readme(card, size))
    return f"adapter: {folder}, {size:.1f} MiB"


def readme(card: Mapping[str, Any], size: float) -> str:
    """The card in Markdown.

    Args:
        card: content of adapter.json, metrics included.
        size: of the weights, MiB.
    """
    sizes = card.get("preprocessing") or {}
    lines = [
        f"# {card.get('experiment', 'adapter')} on {card['base_description']}",
        "",
        f"What {card['task']} training changed of the base ({size:.1f} MiB); the base itself is not in here.",
        "",
        f"- base: {card['base']}, fingerprint {card['base_fingerprint']}",
        f"- data: {card.get('data')}",
        f"- images seen: {card['images_seen']}; preprocessing: {', '.join(f'{k} {v}' for k, v in sizes.items())}",
        f"- training looked at: {', '.join(card['training_features']) or 'no feature network'}",
        *(f"- prompt {direction}: {prompt}" for direction, prompt in card["prompts"].items()),
        f"- {', '.join(f'{name} {number}' for name, number in card['versions'].items())}",
        "",
        "```bash",
        "make translate CKPT=THIS_FOLDER IN=photos OUT=translated",
        "```",
        "",
        "## On the test split",
        "",
        "In brackets what returning the input unchanged scores. Lower is better but for PSNR. "
        + _which(card.get("best")),
        "",
        "| direction | images | " + " | ".join(FIGURES) + " |",
        "|---" * (len(FIGURES) + 2) + "|",
        *_rows(card["metrics"], ""),
        *_rows(card.get("best", {}), ", best state"),
        "",
        "The adapter may be used within the licence of the base that it was trained on.",
    ]
    return "\n".join(lines) + "\n"


def _which(best: Mapping[str, Any] | None) -> str:
    if best is None:
        return "This is the last state of its run."
    if best.get("is_last"):
        return "This is the last state of its run, and the best by validation."
    return (
        f"This is the last state of its run; the best by validation, {best['checkpoint']} after {best['images_seen']} "
        "images, is another."
    )


def _rows(blocks: Mapping[str, Any], state: str) -> list[str]:
    return [
        f"| {direction}{state} | {blocks[direction]['n_fake']} | "
        + " | ".join(_cell(blocks[direction], name, network) for name, network in FIGURES.items())
        + " |"
        for direction in ("a2b", "b2a")
        if direction in blocks
    ]


def _cell(found: Mapping[str, Any], name: str, network: str | None) -> str:
    value, copied = found.get(name), (found.get("copy_input") or {}).get(name)
    if value is None:
        return "-"
    judge = f" {found[f'{network}_features']}" if network else " dB"
    return f"{value:.4g}{judge}" + (f" ({copied:.4g})" if copied is not None else "")
