"""Captions of pairs and photographs, as JSON, JSONL or CSV."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from storage import read_utf8, shortened


def read_captions(root: Path, split: str) -> dict[str, str]:
    """Captions by file name from ``train_prompts.json`` (``.jsonl``, ``.csv``); empty where there is no such file.

    JSON: ``{"name.png": "caption"}``.  JSONL: an object per line, CSV: a header line; both with a column "file_name"
    (or "name", "image") and one "caption" (or "text", "prompt").

    Raises:
        ValueError: the file does not have that form, or is not UTF-8.
    """
    for suffix in (".json", ".jsonl", ".csv"):
        path = root / f"{split}_prompts{suffix}"
        if path.is_file():
            text = read_utf8(path)
            try:
                return _parse_captions(text, suffix)
            except (ValueError, KeyError, TypeError, StopIteration, RecursionError, csv.Error) as error:
                raise ValueError(
                    f"{path} does not hold captions: {error}. Expected names and captions, see docs/your-own-data.md."
                ) from error
    return {}


def _parse_captions(text: str, suffix: str) -> dict[str, str]:
    if suffix == ".json":
        found = json.loads(text)
        if not isinstance(found, dict) or not all(isinstance(caption, str) for caption in found.values()):
            raise ValueError("not an object of strings")
        return found
    if suffix == ".jsonl":  # not splitlines: JSON may hold a U+2028
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
    captions = {}
    for row in rows:
        name = next((row[key] for key in ("file_name", "name", "image") if key in row), None)
        caption = next((row[key] for key in ("caption", "text", "prompt") if key in row), None)
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ValueError(f"{shortened(row)} has no file_name or no caption")
        captions[name] = caption
    return captions


def caption_of(name: Path, captions: Mapping[str, str]) -> str | None:
    """The caption of an image by its path relative to its folder, its file name, or its name without ending."""
    keys = (name.as_posix(), name.name, name.stem)
    return next((captions[key] for key in keys if key in captions), None)
