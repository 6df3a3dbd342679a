"""Write the report of a grid into its folder: table.csv, table.md, report.png, report.html."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablation.figures import figure
from ablation.grids import Grid
from ablation.tables import MARKS, cell, collect, compare, markdown, notes, table_csv
from ablation.trials import Trial
from storage import atomic_write


def write_results(grid: Grid, trials: Sequence[Trial], folder: Path) -> list[str]:
    """Write tables and figures of the trials that have finished.

    Returns:
        Names of the files; none where nothing has finished.
    """
    if not any(trial.metrics() for trial in trials):
        return []
    image = io.BytesIO()
    figure(grid, trials).savefig(image, dpi=110)
    files = {
        "table.csv": table_csv(trials).encode(),
        "table.md": markdown(grid, trials).encode(),
        "report.png": image.getvalue(),
        "report.html": _page(grid, trials, image.getvalue()).encode(),
    }
    for name, content in files.items():
        with atomic_write(folder / name) as part:
            part.write_bytes(content)
    return [*files]


def _page(grid: Grid, trials: Sequence[Trial], image: bytes) -> str:
    columns, rows = collect(trials)
    cells = []
    for row in rows:
        verdicts = [compare(row, rows[0], column) for column in columns]
        values = [cell(row, c) + MARKS[verdict] for c, verdict in zip(columns, verdicts, strict=True)]
        cells.append((row, [*zip(verdicts, values, strict=True)]))
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        title=f"{grid.name}: {grid.experiment}",
        headings=[*grid.axes, "n", *(c.heading for c in columns)],
        rows=cells,
        notes=notes(grid, trials, rows),
        image=base64.b64encode(image).decode(),
    )
