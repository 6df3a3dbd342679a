"""``make bench-scenes``: images of the twin world that one core renders per second."""

import argparse
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import cv2

from datamodules.scenes import PROMPTS, render_pixels
from metrics.scores import markdown_table
from storage import write_json


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__)
    p.add_argument("--size", type=int, default=128, help="pixels of the square's side (%(default)s)")
    p.add_argument("--count", type=int, default=40, help="images per round (%(default)s)")
    p.add_argument("--rounds", type=int, default=5, help="of all worlds in turn (%(default)s)")
    p.add_argument("--out", type=Path, metavar="FILE", help="also write JSON")
    options = p.parse_args()
    cv2.setNumThreads(1)
    rates: dict[str, list[float]] = {"-".join(world): [] for world in PROMPTS}
    for turn in range(options.rounds):
        for world in PROMPTS:
            start = time.perf_counter()
            for index in range(options.count):
                render_pixels(*world, seed=0, index=turn * options.count + index, size=options.size)
            rates["-".join(world)].append(options.count / (time.perf_counter() - start))
    rows = [
        [name, f"{statistics.median(found):.0f} ({min(found):.0f} to {max(found):.0f})"]
        for name, found in rates.items()
    ]
    print(markdown_table(["world", f"images per second at {options.size} px, median (min to max)"], rows))
    if options.out:
        report = {
            "command": "make bench-scenes",
            "settings": {"size": options.size, "count": options.count, "rounds": options.rounds},
            "processor": platform.processor() or platform.machine(),
            "versions": {n: version(n) for n in ("numpy", "opencv-python-headless")},
            "pictures_per_second": rates,
        }
        write_json(options.out, report)


if __name__ == "__main__":
    main()
