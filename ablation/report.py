"""What a grid leaves in its folder: table.csv, table.md, report.png, report.html."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from ablation.figures import figure
from ablation.grids import Grid
from ablation.tables import MARKS, cell, collect, compare, markdown, notes, write_csv
from ablation.trials import Trial

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 110rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th {{ text-align: left; vertical-align: bottom; }} td.axis {{ text-align: left; font-weight: 600; }}
td.better {{ background: #d9f2e1; }} td.worse {{ background: #fbe0dd; }} td.other {{ background: #eee; }}
img {{ max-width: 100%; }} .scroll {{ overflow-x: auto; }}
</style></head><body>
<h1>{title}</h1>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
{notes}
<img alt="the same inputs through every variant, the effect of each axis, quality against cost"
 src="data:image/png;base64,{image}">
</body></html>
"""


def write_answer(grid: Grid, trials: Sequence[Trial], folder: Path) -> list[str]:
    """Write tables and pictures of what has finished.

    Returns:
        Names of the files; none where nothing has finished.
    """
    if not any(trial.metrics() for trial in trials):
        return []
    write_csv(folder / "table.csv", trials)
    (folder / "table.md").write_text(markdown(grid, trials))
    image = io.BytesIO()
    figure(grid, trials).savefig(image, dpi=110)
    (folder / "report.png").write_bytes(image.getvalue())
    (folder / "report.html").write_text(_page(grid, trials, image.getvalue()))
    return ["table.csv", "table.md", "report.png", "report.html"]


def _page(grid: Grid, trials: Sequence[Trial], image: bytes) -> str:
    columns, rows = collect(trials)
    head = "".join(f"<th>{html.escape(h)}</th>" for h in [*grid.axes, "n", *(c.heading for c in columns)])
    body = []
    for row in rows:
        cells = [f'<td class="axis">{html.escape(label)}</td>' for label in row.labels.values()]
        cells.append(f"<td>{row.n}</td>")
        for column in columns:
            verdict = compare(row, rows[0], column)
            cells.append(f'<td class="{verdict}">{html.escape(cell(row, column) + MARKS[verdict])}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return PAGE.format(
        title=html.escape(f"{grid.name}: {grid.experiment}"),
        head=head,
        body="".join(body),
        notes="".join(f"<p>{html.escape(note)}</p>" for note in notes(grid, trials, rows)),
        image=base64.b64encode(image).decode(),
    )
