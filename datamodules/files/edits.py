"""Folders of edits: lines of an input, a prompt and a target, as InstructPix2Pix-style sets are laid out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.files.layouts import FOLDER_NAMES, STAGES, Domain, Pairs, Stage, complete
from storage import parse_json, read_utf8, shortened

METADATA = "metadata.jsonl"
KEYS = ("input", "target", "prompt")
LINE_BYTES = 1 << 20


class Line(NamedTuple):
    """One edit of a metadata.jsonl."""

    source: Path
    target: Path
    prompt: str


def find_edits(root: Path, seed: int) -> Pairs:
    """Edits by stage, of ``train/metadata.jsonl``, ``val/`` and ``test/``, or of one ``metadata.jsonl``.

    Without ``val/``, a part of the training edits is held out, such that no image is on both sides.

    Raises:
        FileNotFoundError: there is no metadata.jsonl to train on, or an image that one names is missing.
        ValueError: a line is no edit, or too few edits share no image.
    """
    folders: dict[Stage, Path] = {stage: root / FOLDER_NAMES[stage] for stage in STAGES}
    if not any((folder / METADATA).is_file() for folder in folders.values()):
        folders["train"] = root
    if not (folders["train"] / METADATA).is_file():
        raise FileNotFoundError(
            f"No edits to train on in {root}: looked for {METADATA} and train/{METADATA}. Write a line "
            '{"input": "a.png", "target": "b.png", "prompt": "make it night"} per edit.'
        )
    found: dict[Stage, Sequence[list[Line]]] = {
        stage: groups(read_edits(folder)) for stage, folder in folders.items() if (folder / METADATA).is_file()
    }
    what = f"{folders['train'] / METADATA}, counting edits that share an image once,"
    held, test_is_validation = complete(found, seed, what)
    lines = {stage: [line for group in held[stage] for line in group] for stage in STAGES}
    validate = folders["validate"] if "validate" in found else folders["train"]
    below = {"train": folders["train"], "validate": validate, "test": folders["test"] if "test" in found else validate}
    by_stage: dict[Stage, Path] = {stage: below[stage] for stage in STAGES}
    return Pairs(
        Domain(by_stage, {stage: [line.target for line in lines[stage]] for stage in STAGES}, test_is_validation),
        Domain(by_stage, {stage: [line.source for line in lines[stage]] for stage in STAGES}, test_is_validation),
        {stage: [line.prompt for line in lines[stage]] for stage in STAGES},
    )


def read_edits(folder: Path) -> list[Line]:
    """The edits of a folder's metadata.jsonl, in its order; paths are relative to the folder.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a line is no edit, or the file has none, or is not UTF-8.
    """
    path = folder / METADATA
    found = []
    for number, text in enumerate(read_utf8(path).split("\n"), 1):  # not splitlines: JSON may hold a U+2028
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json(text, where, LINE_BYTES)
        values = [row.get(key) if isinstance(row, dict) else None for key in KEYS]
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise ValueError(f"{where} is no edit: it needs the texts {', '.join(KEYS)}, got {shortened(row)}.")
        source, target = (folder / str(value) for value in values[:2])
        for image in (source, target):
            if folder not in image.parents or ".." in image.relative_to(folder).parts:
                raise ValueError(f"{where} names {image}, which is not below {folder}: move the image there.")
            if not image.is_file():
                raise FileNotFoundError(f"{where} names an image that is not there: looked for {image}.")
        found.append(Line(source, target, " ".join(str(values[2]).split())))
    if not found:
        raise ValueError(f"{path} has no lines: write one per edit.")
    return found


def groups(lines: Sequence[Line]) -> list[list[Line]]:
    """Edits that share an image, directly or over others, in order of their first line."""
    group_of: dict[Path, list[Line]] = {}
    for line in lines:
        known = {id(group): group for image in line[:2] if (group := group_of.get(image)) is not None}
        largest, *others = sorted(known.values(), key=len, reverse=True) or [[]]
        moved = [line, *(each for group in others for each in group)]
        largest += moved
        group_of |= {image: largest for each in moved for image in (each.source, each.target)}
    place = {id(line): k for k, line in enumerate(lines)}
    every = {id(group): sorted(group, key=lambda line: place[id(line)]) for group in group_of.values()}
    return sorted(every.values(), key=lambda group: place[id(group[0])])
