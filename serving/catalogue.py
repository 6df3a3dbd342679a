"""What can be served: adapters and exported models by name, found from paths, with facts of their cards; no torch."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from adapter_hub import fetch, hub_name, pin
from inference.backends import Training
from inference.backends.exported import CARD, MANIFEST, Manifest
from packaged_adapters import packaged_adapter
from prompt_embeddings import DIRECTIONS
from storage import read_json

WEIGHTS = "adapter.safetensors"
CHECKPOINTS = (".ckpt", ".pkl")
DEPTH = 5  # folders below the one given: runs/EXP/BASE/version_N has three
CARD_BYTES = 1 << 20
LONGEST_NAME = 100  # characters
PLAIN = "resnet"  # the base of generators that take neither prompt nor noise
MAKE_ONE = "`make train EXP=day2night` trains an adapter into runs/"


@dataclass(frozen=True)
class Facts:
    """What is known of an adapter or an exported model before it is loaded.

    Attributes:
        path: what `Translator.load` takes.
        kind: "adapter", "exported" or, for a .ckpt or a released .pkl, "checkpoint", whose other facts are not known.
        title: the experiment, else the task, else empty.
        base: one line on the base, or empty.
        backend: what computes: "torch", "onnx" or "openvino".
        directions: those that it translates in; empty where not known.
        prompts: trained prompt by direction.
        training: trained size, kind of line drawing and training data.
        trained_only: whether it translates by these prompts and at strength 1 only.
    """

    path: Path
    kind: str
    title: str = ""
    base: str = ""
    backend: str = "torch"
    directions: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    trained_only: bool = False

    @classmethod
    def read(cls, path: Path) -> "Facts":
        """Read the facts of what `find_models` returned.

        Raises:
            OSError: a card cannot be read.
            ValueError: it is damaged; one line with the file.
        """
        if path.is_file():
            return cls(path, "checkpoint")
        if (path / MANIFEST).is_file():
            manifest, card = Manifest.read(path), read_json(path / CARD, CARD_BYTES)
            directions, prompts = tuple(manifest.directions), dict(manifest.prompts)
            more = (manifest.base, manifest.backend, directions, prompts, Training.from_card(card), True)
            return cls(path, "exported", _title(card), *more)
        name = hub_name(path)
        folder = _adapter_folder(path if name is None else fetch(name))
        if folder is None:
            raise FileNotFoundError(f"No adapter in {path}: looked for {CARD} and {WEIGHTS}.")
        card = read_json(folder / CARD, CARD_BYTES)
        settings, texts, plain = card.get("settings"), card.get("prompts"), card.get("base") == PLAIN
        named = settings.get("directions") if isinstance(settings, dict) else None
        prompts = {d: str(texts[d]) for d in DIRECTIONS if d in texts} if isinstance(texts, dict) else {}
        directions = tuple(d for d in DIRECTIONS if d in (named if isinstance(named, list) else prompts))
        base = card.get("base_description") or card.get("base") or ""
        training = Training.from_card(card)
        return cls(path, "adapter", _title(card), str(base), "torch", directions, prompts, training, plain)


def find_models(given: str | Path) -> dict[str, Path]:
    """Find adapters and exported models.

    Args:
        given: a run folder, an adapter folder, the folder of an exported model, a .ckpt or a released .pkl;
            ``owner/name[@revision]`` of the hub, which is fetched; ``pocket:NAME``; a folder of such folders, which is
            searched to a depth of five; or several of these, joined by commas.

    Returns:
        Their paths (name and commit of the hub's) by names that are unique and need no quoting in a URL, the shortest
        parts of the path that tell them apart (``clear2foggy`` or ``clear2foggy-pocket-version_1``); in the order
        given, in a folder the newest first.

    Raises:
        FileNotFoundError: nothing is there, or no adapter or exported model in a folder.
        ValueError: a file is of another kind, or nothing was given.
    """
    whole = str(given)
    words = [whole] if Path(whole).exists() else [word.strip() for word in whole.split(",") if word.strip()]
    if not words:
        raise ValueError("No adapter was named: give the path of a run, of an exported model, or of a folder of them.")
    models: dict[str, tuple[Path, tuple[str, ...]]] = {}
    for word in words:
        for path, parts in _models(Path(word)):
            models.setdefault(os.path.realpath(path), (path, parts))
    names = _names([parts for _, parts in models.values()])
    return dict(zip(names, (path for path, _ in models.values()), strict=True))


def _models(path: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """What a path leads to, each with the parts of its path that tell it from others."""
    path = packaged_adapter(path) or path
    if path.is_dir():
        if _is_model(path):
            return [(path, _telling_parts(path, Path(os.path.abspath(path)).parts[-1:]))]
        found = sorted(_search(path, DEPTH), key=_order)
        if not found:
            raise FileNotFoundError(
                f"No adapter in {path}: looked for {CARD} with {WEIGHTS}, and for {MANIFEST} of an exported model, "
                f"there and in {DEPTH} levels of folders below. {MAKE_ONE}."
            )
        return [(one, _telling_parts(one, one.relative_to(path).parts)) for one in found]
    if (name := hub_name(path)) is not None:
        owner, _, short = name.repo.partition("/")
        return [(Path(str(pin(name))), (short, owner))]
    if not path.exists():
        raise FileNotFoundError(
            f"No adapter at {path}: give a run folder (runs/EXP/BASE/version_N), an exported model, a .ckpt, a "
            f"released .pkl, or a folder of runs. {MAKE_ONE}."
        )
    if not path.is_file() or path.suffix not in CHECKPOINTS:
        raise ValueError(f"{path} is no adapter: give a folder, or a file that ends in {' or '.join(CHECKPOINTS)}.")
    return [(path, _telling_parts(path, (path.stem,)))]


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or _adapter_folder(folder) is not None


def _adapter_folder(folder: Path) -> Path | None:
    """Where an adapter's files lie, of a run folder or of an adapter folder."""
    for place in (folder / "adapter", folder):
        if (place / CARD).is_file() and (place / WEIGHTS).is_file():  # beside a released .pkl lies a card alone
            return place
    return None


def _search(folder: Path, depth: int) -> Iterator[Path]:
    """Adapters and exported models below a folder, none below another; folders that cannot be read are left out."""
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return
    for child in (folder / name for name in below if not name.startswith(".")):  # .NAME.part is being written
        if _is_model(child):
            yield child
        elif depth > 1:
            yield from _search(child, depth - 1)


def _order(model: Path) -> tuple[float, bool]:
    """Newest weights first (cards get scores later); where links lead to a model too, its own path first."""
    folder = _adapter_folder(model)
    weights = model / MANIFEST if folder is None else folder / WEIGHTS
    return -weights.stat().st_mtime, os.path.realpath(model) != os.path.abspath(model)


def _telling_parts(path: Path, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Experiment, base and version, where a path has them; a checkpoint's name behind them."""
    whole = Path(os.path.abspath(path))
    parts = (whole.with_suffix("") if path.is_file() else whole).parts
    for k, part in enumerate(parts):
        if k >= 2 and re.fullmatch(r"version_\d+", part):
            more = [name for name in parts[k + 1 :] if name not in ("adapter", "checkpoints")]
            return (*parts[k - 2 : k + 1], *more)
    return parts[-2:-1] if otherwise == ("adapter",) and len(parts) > 2 else otherwise


def _names(models: list[tuple[str, ...]]) -> list[str]:
    """A unique name for each: as many of its first parts as tell it from the others."""
    begins = Counter(parts[:n] for parts in models for n in range(1, len(parts) + 1))
    names: list[str] = []
    for parts in models:
        telling = next((parts[:n] for n in range(1, len(parts)) if begins[parts[:n]] == 1), parts)
        name = plain = _url_safe("-".join(telling))
        for number in count(2):
            if name not in names:
                break
            name = f"{plain}-{number}"
        names.append(name)
    return names


def _url_safe(text: str) -> str:
    """Letters, digits, ``-``, ``_`` and ``.`` of ASCII; accents are taken off."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", ascii_text)[:LONGEST_NAME].strip("-.") or "model"


def without_folders(text: str) -> str:
    """A text whose absolute paths are cut to their last part."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/,;()'\"]+/)*(?=[^\s/])", "", text)


def _title(card: Mapping[str, object]) -> str:
    names = (card.get("experiment"), card.get("task"))
    return next((name for name in names if isinstance(name, str) and name), "")
