"""The scores and costs of all trials in one table: a row per point of the grid, compared with the first."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import ttest_1samp

from ablation.grids import Grid
from ablation.trials import Trial
from evaluation.compare import differences
from metrics.scores import markdown_table, shown_in

Better = Literal["lower", "higher"] | None
Verdict = Literal["better", "worse", "other", ""]
SIGNIFICANT = 0.05  # p-value of the paired t-test below which a difference is marked


@dataclass(frozen=True)
class Column:
    """A column of the table: a score of one direction, or a cost.

    Attributes:
        name: as in table.csv: ``fid_a2b``, ``seconds_per_batch``.
        heading: as in table.md.
        better: "lower" or "higher"; None where neither is.
    """

    name: str
    heading: str
    better: Better


COSTS = (
    Column("trainable_parameters", "trained parameters", None),
    Column("seconds_per_batch", "s per batch", None),
    Column("peak_memory_mb", "peak MB", "lower"),
)


@dataclass
class Row:
    """A point of the grid with the values of its columns.

    Attributes:
        labels: value by axis.
        by_seed: by column, the value of each seed that has finished.
    """

    labels: dict[str, str]
    by_seed: dict[str, dict[int, float]]

    @property
    def n(self) -> int:
        """Seeds that have finished."""
        return max((len(found) for found in self.by_seed.values()), default=0)

    def values(self, column: str) -> list[float]:
        """Values of a column, of all seeds."""
        return list(self.by_seed.get(column, {}).values())

    def mean(self, column: str) -> float | None:
        """Mean over the seeds; None without any."""
        found = self.values(column)
        return statistics.fmean(found) if found else None

    def spread(self, column: str) -> float | None:
        """Standard deviation over the seeds; None below two."""
        found = self.values(column)
        return statistics.stdev(found) if len(found) > 1 else None


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics.json that the table shows, by column."""
    found = {
        f"{score.name}_{d}": metrics[d].get(score.name)
        for d in ("a2b", "b2a")
        if d in metrics
        for score in shown_in("ablation")
    }
    found |= {cost.name: metrics.get(cost.name) for cost in COSTS}
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
    shown = shown_in("ablation")
    directions = [d for d in ("a2b", "b2a") if any(f"{score.name}_{d}" in present for score in shown)]
    columns = [
        Column(f"{score.name}_{d}", f"{score.heading} {d}" if len(directions) > 1 else score.heading, score.better)
        for score in shown
        for d in directions
        if f"{score.name}_{d}" in present
    ]
    columns += [cost for cost in COSTS if cost.name in present]
    return columns, list(rows.values())


def compare(row: Row, reference: Row, column: Column) -> Verdict:
    """Compare a row with the reference: "better", "worse", "other", or "" where the difference is not significant.

    A paired t-test over the seeds, since a seed also decides the test images, which are harder or easier for all.
    Seconds are never marked: trials run side by side and slow each other down.
    """
    ours, theirs = (r.by_seed.get(column.name, {}) for r in (row, reference))
    gaps = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if row is reference or len(gaps) < 2 or column.name == "seconds_per_batch":
        return ""
    difference = statistics.fmean(gaps)
    # Without any spread the test divides by zero: such values (numbers of parameters) are equal or differ.
    p_value = ttest_1samp(gaps, 0).pvalue if statistics.stdev(gaps) else float(difference == 0)
    if p_value >= SIGNIFICANT:
        return ""
    if column.better is None:
        return "other"
    return "better" if (difference > 0) == (column.better == "higher") else "worse"


def table_csv(trials: Sequence[Trial]) -> str:
    """A line per finished trial: axes, seed, then every column."""
    found = [(trial, figures(metrics)) for trial in trials if (metrics := trial.metrics())]
    columns, _ = collect(trials)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*trials[0].labels, "seed", *(c.name for c in columns)])
    for trial, values in found:
        writer.writerow([*trial.labels.values(), trial.seed, *(values.get(c.name, "") for c in columns)])
    return text.getvalue()


MARKS: dict[Verdict, str] = {"better": " ▲", "worse": " ▼", "other": " ◆", "": ""}


def markdown(grid: Grid, trials: Sequence[Trial]) -> str:
    """The table in Markdown, with the meaning of its marks and how it was measured."""
    columns, rows = collect(trials)
    cells = [
        [*row.labels.values(), str(row.n), *(cell(row, c) + MARKS[compare(row, rows[0], c)] for c in columns)]
        for row in rows
    ]
    headings = [*grid.axes, "n", *(c.heading for c in columns)]
    return "\n".join([markdown_table(headings, cells), "", *notes(grid, trials, rows)]) + "\n"


def cell(row: Row, column: Column) -> str:
    """Mean and, from two seeds on, standard deviation; n where some seeds lack the value; "-" where all do."""
    mean, spread, n = row.mean(column.name), row.spread(column.name), len(row.values(column.name))
    if mean is None:
        return "-"
    if column.name == "trainable_parameters":
        return f"{mean:,.0f}"
    fewer = f" (n = {n})" if n < row.n else ""
    return _digits(mean) + (f" ± {_digits(spread)}" if spread is not None else "") + fewer


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def notes(grid: Grid, trials: Sequence[Trial], rows: Sequence[Row]) -> list[str]:
    """Sentences on how the table was measured and how to read it."""
    metrics = next((m for t in trials if (m := t.metrics())), None)
    sentences = [f"Experiment {grid.experiment}, grid {grid.name}; the other rows are compared with the first."]
    if metrics:
        block: dict[str, Any] = next((metrics[d] for d in ("a2b", "b2a") if d in metrics), {})
        seen = sorted({m.get("images_seen") or 0 for t in trials if (m := t.metrics())})
        sentences += [
            f"Base {str(metrics.get('base')).removesuffix(' at random weights')}; data: {metrics.get('data')}; "
            f"{' to '.join(str(s) for s in {seen[0]: 0, seen[-1]: 0})} images seen.",
            f"FID and KID by {block.get('fid_features')}, structure by {block.get('structure_features')}, LPIPS by "
            f"{block.get('lpips_features')}; {block.get('n_fake')} images against {block.get('n_real')}.",
        ]
    most = max(row.n for row in rows)
    if most > 1:
        sentences.append(
            "Mean ± standard deviation over n seeds; ▲ better, ▼ worse, ◆ other than the first row, at "
            f"p < {SIGNIFICANT} (paired t-test over the seeds, not corrected for the number of columns)."
        )
    else:
        sentences.append("One seed: no spread is known, and small differences mean nothing; seeds can be added.")
    sentences.append("Seconds were measured beside other trials.")
    sentences += _measured_differently(trials)
    failed = [t.name for t in trials if t.metrics() is None]
    if failed:
        sentences.append(f"Missing: {', '.join(failed)}.")
    return sentences


def _measured_differently(trials: Sequence[Trial]) -> list[str]:
    """A sentence per point that was not measured as the first one; seed by seed, since a seed decides the images."""
    first = {t.seed: metrics for t in trials if t.point == trials[0].point and (metrics := t.metrics())}
    found: dict[str, str] = {}
    for trial in trials:
        one, other = first.get(trial.seed), trial.metrics()
        if one and other and trial.point not in found:
            both = [d for d in ("a2b", "b2a") if d in one and d in other]
            if differs := dict.fromkeys(phrase for d in both for phrase in differences(one[d], other[d])):
                found[trial.point] = "; ".join(differs)
    return [
        f"{point} was measured differently, and its scores cannot be compared with the first row's: {differs}."
        for point, differs in found.items()
    ]
