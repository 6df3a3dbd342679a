"""``make bench-memory``: peak memory and seconds of real training steps at full size, on the GPU if there is one.

Every row of the table is measured in a process of its own.  All weights are random, which changes neither memory nor
time.  `make estimate` predicts the memory without running the steps.
"""

import argparse
import itertools
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from benchmarks.context import device_name, typed_command
from commands.cli.lightning_cli import TrainCLI
from commands.cli.recipes import MEMORY, names
from commands.cli.training import versions
from commands.estimate import configuration, untrained
from lightning_modules.memory import prepare, random_batch
from storage import write_json

GB = 1e9
STEPS = 3  # the first warms up: its time is not counted


def main(args: list[str] | None = None) -> None:
    """Measure every combination, print the table, write JSON where asked."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.training_memory", description=__doc__)
    p.add_argument("--exp", nargs="+", default=["clear2foggy", "edge2image"], choices=names(), metavar="EXP")
    p.add_argument("--base", default="sd-turbo", help="sd-turbo (default), pocket, or a folder")
    p.add_argument("--sizes", type=int, nargs="+", default=[256, 512], metavar="PIXELS", help="(default: 256 512)")
    p.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="(default: 1 2 4)")
    p.add_argument(
        "--memory", nargs="+", default=["none", *names(MEMORY)], metavar="PROFILE", help="none, or memory profiles"
    )
    p.add_argument("--out", type=Path, help="also write JSON")
    options = p.parse_args(args)
    rows: list[dict[str, Any]] = []
    print(
        "| experiment | profile | pixels | batch | peak GB | seconds per step |\n|---|---|---|---|---|---|", flush=True
    )
    for combination in itertools.product(options.exp, options.memory, options.sizes, options.batches):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            row = pool.submit(measure, options.base, *combination).result()
        rows.append(row)
        figures = "out of memory | -" if row["peak_gb"] is None else f"{row['peak_gb']:.1f} | {row['seconds']:.2f}"
        print(f"| {row['exp']} | {row['memory']} | {row['size']} | {row['batch']} | {figures} |", flush=True)
    if options.out:
        report = {"command": typed_command(p, args), "base": options.base, "device": device_name(), "rows": rows}
        write_json(options.out, report)


def measure(base: str, exp: str, memory: str, size: int, batch: int) -> dict[str, Any]:
    """Measure one row of the table: peak memory of the process (CPU) or the allocator (GPU); None where memory ran out.

    Args:
        base: name or folder of the base model.
        exp: name of the experiment.
        memory: a memory profile, or "none".
        size: side of the crops in pixels.
        batch: images per step.
    """
    row: dict[str, Any] = {"exp": exp, "memory": memory, "size": size, "batch": batch}
    try:
        cli = untrained(*configuration(exp, base, None if memory == "none" else memory, size, batch))
        seconds = _steps(cli, batch, size)
    except torch.OutOfMemoryError:
        return {**row, "peak_gb": None, "seconds": None}
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_reserved() / GB
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
    return {**row, "peak_gb": peak, "seconds": seconds, "precision": str(cli.trainer.precision), "versions": versions()}


def _steps(cli: TrainCLI, batch: int, size: int) -> float:
    """Median seconds of a training step; the first one is a warm-up, not counted."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = cli.model.to(device).train()
    bf16 = cli.trainer.precision == "bf16-mixed"
    seconds = []
    prepare(module)
    inputs = move_data_to_device(random_batch(module, batch, size), device)
    for _ in range(STEPS):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            module.training_step(inputs, 0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
