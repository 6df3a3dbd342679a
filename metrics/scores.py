"""The score registry: name, heading, unit, direction and needs of every score in metrics.json.

Everything that computes or shows scores iterates `SCORES`: metrics.json, TensorBoard, the terminal, the tables of
`make compare` and of ablations, report.html and the model card.  A new score is one entry here and one function, which
`computes` ties to it; see `metrics.functions`.  `evaluation.edits` computes those of edits.  Nothing here imports
torch, so that commands which only show scores start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from storage import read_json, shortened

if TYPE_CHECKING:
    from torch import Tensor

Table = Literal["report", "compare", "ablation", "card", "terminal"]
TABLES: tuple[Table, ...] = ("report", "compare", "ablation", "card", "terminal")
Role = Literal["features", "structure", "lpips", "clip"]
Function = TypeVar("Function", bound="Callable[..., Tensor]")

# Role of a feature network => key of metrics.json that holds the network's name.
NETWORK_KEYS: dict[Role, str] = {
    "features": "fid_features",
    "structure": "structure_features",
    "lpips": "lpips_features",
}
MEASURED = ("images_seen", "wall_s", "seconds_per_batch", "peak_memory_mb", "trainable_parameters")  # in training


@dataclass(frozen=True)
class Score:
    """One number that describes the translations of a direction.

    Attributes:
        name: key in metrics.json, and part of the TensorBoard key.
        heading: title of the column where a table has room for words.
        unit: such as "dB"; "" for a plain number.
        better: "lower" or "higher"; None where neither is.
        network: role of the feature network that the number depends on, whose name is shown beside it.
        needs: what the data must provide: ground truth ("truth"), captions, or what each caption asks for ("edits");
            without, metrics.json lacks the key.
        per_image: computed for each image, and averaged; False for a score of the whole set.
        of_input: also computed for the input returned unchanged ("copy_input" in metrics.json).
        tables: where it is shown.
    """

    name: str
    heading: str
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    network: Role | None = None
    needs: Literal["truth", "captions", "edits"] | None = None
    per_image: bool = False
    of_input: bool = False
    tables: tuple[Table, ...] = TABLES


_TRUTH: tuple[Table, ...] = ("report", "compare", "ablation", "card")
_CAPTIONS: tuple[Table, ...] = ("report", "ablation")
_SCORES = (
    Score("fid", "FID", better="lower", network="features", of_input=True),
    Score("fid_floor", "FID floor", network="features", tables=("report", "compare", "card", "terminal")),
    Score("kid", "KID", better="lower", network="features", of_input=True),
    Score("kid_std", "KID standard deviation", network="features", tables=()),
    Score("structure", "structure", "", "lower", "structure", per_image=True),
    Score("lpips_truth", "LPIPS to truth", "", "lower", "lpips", "truth", per_image=True, of_input=True, tables=_TRUTH),
    Score("psnr_truth", "PSNR to truth", "dB", "higher", None, "truth", per_image=True, of_input=True, tables=_TRUTH),
    Score("caption_similarity", "caption similarity", "", "higher", "clip", "captions", True, tables=_CAPTIONS),
    Score("edit_success", "edit success", "", "higher", "features", "edits", tables=_TRUTH),
    Score("edit_preserved", "edit preserved", "", "higher", "features", "edits", tables=_TRUTH),
    Score("identity_gap", "identity gap", network="lpips", per_image=True, tables=("report", "compare", "terminal")),
    Score("diversity", "diversity", network="features", tables=("report", "compare", "ablation")),
    Score("domain_shift", "domain shift", network="features", tables=("report",)),
)
SCORES: dict[str, Score] = {score.name: score for score in _SCORES}  # in the order of the tables' columns
FUNCTIONS: dict[str, Callable[..., Tensor]] = {}  # by name of the score; `computes` adds to it


def computes(name: str) -> Callable[[Function], Function]:
    """Decorator of the function that computes a score.

    A score per image is a function of `metrics.functions.TranslatedImages` that returns `(B,)`; a score of the set is
    one of `metrics.functions.TranslatedSets` that returns a scalar.  NaN stands for "not known".
    """

    def tie(function: Function) -> Function:
        FUNCTIONS[name] = function
        return function

    return tie


def register(score: Score, function: Callable[..., Tensor]) -> None:
    """Add a score; metrics that are built from now on compute it, and everything that shows scores shows it.

    Raises:
        ValueError: there is a score of this name.
    """
    if score.name in SCORES:
        raise ValueError(f"There is a score '{score.name}' already: {SCORES[score.name].heading}.")
    SCORES[score.name] = score
    computes(score.name)(function)


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a metrics.json, as a run, an evaluation or somebody else left it.

    Raises:
        ValueError: it is damaged, or an entry that is computed with or shown is of another type; one line.
    """
    metrics = read_json(path)
    _require(metrics, str(path), {"best": Mapping, "base": str, "data": str, **dict.fromkeys(MEASURED, float)})
    for name, part in ((str(path), metrics), (f"{path}: best", metrics.get("best") or {})):
        for direction in ("a2b", "b2a"):
            if direction in part:
                _check_block(part[direction], f"{name}: {direction}")
    return metrics


def _check_block(block: object, where: str) -> None:
    """Refuse a direction's block of metrics.json whose entries are of other types."""
    if not isinstance(block, Mapping):
        raise ValueError(f"{where} must hold scores by name, got {shortened(block)}.")
    scores = dict.fromkeys((*SCORES, "n_fake", "n_real"), float)
    objects = dict.fromkeys(("protocol", "network_hashes", "copy_input", "by_kind"), Mapping)
    _require(block, where, {**scores, **objects, **dict.fromkeys(NETWORK_KEYS.values(), str)})
    _require(block.get("copy_input") or {}, f"{where}: copy_input", scores)
    by_kind = block.get("by_kind") or {}
    _require(by_kind, f"{where}: by_kind", dict.fromkeys(by_kind, Mapping))
    for kind, numbers in by_kind.items():
        _require(numbers, f"{where}: by_kind: {kind}", dict.fromkeys(numbers, float))
    _require(block.get("protocol") or {}, f"{where}: protocol", {"versions": str})


def _require(entries: Mapping[str, Any], where: str, kinds: Mapping[str, type]) -> None:
    for name, kind in kinds.items():
        value = entries.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        if value is not None and not (number if kind is float else isinstance(value, kind)):
            wanted = {float: "a number", str: "a text"}.get(kind, "an object")
            raise ValueError(f"{where}: {name} must be {wanted}, got {shortened(value)}.")


def shown_in(table: Table, blocks: Iterable[Mapping[str, object]] | None = None) -> list[Score]:
    """The scores of a table, in the order of its columns.

    Args:
        table: which.
        blocks: of metrics.json; given, scores that none of them has are left out.
    """
    scores = [score for score in SCORES.values() if table in score.tables]
    if blocks is None:
        return scores
    present = {name for block in blocks for name, value in block.items() if value is not None}
    return [score for score in scores if score.name in present]


def log_key(split: str, name: str, direction: str) -> str:
    """The key of a score in TensorBoard and in Lightning's metrics, such as ``val/fid_a2b``.

    Examples:
        >>> log_key("val", "fid", "a2b")
        'val/fid_a2b'
    """
    return f"{split}/{name}_{direction}"


def network_of(score: Score, block: Mapping[str, object]) -> str | None:
    """Name of the feature network that a score in a direction's block of metrics.json was computed with."""
    found = block.get(NETWORK_KEYS.get(score.network, "")) if score.network else None
    return None if found is None else str(found)


def formatted(value: float | None) -> str:
    """Four significant digits; "-" for a score that is not known.

    Examples:
        >>> formatted(0.0123456), formatted(None)
        ('0.01235', '-')
    """
    return "-" if value is None else f"{value:.4g}"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with no line break at its end.

    Examples:
        >>> print(markdown_table(["run", "FID"], [["clear2foggy", "120"]]))
        | run | FID |
        |---|---|
        | clear2foggy | 120 |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])
