"""The figures of all trials in one table: a row per point, held against the grid's first."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import ttest_1samp

from ablation.grids import Grid
from ablation.trials import Trial

# name in metrics.json, heading, whether more is better (None: neither)
SCORES: tuple[tuple[str, str, bool | None], ...] = (
    ("fid", "FID", False),
    ("kid", "KID", False),
    ("structure", "structure", False),
    ("lpips_truth", "LPIPS to truth", False),
    ("psnr_truth", "PSNR to truth", True),
    ("caption_similarity", "caption similarity", True),
    ("diversity", "diversity", None),
)
COSTS: tuple[tuple[str, str, bool | None], ...] = (
    ("trainable_parameters", "trained parameters", None),
    ("seconds_per_batch", "s per batch", None),
    ("peak_memory_mb", "peak MB", False),
)
CHANCE = 0.05  # probability, under the paired t-test, below which a difference is marked


@dataclass(frozen=True)
class Column:
    """A figure of the table.

    Attributes:
        name: as in table.csv: ``fid_a2b``, ``seconds_per_batch``.
        heading: as in table.md.
        more_is_better: None where it is neither.
    """

    name: str
    heading: str
    more_is_better: bool | None


@dataclass
class Row:
    """A point's figures.

    Attributes:
        labels: value by axis.
        by_seed: of each column, the figure of each seed that has finished.
    """

    labels: dict[str, str]
    by_seed: dict[str, dict[int, float]]

    @property
    def n(self) -> int:
        """Seeds that have finished."""
        return max((len(found) for found in self.by_seed.values()), default=0)

    def values(self, column: str) -> list[float]:
        """Of all seeds."""
        return list(self.by_seed.get(column, {}).values())

    def mean(self, column: str) -> float | None:
        """Over the seeds; None without any."""
        found = self.values(column)
        return statistics.fmean(found) if found else None

    def spread(self, column: str) -> float | None:
        """Standard deviation over the seeds; None below two."""
        found = self.values(column)
        return statistics.stdev(found) if len(found) > 1 else None


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics.json that tables show, by column."""
    found = {f"{name}_{d}": metrics[d].get(name) for d in ("a2b", "b2a") if d in metrics for name, _, _ in SCORES}
    found |= {name: metrics.get(name) for name, _, _ in COSTS}
    return {name: float(value) for name, value in found.items() if value is not None}


def collect(trials: Sequence[Trial]) -> tuple[list[Column], list[Row]]:
    """Columns that any trial has, and a row per point in the order of the trials."""
    rows: dict[str, Row] = {}
    present: set[str] = set()
    for trial in trials:
        row = rows.setdefault(trial.point, Row(trial.labels, {}))
        metrics = trial.metrics()
        for name, value in figures(metrics).items() if metrics else ():
            row.by_seed.setdefault(name, {})[trial.seed] = value
            present.add(name)
    directions = [d for d in ("a2b", "b2a") if f"fid_{d}" in present]
    columns = [
        Column(f"{name}_{d}", f"{heading} {d}" if len(directions) > 1 else heading, better)
        for name, heading, better in SCORES
        for d in directions
        if f"{name}_{d}" in present
    ]
    columns += [Column(*cost) for cost in COSTS if cost[0] in present]
    return columns, list(rows.values())


def compare(row: Row, reference: Row, column: Column) -> str:
    """How a row's mean differs from the reference's: "better", "worse" or "other", "" within the seeds' spread.

    Seed by seed: a seed is also a world of test pictures, harder or easier for all.  Seconds are never marked: trials
    that ran beside them took their share.
    """
    ours, theirs = (r.by_seed.get(column.name, {}) for r in (row, reference))
    gaps = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if row is reference or len(gaps) < 2 or column.name == "seconds_per_batch":
        return ""
    difference = statistics.fmean(gaps)
    # Without any spread the test divides by zero: such figures (parameters) differ or they do not.
    chance = ttest_1samp(gaps, 0).pvalue if statistics.stdev(gaps) else float(difference == 0)
    if chance >= CHANCE:
        return ""
    if column.more_is_better is None:
        return "other"
    return "better" if (difference > 0) == column.more_is_better else "worse"


def write_csv(path: Path, trials: Sequence[Trial]) -> None:
    """A line per finished trial: axes, seed, then every figure."""
    found = [(trial, figures(metrics)) for trial in trials if (metrics := trial.metrics())]
    columns, _ = collect(trials)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*trials[0].labels, "seed", *(c.name for c in columns)])
        for trial, values in found:
            writer.writerow([*trial.labels.values(), trial.seed, *(values.get(c.name, "") for c in columns)])


MARKS = {"better": " ▲", "worse": " ▼", "other": " ◆", "": ""}


def markdown(grid: Grid, trials: Sequence[Trial]) -> str:
    """The table as Markdown, with what its marks mean and how it was measured."""
    columns, rows = collect(trials)
    reference = rows[0]
    axes = list(grid.axes)
    lines = [
        f"| {' | '.join([*axes, 'n', *(c.heading for c in columns)])} |",
        "|---" * (len(axes) + 1 + len(columns)) + "|",
    ]
    for row in rows:
        cells = [cell(row, c) + MARKS[compare(row, reference, c)] for c in columns]
        lines.append(f"| {' | '.join([*row.labels.values(), str(row.n), *cells])} |")
    return "\n".join([*lines, "", *notes(grid, trials, rows)]) + "\n"


def cell(row: Row, column: Column) -> str:
    """Mean and, from two seeds on, standard deviation; "-" where there is none."""
    mean, spread = row.mean(column.name), row.spread(column.name)
    if mean is None:
        return "-"
    if column.name == "trainable_parameters":
        return f"{mean:,.0f}"
    return _digits(mean) + (f" ± {_digits(spread)}" if spread is not None else "")


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def notes(grid: Grid, trials: Sequence[Trial], rows: Sequence[Row]) -> list[str]:
    """What a reader must know to believe the table, a sentence each."""
    metrics = next((m for t in trials if (m := t.metrics())), None)
    said = [f"Experiment {grid.experiment}, grid {grid.name}; the first row is what the others are held against."]
    if metrics:
        block = metrics[next(d for d in ("a2b", "b2a") if d in metrics)]
        seen = sorted({m["images_seen"] for t in trials if (m := t.metrics())})
        said += [
            f"Base {metrics['base'].removesuffix(' at random weights')}; data: {metrics['data']}; "
            f"{' to '.join(str(s) for s in {seen[0]: 0, seen[-1]: 0})} images seen.",
            f"FID and KID by {block['fid_features']}, structure by {block['structure_features']}, LPIPS by "
            f"{block['lpips_features']}; {block['n_fake']} pictures against {block['n_real']}.",
        ]
    most = max(row.n for row in rows)
    if most > 1:
        said.append(
            "Mean ± standard deviation over n seeds; ▲ better, ▼ worse, ◆ other than the first row, where chance would "
            f"do that in less than {CHANCE:.0%} of cases (t-test seed by seed, of one figure; there are many here)."
        )
    else:
        said.append("One seed: no spread is known, and small differences mean nothing (RESUME=1 SEEDS=3 adds to it).")
    said.append("Seconds were measured beside other trials.")
    failed = [t.name for t in trials if t.metrics() is None]
    if failed:
        said.append(f"Missing: {', '.join(failed)}.")
    return said
