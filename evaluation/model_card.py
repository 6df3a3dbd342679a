"""Complete ``adapter/`` at the end of training: test scores in adapter.json, and README.md, the hub's model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metrics.scores import Score, formatted, markdown_table, network_of, shown_in
from networks.checkpoints.adapter import WEIGHTS, write_card
from networks.checkpoints.card import AdapterCard
from storage import atomic_write

OWN_BASES = ("pocket", "resnet")
RENDERED = "It was trained on rendered scenes and has not seen a photograph: what it draws looks like those scenes."


def finish_adapter(folder: Path, card: AdapterCard) -> str:
    """Complete an adapter: adapter.json with the scores, and README.md.

    Args:
        folder: holds adapter.json and adapter.safetensors.
        card: of the same state as the tensors, with `metrics` and `best`.

    Returns:
        A line for the terminal: folder and size.
    """
    write_card(folder, card)
    size = (folder / WEIGHTS).stat().st_size / 2**20
    with atomic_write(folder / "README.md") as part:
        part.write_text(readme(card, size))
    return f"adapter: {folder}, {size:.1f} MiB"


def default_licence(base: str | None) -> str:
    """The hub's identifier of an adapter's licence where its author names none.

    Apache-2.0, as this code, for adapters of the packaged base and for plain networks; "other" for those of other
    bases, whose own licence then holds.
    """
    return "apache-2.0" if base in OWN_BASES else "other"


def front_matter(card: AdapterCard, licence: str) -> str:
    """What the hub reads of a model card: YAML between lines of three dashes.

    Args:
        card: of the adapter.
        licence: the hub's identifier.
    """
    base = None if card.base in OWN_BASES else (card.base or "").partition("@")[0]
    method = {"paired": ["pix2pix-turbo"], "unpaired": ["cyclegan-turbo"]}.get(card.run.task or "", [])
    entries = {
        "license": licence,
        **({"license_name": "that-of-the-base"} if licence == "other" else {}),
        **({"license_link": f"https://huggingface.co/{base}"} if licence == "other" and base else {}),
        **({"base_model": base} if base else {}),
        "library_name": "one-step-translation",
        "pipeline_tag": "image-to-image",
        "tags": ["image-translation", "one-step", *method, *([card.run.experiment] if card.run.experiment else [])],
    }
    return f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)}---\n"


def readme(
    card: AdapterCard,
    size: float,
    where: str = "THIS_FOLDER",
    pictures: Sequence[str] = (),
    licence: str | None = None,
) -> str:
    """The card in Markdown.

    Args:
        card: with scores.
        size: of the weights, MiB.
        where: what ``CKPT=`` names it by.
        pictures: files beside it that show translations.
        licence: the hub's identifier of its licence; None takes the usual one.
    """
    run, best = card.run, card.best or {}
    sizes = run.preprocessing or {}
    states: dict[str, Mapping[str, Any]] = {"": card.metrics or {}, ", best state": best}
    blocks = {f"{d}{state}": found[d] for state, found in states.items() for d in ("a2b", "b2a") if found.get(d)}
    lines = [
        front_matter(card, licence or default_licence(card.base)),
        f"# {run.experiment or 'adapter'} on {card.base_description}",
        "",
        f"The weights that {run.task} training changed ({size:.1f} MiB); the base itself is not included.",
        "",
        f"- base: {card.base}, fingerprint {card.base_fingerprint}",
        f"- data: {run.data}",
        f"- images seen: {run.images_seen}; preprocessing: {', '.join(f'{k} {v}' for k, v in sizes.items())}",
        f"- feature networks of training: {', '.join(run.training_features or ()) or 'none'}",
        *(f"- prompt {direction}: {prompt}" for direction, prompt in card.prompts.items()),
        *([f"- edits by their prompts: {'; '.join(run.edits)}"] if run.edits else []),
        f"- {', '.join(f'{name} {number}' for name, number in card.versions.items())}",
        "",
        "```bash",
        f"make translate CKPT={where} IN=photos OUT=translated",
        "```",
        "",
        *((RENDERED, "") if run.data_is_rendered else ()),
        *_shown(pictures),
        *_tested(blocks, _which(card.best)),
        "",
        "The adapter may be used within the licence of the base that it was trained on.",
    ]
    return "\n".join(lines) + "\n"


def _shown(pictures: Sequence[str]) -> list[str]:
    if not pictures:
        return []
    what = "Inputs of the test split, below them their translations, and below these the truth where there is one."
    return ["## Images", "", what, "", *(f"![{name}]({name})" for name in pictures), ""]


def _tested(blocks: Mapping[str, Mapping[str, Any]], which: str) -> list[str]:
    """Scores by direction and state, behind a sentence on which state the adapter is."""
    if not blocks:
        return [f"It has no scores of the test split. {which}"]
    scores = shown_in("card", blocks.values())
    return [
        "## On the test split",
        "",
        f"In brackets what returning the input unchanged scores. {_better(scores)} {which}",
        "",
        markdown_table(
            ["direction", "images", *(score.name for score in scores)],
            [[d, str(b["n_fake"]), *(_cell(b, score) for score in scores)] for d, b in blocks.items()],
        ),
    ]


def _which(best: Mapping[str, Any] | None) -> str:
    if best is None:
        return "This is the last state of its run."
    if best.get("is_last"):
        return "This is the last state of its run, and the best by validation."
    return (
        f"This is the last state of its run; the best by validation, {best['checkpoint']} after {best['images_seen']} "
        "images, is another."
    )


def _better(scores: Sequence[Score]) -> str:
    higher = [score.name for score in scores if score.better == "higher"]
    return f"Lower is better{' but for ' if higher else ''}{', '.join(higher)}."


def _cell(block: Mapping[str, Any], score: Score) -> str:
    """Value, the network or unit it depends on, and in brackets the score of the input returned unchanged."""
    value, copied = block.get(score.name), (block.get("copy_input") or {}).get(score.name)
    if value is None:
        return "-"
    words = [formatted(value), network_of(score, block) or score.unit]
    return " ".join(filter(None, [*words, "" if copied is None else f"({formatted(copied)})"]))
