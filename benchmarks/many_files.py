"""``make bench-files``: time and memory of a training's start with many image files, which are hard links of a few."""

import argparse
import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.context import device_name, typed_command
from metrics.scores import markdown_table
from storage import cores, write_json

IMAGES = 16  # that the links lead to, at least
PER_FOLDER = 5000
MANY_LINKS = 60_000  # of one file; ext4 allows 65,000


def main(args: list[str] | None = None) -> None:
    """Measure, print a table, write JSON where asked."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.many_files", description=__doc__)
    p.add_argument("--files", type=int, default=40_000, metavar="N", help="image files (%(default)s)")
    p.add_argument("--folder", type=Path, help="where they are made and removed (default: the temporary folder)")
    p.add_argument("--out", type=Path, metavar="FILE", help="also write JSON")
    p.add_argument("--start", type=Path, help=argparse.SUPPRESS)  # measure one start, in a process of its own
    options = p.parse_args(args)
    if options.start is not None:
        print(json.dumps(start(options.start)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="many-files-") as folder:
        needed, free = options.files // PER_FOLDER, os.statvfs(folder).f_favail
        if free < needed + 1000:
            p.error(f"{folder} has {free:,} inodes left, {needed + 1000:,} are needed: name another folder (--folder).")
        make_files(Path(folder), options.files)
        command = [sys.executable, "-m", "benchmarks.many_files", "--start", str(Path(folder, "data"))]
        environment = os.environ | {"ONE_STEP_CACHE": str(Path(folder, "cache"))}
        found = {}
        for name in ("first start", "later start"):
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found[name] = json.loads(done.stdout)
    times, sizes = ["seconds", "cpu_seconds"], [f"{part}_bytes_per_file" for part in ("resident", "peak", "pickled")]
    rows = [
        [name, *(f"{one[key]:.1f}" for key in times), *(f"{one[key]:.0f}" for key in sizes)]
        for name, one in found.items()
    ]
    print(markdown_table([f"{options.files:,} files", *(key.replace("_", " ") for key in times + sizes)], rows))
    if options.out:
        report = {
            "command": typed_command(p, args),
            "files": options.files,
            "device": device_name(),
            "cores": cores(),
            "starts": found,
        }
        write_json(options.out, report)


def make_files(folder: Path, count: int) -> None:
    """Two domains of `count` files in all, in folders of five thousand, and nothing else that takes space."""
    generator = np.random.default_rng(0)
    sources = [folder / f"source_{k}.jpg" for k in range(max(IMAGES, -(-count // MANY_LINKS)))]
    for source in sources:
        Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(source)
    for k in range(count):
        parent = folder / "data" / ("train_A" if k < count // 2 else "train_B") / f"part_{k // PER_FOLDER:04d}"
        if k % PER_FOLDER == 0 or k == count // 2:
            parent.mkdir(parents=True)
        os.link(sources[k % len(sources)], f"{parent}/{k:07d}.jpg")


def start(root: Path) -> dict[str, float]:
    """Do what a training does with its files before the first batch.

    Returns:
        Seconds on the clock, and of the processor, which other work beside it does not lengthen; bytes per file.
    """
    warnings.simplefilter("ignore")
    from datamodules import UnpairedImages

    gc.collect()
    before, began, cpu = resident(), time.perf_counter(), time.process_time()
    data = UnpairedImages(root=str(root))
    data.suspicions()
    next(iter(data.train_dataloader().batch_sampler or ()))
    data.val_dataloader()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    gc.collect()
    samples = data.training_set()
    count = sum(len(images) for pair in data.images.values() for images in pair.values())
    after, peak = resident(), resident("VmHWM")
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "resident_bytes_per_file": (after - before) / count,
        "peak_bytes_per_file": (peak - before) / count,
        "pickled_bytes_per_file": len(pickle.dumps(samples)) / count,
    }


def resident(entry: str = "VmRSS") -> int:
    """Bytes of this process in memory, now or ("VmHWM") at most so far; Linux only."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{entry}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
