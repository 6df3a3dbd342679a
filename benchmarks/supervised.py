"""``make bench-supervised``: quick starts of the unpaired tasks, trained on their ground-truth pairs.

Pix2Pix-Turbo on pocket, by its quick start's recipe, is trained on the scenes of an unpaired task rendered in both
domains, and measured on that task's own test scenes: a bound for what an unpaired quick start can be expected to reach.
Each training is an ordinary run folder below ``--root``: a finished one is not repeated, an interrupted one is resumed.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

from ablation.trials import Trial
from benchmarks.context import typed_command
from benchmarks.trial_queue import TrialQueue
from commands.cli.recipes import compose
from commands.evaluate import build_data
from datamodules.batches import DOMAINS, Direction
from datamodules.files.layouts import FOLDER_NAMES
from datamodules.scenes import SceneImages, render
from datamodules.unpaired import UnpairedImages
from images.writing import write_image
from metrics.scores import markdown_table
from storage import write_json

TASKS = ("day2night", "clear2foggy", "horse2zebra")
DIRECTIONS = ("a2b", "b2a")
SCORES = ("fid", "lpips_truth", "psnr_truth")


def write_pairs(data: UnpairedImages, direction: Direction, root: Path) -> None:
    """Render the scenes of a direction's source domain in both domains, into the folders of `PairedImages`.

    Args:
        data: an unpaired task of rendered scenes.
        direction: "a2b" or "b2a".
        root: where to; images that are there already are not rendered again.
    """
    for stage, name in FOLDER_NAMES.items():
        source, target = DOMAINS[direction]
        scenes = data.images[stage][source]
        assert isinstance(scenes, SceneImages)
        for side, domain in zip("AB", (source, target), strict=True):
            for index in range(scenes.first, scenes.first + len(scenes)):
                path = root / f"{name}_{side}" / f"{index:06d}.png"
                if not path.is_file():
                    write_image(path, render(scenes.task, domain, scenes.seed, index, scenes.side))


def row(task: str, direction: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """A run's scores, and FID and LPIPS as shares of those of the unchanged input."""
    found = metrics["a2b"]
    shares = {name: found[name] / found["copy_input"][name] for name in ("fid", "lpips_truth")}
    return {
        "task": task,
        "direction": direction,
        **{name: found[name] for name in SCORES},
        "of_copying": shares,
        "images": metrics["images_seen"],
        "seconds": metrics["wall_s"],
        "versions": metrics["versions"],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    headings = ["task", "FID", "of copying", "LPIPS to truth", "of copying", "PSNR to truth", "images"]
    cells = [
        [
            f"{r['task']} {r['direction']}",
            f"{r['fid']:.4g}",
            f"{r['of_copying']['fid']:.2f}",
            f"{r['lpips_truth']:.4f}",
            f"{r['of_copying']['lpips_truth']:.2f}",
            f"{r['psnr_truth']:.1f}",
            str(r["images"]),
        ]
        for r in rows
    ]
    return markdown_table(headings, cells) + "\n"


def train_all(
    tasks: list[str], directions: list[Direction], root: Path, overrides: list[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Train what has not finished; returns the rows of the table, and the error of each failure by log file."""
    recipes = {task: build_data(compose(task, "pocket").config, None) for task in tasks}
    trials = []
    for task, data in recipes.items():
        for direction in directions:
            folder = root / task / direction
            words = [f"--seed_everything={data.seed}", "--exp=edge2image", "--base=pocket"]
            words += [f"--data={folder / 'pairs'}", f"--data.init_args.caption={data.prompts[direction]}", *overrides]
            labels = {"task": task, "direction": direction}
            trials.append(Trial(f"{task}/{direction}", labels, data.seed, str(folder / f"seed{data.seed}"), words))
    queue = TrialQueue(trials)
    rows, failures = [], {}
    for trial, (task, direction) in zip(trials, itertools.product(recipes, directions), strict=True):
        if trial.metrics() is None:
            data = recipes[task]
            assert isinstance(data, UnpairedImages)
            write_pairs(data, direction, root / task / direction / "pairs")
            if error := queue.train(trial):
                failures[str(trial.log)] = error
                continue
        if metrics := trial.metrics():
            rows.append(row(task, direction, metrics))
    return rows, failures


def main(args: list[str] | None = None) -> int:
    """Render, train, then write and print the table; returns 1 where a training failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.supervised", description=__doc__)
    p.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        choices=TASKS,
        metavar="EXP",
        help="unpaired experiments (default: all)",
    )
    p.add_argument("--directions", nargs="+", default=list(DIRECTIONS), choices=DIRECTIONS, metavar="DIRECTION")
    p.add_argument("--root", type=Path, default=Path("runs/bench-supervised"), help="folder of pairs, runs and table")
    p.add_argument("--out", type=Path, help="write the JSON here too, e.g. benchmarks/results/supervised.json")
    own, overrides = p.parse_known_args(args)
    try:
        rows, failures = train_all(own.tasks, own.directions, own.root.absolute(), overrides)
    except KeyboardInterrupt:
        print("\nStopped; the same command resumes from the last checkpoint.")
        return 130
    for path in (own.root / "table.json", *([own.out] if own.out else [])):
        write_json(path, {"command": typed_command(p, args), "rows": rows, "failures": failures})
    print(markdown(rows))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
