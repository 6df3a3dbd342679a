"""``make bench-video``: how much translated videos flicker, on drives through the twin world whose motion is known.

The packaged adapters translate each frame: the whole image, by lift, and by lift with models
smoothed over time, as ``make translate`` does.  The warping error (`metrics.warping`) stands beside the truth's.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.context import device_name, typed_command
from commands.cli.recipes import compose
from commands.evaluate import build_data
from datamodules.scenes.drive import Frame, drive
from images.ranges import Array, from_pixels, to_pixels
from images.resizing import resize
from inference.high_resolution import SmoothedModels
from inference.translator import Translator
from metrics.psnr import psnr
from metrics.scores import markdown_table
from metrics.warping import warping_error
from packaged_adapters import PREFIX
from storage import write_json

TASKS = ("clear2foggy", "day2night")
METHODS = ("truth", "direct", "lift", "lift, smoothed", "enlarged")


def translated(translator: Translator, frames: Sequence[Array], method: str, direction: str) -> Iterator[Array]:
    """Translate the frames of a video, each ``(3, H, W)`` in [-1, 1].

    Args:
        translator: of an adapter trained at a smaller size.
        frames: of one shape.
        method: one of `METHODS` but "truth".
        direction: "a2b" or "b2a".
    """
    smoothed = SmoothedModels() if method == "lift, smoothed" else None
    for frame in frames:
        size = min(frame.shape[1:])
        prepared = translator.prepare(frame, size, resolution="direct" if method == "direct" else "lift")
        (output,) = translator.compute([prepared], None, direction)
        if method == "enlarged":
            yield resize(output, (frame.shape[1], frame.shape[2]))
        else:
            yield translator.finish(prepared, output, smoothed)


def scores(results: Sequence[Tensor], frames: Sequence[Frame], truths: Sequence[Tensor]) -> dict[str, float]:
    """Warping error, in levels of 255, and PSNR of the frames ``(3, H, W)``, 8 bits."""
    squared = [
        float(warping_error(now, before, torch.from_numpy(frame.flow), torch.from_numpy(frame.visible)))
        for before, now, frame in zip(results, results[1:], frames[1:], strict=False)
    ]
    similar = [float(psnr(result[None], truth[None])) for result, truth in zip(results, truths, strict=True)]
    return {"warping_error": float(np.sqrt(np.mean(squared))), "psnr": float(np.mean(similar))}


def rows(task: str, size: int, count: int, drives: int) -> list[dict[str, Any]]:
    """Mean scores of every direction and method.

    Args:
        task: an experiment of rendered streets with a packaged adapter.
        size: of the frames, pixels.
        count: frames of a drive.
        drives: number of drives.
    """
    data = build_data(compose(task, "pocket").config, None)
    assert data.scenes is not None
    first = data.scene_counts["train"] + data.scene_counts["validate"]  # the test split's
    translator = Translator.load(f"{PREFIX}{task}", "float32")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for index in range(first, first + drives):
        frames = list(drive(data.scenes, data.seed, index, size, count))
        for direction in translator.backend.directions:
            sources, targets = (
                [getattr(frame, letter) for frame in frames] for letter in (direction[0], direction[-1])
            )
            truths = [_tensor(pixels) for pixels in targets]
            for method in METHODS:
                results = truths
                if method != "truth":
                    images = [from_pixels(pixels) for pixels in sources]
                    results = [_tensor(to_pixels(r)) for r in translated(translator, images, method, direction)]
                found.setdefault((direction, method), []).append(scores(results, frames, truths))
    return [
        {"task": task, "direction": d, "method": m, **{k: float(np.mean([one[k] for one in all_])) for k in all_[0]}}
        for (d, m), all_ in found.items()
    ]


def _tensor(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """A line per task, direction and method."""
    cells = [
        [
            f"{row['task']} {row['direction']}",
            row["method"],
            f"{row['warping_error']:.2f}",
            "" if row["method"] == "truth" else f"{row['psnr']:.2f}",
        ]
        for row in table
    ]
    return markdown_table(["task", "frames", "warping error", "PSNR to truth"], cells) + "\n"


def main(args: list[str] | None = None) -> int:
    """Measure, print the table; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__)
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="EXP", help="(default: both)")
    p.add_argument("--size", type=int, default=512, metavar="PIXELS", help="(default %(default)s)")
    p.add_argument("--frames", type=int, default=16, metavar="N", help="of a drive (default %(default)s)")
    p.add_argument("--drives", type=int, default=3, metavar="N", help="per direction (default %(default)s)")
    p.add_argument("--out", type=Path, help="also write JSON")
    own = p.parse_args(args)
    table: list[dict[str, Any]] = []
    for task in own.tasks:
        table += rows(task, own.size, own.frames, own.drives)
    print(markdown(table))
    if own.out:
        write_json(own.out, {"command": typed_command(p, args), "device": device_name(), "rows": table})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
