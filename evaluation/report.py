"""One self-contained HTML page of an evaluation: verdict, images, best and worst, failures, scores, curves.

The page is the template report.html; this module computes what it shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.collapse import QUIET_UNTIL, Floors
from evaluation.edits import edit_table
from evaluation.gallery import FAILURES, Record
from evaluation.verdict import verdict
from metrics.scores import Score, formatted, shown_in
from storage import atomic_write

SHOWN = 24  # images per direction to click through
EACH = 4  # best and worst per score
BINS = 20
CURVE = (220, 90)  # width and height, pixels


@dataclass(frozen=True)
class Shown:
    """One input with its translation, as the page shows it.

    Attributes:
        name: of the input.
        keys: of the images in the page by "real", "fake", "truth".
        value: a score, formatted, or "".
    """

    name: str
    keys: dict[str, str]
    value: str = ""


@dataclass(frozen=True)
class Curve:
    """A line over images seen.

    Attributes:
        tag: TensorBoard key.
        points: of the SVG line.
        steps: first and last.
        values: lowest and highest.
    """

    tag: str
    points: str
    steps: tuple[int, int]
    values: tuple[float, float]


class Page:
    """The part of the page that shows one direction.

    Args:
        direction: "a2b" or "b2a".
        records: its images.
        report: content of metrics.json.
        images: JPEGs of the page by key, each there once; those that this part shows are added.
    """

    def __init__(
        self, direction: str, records: Sequence[Record], report: Mapping[str, Any], images: dict[str, str]
    ) -> None:
        self.direction, self.block = direction, report[direction]
        self._records, self._report, self._images = records, report, images
        self.total = len(records)
        self.has_truth = "truth" in records[0].images

    @property
    def alarms(self) -> list[str]:
        """What the collapse alarm says of these scores, by its default floors; nothing after a very short training."""
        seen = self._report.get("images_seen")  # None for images of another program
        if seen is not None and seen < QUIET_UNTIL:
            return []
        floors = Floors()
        found = [floors.identity_collapse(self.direction, self.block), floors.mode_collapse(self.direction, self.block)]
        return [words for words in found if words]

    @property
    def verdict(self) -> list[str]:
        """Sentences on how good the translations are."""
        return verdict(self.block, self._records, {name: len(places) for name, places in self._failed.items()})

    @property
    def columns(self) -> dict[str, Mapping[str, Any]]:
        """Of the table of scores: heading => block of metrics.json."""
        best = self._report.get("best", {})
        columns: dict[str, Mapping[str, Any]] = {"translation": self.block}
        if copied := self.block.get("copy_input"):
            columns["input unchanged"] = copied
        if self.direction in best:
            columns[f"{best['checkpoint']}, best by validation"] = best[self.direction]
        return columns

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """Of the table of scores: name, and a cell per column; without scores that no column has."""
        blocks = self.columns.values()
        return [(s.name, [formatted(block.get(s.name)) for block in blocks]) for s in shown_in("report", blocks)]

    @property
    def edits(self) -> tuple[list[str], list[list[str]]] | None:
        """Headings and cells of the scores by kind of edit; None where the data knows no kinds."""
        by_kind = self.block.get("by_kind")
        return edit_table(by_kind) if by_kind else None

    @property
    def protocol(self) -> str:
        """How the direction was measured."""
        networks = ", ".join(f"{name} {digest}" for name, digest in self.block["network_hashes"].items())
        facts = "; ".join(f"{key} {value}" for key, value in self.block["protocol"].items() if value is not None)
        return f"{facts}; weights {networks}"

    @property
    def strip(self) -> list[Shown]:
        """The images to click through."""
        return [self._shown(k) for k in range(min(SHOWN, self.total))]

    @property
    def extremes(self) -> list[tuple[str, list[Shown]]]:
        """Title and images of the best and the worst of every score."""
        found = []
        for score in self._scores_per_image():
            known = [(r.scores[score.name], k) for k, r in enumerate(self._records) if score.name in r.scores]
            if not known:
                continue
            known.sort(reverse=score.better == "higher")
            words = ("lowest", "highest") if score.better is None else ("best", "worst")
            for word, some in zip(words, (known[:EACH], known[::-1][:EACH]), strict=True):
                found.append((f"{word} {score.name}", [self._shown(k, f"{value:.3g}") for value, k in some]))
        return found

    @property
    def failures(self) -> list[tuple[str, str, int, list[Shown]]]:
        """Name, explanation, number of images and the first of them, of each kind of failure."""
        return [
            (name, FAILURES[name], len(found), [self._shown(k) for k in found[:EACH]])
            for name, found in self._failed.items()
        ]

    @property
    def _failed(self) -> dict[str, list[int]]:
        """Places of the images by kind of failure."""
        nearest, gap = self._median("nearest_source"), self._median("identity_gap")
        kinds = [record.failures(nearest, gap) for record in self._records]
        return {name: [k for k, found in enumerate(kinds) if name in found] for name in FAILURES}

    @property
    def histograms(self) -> list[tuple[str, list[float], float, float]]:
        """Name, heights of the bars in [0, 1], lowest and highest value, of every score per image."""
        found = []
        for score in self._scores_per_image():
            values = torch.tensor(self._values(score.name), dtype=torch.float64)
            if len(values) > 1:
                low, high = float(values.min()), float(values.max())
                counts = torch.histc(values, BINS, low, high)
                found.append((score.name, (counts / counts.max()).tolist(), low, high))
        return found

    def _scores_per_image(self) -> list[Score]:
        return [score for score in shown_in("report") if score.per_image]

    def _values(self, score: str) -> list[float]:
        return [record.scores[score] for record in self._records if score in record.scores]

    def _median(self, score: str) -> float:
        values = self._values(score)
        return float(torch.tensor(values).median()) if values else 0.0

    def _shown(self, k: int, value: str = "") -> Shown:
        record = self._records[k]
        keys = {role: f"{self.direction}-{k}-{role}" for role in record.images}
        self._images |= {keys[role]: image for role, image in record.images.items()}
        return Shown(record.name, keys, value)


def write_report(
    path: Path, report: Mapping[str, Any], records: Mapping[str, Sequence[Record]], run: Path | None
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        report: content of metrics.json.
        records: images by direction.
        run: a run folder, for its curves; None leaves them out.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    images: dict[str, str] = {}
    page = environment.get_template("report.html").render(
        title=f"{report.get('base', report.get('pictures', 'images'))}: {report.get('data', '')}",
        facts=_facts(report),
        directions=[Page(direction, found, report, images) for direction, found in records.items()],
        curves=[] if run is None else _curves(run),
        width=CURVE[0],
        height=CURVE[1],
        images=images,
    )
    with atomic_write(path) as part:
        part.write_text(page)


def _facts(report: Mapping[str, Any]) -> list[str]:
    facts = {key: report.get(key) for key in ("images_seen", "trainable_parameters", "base_fingerprint", "pictures")}
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items() if value is not None]
    lines += [f"placeholder: {name}" for name in report.get("placeholders", [])]
    if report.get("best", {}).get("is_last"):
        lines.append("this state is also the best by validation")
    return lines


def _curves(run: Path) -> list[Curve]:
    """Scalars of a run's events below ``train/`` and ``val/``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(run.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 500}).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(("train/", "val/")):
                found.setdefault(tag, []).extend((s.step, s.value) for s in events.Scalars(tag))
    return [_curve(tag, sorted(points)) for tag, points in sorted(found.items()) if len(points) > 1]


def _curve(tag: str, points: Sequence[tuple[int, float]]) -> Curve:
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = max(steps[-1] - steps[0], 1), (high - low) or 1.0
    width, height = CURVE
    line = " ".join(
        f"{(step - steps[0]) / across * (width - 4) + 2:.1f},{height - 16 - (value - low) / up * (height - 24):.1f}"
        for step, value in points
    )
    return Curve(tag, line, (steps[0], steps[-1]), (low, high))
