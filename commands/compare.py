"""``make compare``: runs side by side in one table, if they were measured by the same protocol."""

import argparse
from pathlib import Path
from typing import Any

from commands.cli.errors import user_errors
from evaluation.compare import table
from metrics.scores import read_metrics


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step compare",
        description="Print one table of several runs. Runs that were measured differently are refused, with the "
        "difference named: other test images, sizes, feature networks or numbers of images.",
        allow_abbrev=False,
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or metrics.json files")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own = parser().parse_args(args)
    if len(own.runs) < 2:
        raise ValueError("There is nothing to compare: give two runs or more (A=..., B=..., further ones in ARGS=).")
    runs = {name: _read(Path(name)) for name in own.runs}
    if len(runs) < len(own.runs):
        raise ValueError("A run was named twice.")
    print(table(runs))
    return 0


def _read(path: Path) -> dict[str, Any]:
    file = path / "metrics.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"No metrics at {path}: looked for {file}. Give a finished run's folder or a metrics.json (make evaluate)."
        )
    metrics = read_metrics(file)
    blocks = [metrics[d] for d in ("a2b", "b2a") if d in metrics]
    if not blocks or not all("protocol" in block and "network_hashes" in block for block in blocks):
        raise ValueError(f"{file} does not say how it was measured: write it anew with make evaluate CKPT={path}.")
    return metrics


if __name__ == "__main__":
    raise SystemExit(main())
