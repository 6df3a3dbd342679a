"""``make bench-supervised``: how near the truth does a quick start come that is shown the true pairs?

Pix2Pix-Turbo on pocket, by its quick start's recipe, on the scenes of an unpaired task drawn in both domains, and
measured on that task's own test scenes.  What it misses, an unpaired quick start cannot be expected to reach.  Ordinary
run folders below ``--root``: what is finished is not run again, what was interrupted is resumed.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ablation.trials import last_words
from benchmarks.base_models import Run, expectation, start_or_resume, train
from commands.cli.recipes import compose
from commands.evaluate import build_data
from datamodules.files.layouts import FOLDER_NAMES
from datamodules.scenes import render
from datamodules.scenes.cached import KeptScenes
from datamodules.unpaired import UnpairedImages
from images.writing import write_image
from storage import write_json

TASKS = ("day2night", "clear2foggy", "horse2zebra")
DIRECTIONS = ("a2b", "b2a")
SCORES = ("fid", "lpips_truth", "psnr_truth")


def write_pairs(data: UnpairedImages, direction: str, root: Path) -> None:
    """Draw the scenes of a direction's source domain in both domains, into the folders of `PairedImages`.

    Args:
        data: an unpaired task without a folder, so that it renders.
        direction: "a2b" or "b2a".
        root: what is already drawn there is left as it is.
    """
    for stage, name in FOLDER_NAMES.items():
        scenes = data.images[stage][direction[0]]
        assert isinstance(scenes, KeptScenes)
        for side, domain in zip("AB", (direction[0], direction[-1]), strict=True):
            for index in range(scenes.first, scenes.first + len(scenes)):
                path = root / f"{name}_{side}" / f"{index:06d}.png"
                if not path.is_file():
                    write_image(path, render(scenes.task, domain, scenes.seed, index, scenes.side))


def row(task: str, direction: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """A run's figures, and FID and LPIPS as shares of what a copy of the input scores."""
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
    lines = ["| task | FID | of copying | LPIPS to truth | of copying | PSNR to truth | images |", "|---" * 7 + "|"]
    lines += [
        f"| {r['task']} {r['direction']} | {r['fid']:.4g} | {r['of_copying']['fid']:.2f} | {r['lpips_truth']:.4f} | "
        f"{r['of_copying']['lpips_truth']:.2f} | {r['psnr_truth']:.1f} | {r['images']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def train_all(
    tasks: list[str], directions: list[str], root: Path, overrides: list[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Train what is not finished; returns the rows, and why by log for what failed."""
    recipes = {task: build_data(compose(task, "pocket").config, None) for task in tasks}
    runs = {
        Run(task, "supervised", data.seed, root / task / direction / f"seed{data.seed}"): direction
        for task, data in recipes.items()
        for direction in directions
    }
    lengths = {run: metrics["wall_s"] for run in runs if (metrics := run.metrics())}
    rows, failures = [], {}
    for k, (run, direction) in enumerate(runs.items()):
        label = f"[{k + 1}/{len(runs)}] {run.task} {direction}"
        metrics = run.metrics()
        if metrics is None:
            data = recipes[run.task]
            assert isinstance(data, UnpairedImages)
            pairs = run.folder.parent / "pairs"
            write_pairs(data, direction, pairs)
            print(f"{label}: training, log {run.log}", flush=True)
            words = ["--exp=edge2image", "--base=pocket", f"--data={pairs}"]
            words += [f"--data.init_args.caption={data.prompts[direction]}", *overrides]
            expected = expectation(run, lengths)  # one recipe for all: as long as those before
            later = sum(r not in lengths for r in list(runs)[k + 1 :])
            if train(run, start_or_resume(run, words), expected, None if expected is None else expected * later):
                metrics = run.metrics() or {}
                lengths[run] = metrics["wall_s"]
        if metrics:
            rows.append(row(run.task, direction, metrics))
        else:
            failures[str(run.log)] = last_words(run.log)
            print(f"{label}: FAILED: {failures[str(run.log)]} (see {run.log})", flush=True)
    return rows, failures


def main(args: list[str] | None = None) -> int:
    """Draw, train, write and print the table; returns 1 where a training failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.supervised", description=__doc__)
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="EXP", help="of the unpaired ones")
    p.add_argument("--directions", nargs="+", default=list(DIRECTIONS), choices=DIRECTIONS, metavar="DIRECTION")
    p.add_argument("--root", type=Path, default=Path("runs/bench-supervised"), help="folder of pairs, runs and table")
    p.add_argument("--out", type=Path, help="write the JSON here too, e.g. benchmarks/results/supervised.json")
    own, overrides = p.parse_known_args(args)
    try:
        rows, failures = train_all(own.tasks, own.directions, own.root.absolute(), overrides)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from the last checkpoint.")
        return 130
    typed = shlex.join(["python", "-m", "benchmarks.supervised", *(sys.argv[1:] if args is None else args)])
    for path in (own.root / "table.json", *([own.out] if own.out else [])):
        write_json(path, {"command": typed, "rows": rows, "failures": failures})
    print(markdown(rows))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
