"""The figure of an ablation: the same inputs through every variant, each axis's effect, quality against cost."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ablation.grids import Grid
from ablation.tables import Column, Row, collect
from ablation.trials import Trial

mpl.use("Agg")  # no window

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

PAD = 2  # pixels around the images of a run's PNG
SHOWN = 3  # inputs
COST_IN_SECONDS = ("seconds_per_batch", "seconds per batch, beside other trials")


def images(trial: Trial, direction: str) -> list[NDArray[np.uint8]] | None:
    """The test images in a run folder: inputs, translations and, where known, ground truth.

    Returns:
        One array ``(n, h, w, 3)`` per row of the PNG; None where there is no PNG that says how it is laid out.
    """
    path = Path(trial.folder) / f"pictures_{direction}.png"
    if not path.is_file():
        return None
    with Image.open(path) as file:
        layout = file.info
        whole = np.asarray(file.convert("RGB"))
    if "columns" not in layout or "rows" not in layout:
        return None
    columns, rows = int(layout["columns"]), int(layout["rows"])
    whole = whole[:, int(layout.get("left", 0)) :]  # right of the labels
    height, width = ((size - PAD) // count for size, count in zip(whole.shape, (rows, columns), strict=False))
    # every image has its padding above and to the left
    cells = whole[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    return [*cells.transpose(0, 2, 1, 3, 4)[:, :, PAD:, PAD:]]


def figure(grid: Grid, trials: Sequence[Trial]) -> Figure:
    """Draw images above, and below them an effect plot per axis and quality against cost."""
    columns, rows = collect(trials)
    by_name = {column.name: column for column in columns}
    directions = [d for d in ("a2b", "b2a") if f"fid_{d}" in by_name]
    galleries = [(d, shown) for d in ("a2b", "b2a") if (shown := _gallery(trials, d))]
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


def _gallery(trials: Sequence[Trial], direction: str) -> list[tuple[str, NDArray[np.uint8]]]:
    """Title and images of each column: the input, every point's translations, the ground truth."""
    found: dict[str, list[NDArray[np.uint8]]] = {}
    for trial in trials:
        rows = images(trial, direction)
        if rows is not None and trial.point not in found:
            found[trial.point] = rows
    if not found:
        return []
    first = next(iter(found.values()))
    titles = {trial.point: "\n".join(trial.labels.values()) for trial in trials}
    truth = [("ground truth", first[2])] if len(first) > 2 else []
    return [("input", first[0]), *((titles[point], rows[1]) for point, rows in found.items()), *truth]


def _draw_gallery(part: SubFigure, direction: str, shown: list[tuple[str, NDArray[np.uint8]]]) -> None:
    count = min(SHOWN, *(len(found) for _, found in shown))
    cells = part.subplots(count, len(shown), squeeze=False)
    part.suptitle(direction, fontsize=9)
    for column, (title, found) in enumerate(shown):
        for row in range(count):
            cells[row][column].imshow(found[row])
            cells[row][column].set_axis_off()
        cells[0][column].set_title(title, fontsize=7)


def _draw_effect(cell: Axes, grid: Grid, axis: str, rows: Sequence[Row], scores: list[Column]) -> None:
    """Draw each value's mean over rows that differ in nothing else, a line per direction; dots are runs."""
    values = list(grid.axes[axis])
    whole = _comparable(rows, axis, values)
    for score in scores:
        means = []
        for place, value in enumerate(values):
            there = [row for row in whole if row.labels[axis] == value]
            runs = [v for row in there for v in row.values(score.name)]
            cell.plot([place] * len(runs), runs, "o", color="0.6", markersize=4)
            found = [mean for row in there if (mean := row.mean(score.name)) is not None]
            means.append(float(np.mean(found)) if found else np.nan)  # a point counts once, however many seeds it has
        cell.plot(range(len(values)), means, "-", label=score.heading)
    cell.set_xticks(range(len(values)), values)
    cell.set_title(f"FID by {axis}, all else equal", fontsize=9)
    cell.set_ylim(bottom=0)
    if scores:
        cell.legend(fontsize=7)


def _comparable(rows: Sequence[Row], axis: str, values: list[str]) -> list[Row]:
    """Rows that have a counterpart at every value of the axis: excluded combinations would bias the means."""

    def others(row: Row) -> tuple[tuple[str, str], ...]:
        return tuple((a, v) for a, v in row.labels.items() if a != axis)

    there = {(others(row), row.labels[axis]) for row in rows if row.n}
    return [row for row in rows if all((others(row), value) in there for value in values)]


def _draw_pareto(cell: Axes, rows: Sequence[Row], directions: list[str]) -> None:
    """Draw mean FID of the directions against cost; the line joins the Pareto front.

    Cost is the number of trained parameters where that differs, since seconds depend on the trials that ran beside.
    """
    counts = {row.mean("trainable_parameters") for row in rows if row.n}
    cost, name = ("trainable_parameters", "parameters trained") if len(counts) > 1 else COST_IN_SECONDS
    dots = []
    for row in rows:
        fids = [fid for d in directions if (fid := row.mean(f"fid_{d}")) is not None]
        price = row.mean(cost)
        if price is not None and fids and len(fids) == len(directions):
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
    """The Pareto front: pairs that no other pair beats in both numbers, lower being better, by rising first number.

    Examples:
        >>> front_of([(1, 9), (2, 5), (3, 7)])
        [(1, 9), (2, 5)]
    """
    best, front = float("inf"), []
    for x, y in sorted(dots):
        if y < best:
            best = y
            front.append((x, y))
    return front
