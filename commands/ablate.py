"""``make ablate``: a grid of trainings on one machine or many, and one table of results."""

import argparse
import sys
from pathlib import Path

from ablation.grids import grid_names, read_grid
from ablation.trials import Trial, missing
from commands.cli.errors import user_errors
from commands.cli.recipes import EXPERIMENTS
from commands.cli.trials import Cost, check, plan, refuse_varied, shared_arguments
from metrics.scores import read_metrics
from storage import check_writable

GRIDS = EXPERIMENTS / "grids"
MANY = 50  # trials above which YES=1 is asked for


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to every training."""
    p = argparse.ArgumentParser(
        prog="one-step ablate",
        description="Train every point of a grid and compare them. Any further argument is one of `make train` and "
        "holds for every trial, e.g. --trainer.precision=bf16-mixed or --memory=12gb.",
    )
    p.add_argument("--grid", default="design", metavar="NAME", help=f"one of {', '.join(grid_names(GRIDS))}")
    p.add_argument("--exp", metavar="NAME", help="another experiment than the grid's, or a YAML file of your own")
    p.add_argument("--base", metavar="BASE", help="another base than the grid's; see `make train`")
    p.add_argument("--data", metavar="FOLDER", help="your images")
    p.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: the grid's)")
    p.add_argument("--quick", action="store_true", help="the grid's short form")
    p.add_argument("--resume", action="store_true", help="run the unfinished trials of an earlier call, and new ones")
    p.add_argument("--out", metavar="FOLDER", help="(default: runs/ablate/GRID)")
    p.add_argument("--address", metavar="HOST:PORT", help="of a running Ray cluster, or auto")
    p.add_argument("--cores", type=int, metavar="N", help="CPU threads of a trial (default: 1, beside a GPU 4)")
    p.add_argument("--gpus", type=float, metavar="N", help="GPUs of a trial, 0.5 for two on one (default: 1 if any)")
    p.add_argument("--yes", action="store_true", help=f"run more than {MANY} trials without being asked")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where a trial failed."""
    own, overrides = parser().parse_known_args(args)
    grid = read_grid(own.grid, GRIDS, own.quick)
    grid.experiment = own.exp or grid.experiment
    grid.base = own.base or grid.base
    if own.seeds is not None:
        if own.seeds < 1:
            raise ValueError(f"SEEDS is the number of seeds, at least 1, got {own.seeds}.")
        grid.seeds = list(range(own.seeds))
    folder = Path(own.out or Path("runs") / "ablate" / (f"{grid.name}-quick" if own.quick else grid.name)).absolute()
    check_writable(folder / "table.md")
    if own.resume:  # seeds of earlier calls stay in the table
        there = {int(path.parent.name[4:]) for path in folder.glob("*/seed*/metrics.json")}
        grid.seeds = sorted({*grid.seeds, *there})
    refuse_varied(grid, overrides)
    shared = shared_arguments(grid, own.data)
    cost = check(grid, shared, overrides)
    trials = plan(grid, shared, overrides, folder)
    if not own.resume and any(Path(t.folder).exists() for t in trials):
        done = sum(t.metrics() is not None for t in trials)
        raise ValueError(
            f"{folder} holds {done} of these {len(trials)} trials: RESUME=1 runs what is missing, OUT= names another."
        )
    left = missing(trials)
    if len(left) > MANY and not own.yes:
        raise ValueError(
            f"Grid {grid.name} is {len(left):,} trials{f' of {cost.images:,} images each' if cost.images else ''}"
            f"{_cost(folder, len(left))}. Go ahead with YES=1."
        )
    errors: dict[str, str] = {}
    if left:
        try:
            errors = _run(left, own, cost, folder)
        except KeyboardInterrupt:
            print("Interrupted. Finished trials are kept; RESUME=1 runs the rest.", file=sys.stderr)
            return 130
    from ablation.report import write_results  # matplotlib and scipy take a second to import

    written = write_results(grid, trials, folder)
    print((folder / "table.md").read_text() if written else "No trial has finished: there is no table.")
    for name, error in errors.items():
        print(f"failed: {name}: {error}")
    print(f"{folder}: {', '.join(written)}. Images and curves: make tensorboard LOGDIR={folder}")
    return 1 if errors else 0


def _run(trials: list[Trial], own: argparse.Namespace, cost: Cost, folder: Path) -> dict[str, str]:
    from ablation.engine import Cluster  # Ray takes seconds to import: errors above come at once

    # A trial of several processes reserves a core for each, so that no more trials start than there is room for.
    cores = own.cores if cost.processes == 1 else max(own.cores or 1, cost.processes)
    cluster = Cluster(own.address, cores, own.gpus)
    try:
        print(
            f"{len(trials)} trials, {cluster.at_once} at a time, {cluster.cores} threads and {cluster.gpus:g} GPUs each"
        )
        return cluster.run(trials, cost.images, folder)
    finally:
        cluster.close()


def _cost(folder: Path, count: int) -> str:
    spent = [read_metrics(path).get("wall_s") or 0.0 for path in folder.glob("*/seed*/metrics.json")]
    if not spent:
        return ""
    hours = count * sum(spent) / len(spent) / 3600
    return f", {hours:.1f} hours of training at the pace of the {len(spent)} finished ones"


if __name__ == "__main__":
    raise SystemExit(main())
