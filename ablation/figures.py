"""The picture of an ablation: the same inputs through every variant, each axis's effect, quality against cost."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from ablation.grids import Grid
from ablation.tables import Column, Row, collect
from ablation.trials import Trial

mpl.use("Agg")  # no window

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

PAD = 2  # pixels between the pictures of a grid, as torchvision draws it
SHOWN = 3  # inputs
COST_IN_SECONDS = ("seconds_per_batch", "seconds per batch, beside other trials")


def pictures(trial: Trial, direction: str) -> list[np.ndarray] | None:
    """The rows of a run's test pictures: inputs, translations and, where known, truths; None where they cannot be had.

    Returns:
        One array ``(n, h, w, 3)`` uint8 per row.
    """
    path = Path(trial.folder) / f"pictures_{direction}.png"
    metrics: Any = trial.metrics()
    if not path.is_file() or metrics is None or direction not in metrics:
        return None
    whole = np.asarray(Image.open(path).convert("RGB"))
    rows = 3 if metrics[direction].get("psnr_truth") is not None else 2
    height = (whole.shape[0] - PAD) // rows
    strips = [whole[PAD + k * height : (k + 1) * height] for k in range(rows)]
    # A column of the padding's black in every row parts two pictures.
    black = np.flatnonzero(~whole.any(axis=(0, 2)))
    edges = [x for x in black if x == 0 or x - 1 not in black]
    cells = [(a + PAD, b) for a, b in itertools.pairwise(edges)]
    if len({b - a for a, b in cells}) > 1:  # a picture with a black column of its own
        return None
    return [np.stack([strip[:, a:b] for a, b in cells]) for strip in strips] if cells else None


def figure(grid: Grid, trials: Sequence[Trial]) -> Figure:
    """Pictures above; an effect plot per axis and quality against cost below."""
    columns, rows = collect(trials)
    by_name = {column.name: column for column in columns}
    directions = [d for d in ("a2b", "b2a") if f"fid_{d}" in by_name]
    galleries = [(d, shown) for d in directions if (shown := _gallery(trials, d))]
    plots = len(grid.axes) + 1
    heights = [1.15 * SHOWN + 0.6 for _ in galleries] + [3.4]
    width = max(4.0 * plots, 1.15 * max((len(g) for _, g in galleries), default=0))
    drawing = plt.figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
    parts = drawing.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (direction, shown) in zip(parts, galleries, strict=False):
        _draw_gallery(part, direction, shown)
    cells = parts[-1].subplots(1, plots, squeeze=False)[0]
    for cell, axis in zip(cells, grid.axes, strict=False):
        _draw_effect(cell, grid, axis, rows, [by_name[f"fid_{d}"] for d in directions])
    _draw_pareto(cells[-1], rows, directions)
    drawing.suptitle(f"{grid.name}: {grid.experiment}")
    return drawing


def _gallery(trials: Sequence[Trial], direction: str) -> list[tuple[str, np.ndarray]]:
    """(title, pictures) of each column: the input, every point's translations, the truth."""
    found: dict[str, list[np.ndarray]] = {}
    for trial in trials:
        rows = pictures(trial, direction)
        if rows is not None and trial.point not in found:
            found[trial.point] = rows
    if not found:
        return []
    first = next(iter(found.values()))
    titles = {trial.point: "\n".join(trial.labels.values()) for trial in trials}
    truth = [("truth", first[2])] if len(first) > 2 else []
    return [("input", first[0]), *((titles[point], rows[1]) for point, rows in found.items()), *truth]


def _draw_gallery(part: Any, direction: str, shown: list[tuple[str, np.ndarray]]) -> None:
    count = min(SHOWN, *(len(images) for _, images in shown))
    cells = part.subplots(count, len(shown), squeeze=False)
    part.suptitle(direction, fontsize=9)
    for column, (title, images) in enumerate(shown):
        for row in range(count):
            cells[row][column].imshow(images[row])
            cells[row][column].set_axis_off()
        cells[0][column].set_title(title, fontsize=7)


def _draw_effect(cell: Any, grid: Grid, axis: str, rows: Sequence[Row], scores: list[Column]) -> None:
    """A line per direction through each value's mean over rows that differ in nothing else; dots are runs."""
    values = list(grid.axes[axis])
    whole = _comparable(rows, axis, values)
    for score in scores:
        means = []
        for place, value in enumerate(values):
            there = [row for row in whole if row.labels[axis] == value]
            runs = [v for row in there for v in row.values(score.name)]
            cell.plot([place] * len(runs), runs, "o", color="0.6", markersize=4)
            found = [mean for row in there if (mean := row.mean(score.name)) is not None]
            means.append(np.mean(found) if found else np.nan)  # a point counts once, however many seeds it has
        cell.plot(range(len(values)), means, "-", label=score.heading)
    cell.set_xticks(range(len(values)), values)
    cell.set_title(f"FID by {axis}, all else equal", fontsize=9)
    cell.set_ylim(bottom=0)
    cell.legend(fontsize=7)


def _comparable(rows: Sequence[Row], axis: str, values: list[str]) -> list[Row]:
    """Rows whose like exists for every value of the axis: excluded combinations would tilt the means."""

    def others(row: Row) -> tuple[tuple[str, str], ...]:
        return tuple((a, v) for a, v in row.labels.items() if a != axis)

    there = {(others(row), row.labels[axis]) for row in rows if row.n}
    return [row for row in rows if all((others(row), value) in there for value in values)]


def _draw_pareto(cell: Any, rows: Sequence[Row], directions: list[str]) -> None:
    """Mean FID of the directions against cost; the line joins what nothing else beats in both.

    Cost is the number of trained parameters, where that differs: seconds depend on what ran beside.
    """
    counts = {row.mean("trainable_parameters") for row in rows if row.n}
    cost, name = ("trainable_parameters", "parameters trained") if len(counts) > 1 else COST_IN_SECONDS
    dots = []
    for row in rows:
        fids = [fid for d in directions if (fid := row.mean(f"fid_{d}")) is not None]
        price = row.mean(cost)
        if price is not None and len(fids) == len(directions):
            dots.append((price, float(np.mean(fids)), " ".join(row.labels.values())))
    for x, y, label in dots:
        cell.plot(x, y, "o", color="C0")
        cell.annotate(label, (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
    front = front_of([(x, y) for x, y, _ in dots])
    cell.plot([x for x, _ in front], [y for _, y in front], "-", color="C1", zorder=0)
    cell.set_xlabel(name, fontsize=8)
    cell.set_title("FID against cost", fontsize=9)
    cell.set_ylim(bottom=0)


def front_of(dots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs that no other pair beats in both numbers, less being better, by rising first number."""
    best, front = float("inf"), []
    for x, y in sorted(dots):
        if y < best:
            best = y
            front.append((x, y))
    return front
