"""``make bench-step``: seconds of a training step by update rule, memory layout and precision.

Shares are of the published order of steps (five for CycleGAN-Turbo, two for pix2pix-Turbo), in float32 and contiguous
tensors.  All variants take turns, so that a drift in the machine's speed affects each; a share is the median
over the rounds.  ``tiny-unet`` is SD-Turbo with its own VAE and a UNet of two small levels: on two CPU cores the
whole UNet would take minutes.  Weights are random, which changes no time.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device

from benchmarks.context import device_name, typed_command
from commands.cli.recipes import names
from commands.cli.training import versions
from commands.estimate import ARCHITECTURES, configuration, untrained
from datamodules.batches import PairedBatch, UnpairedBatch
from lightning_modules import CycleGANTurbo
from lightning_modules.base import TranslationModule
from lightning_modules.memory import prepare, random_batch
from metrics.scores import markdown_table
from storage import write_json

TINY_UNET = {
    "block_out_channels": [32, 64],
    "attention_head_dim": [2, 4],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
}


class Variant(NamedTuple):
    """How a step is computed.

    Attributes:
        published: whether CycleGAN-Turbo takes the published order of steps.
        layout: of the weights, which the activations follow.
        bfloat16: whether under autocast.
    """

    published: bool
    layout: torch.memory_format
    bfloat16: bool


VARIANTS = {
    "published": Variant(True, torch.contiguous_format, False),
    "contiguous": Variant(False, torch.contiguous_format, False),
    "channels-last": Variant(False, torch.channels_last, False),
    "contiguous, bfloat16": Variant(False, torch.contiguous_format, True),
    "channels-last, bfloat16": Variant(False, torch.channels_last, True),
}


def tiny_unet(folder: Path) -> Path:
    """Write the architecture of SD-Turbo with a tiny UNet."""
    shutil.copytree(ARCHITECTURES / "sd-turbo", folder)
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | TINY_UNET))
    return folder


def seconds(module: TranslationModule, variant: Variant, batch: UnpairedBatch | PairedBatch, steps: int) -> float:
    """Median seconds of some steps, after one that is not counted."""
    if isinstance(module, CycleGANTurbo):
        module.update = "sequential" if variant.published else "fused"
    module.to(memory_format=variant.layout)  # type: ignore[call-overload]  # missing in torch's stubs
    prepare(module)  # its optimisers start anew: their state has the layout of the weights
    device = batch.real_a.device
    found = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if variant.bfloat16 else nullcontext():
            module.training_step(batch, 0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def measure(exp: str, base: str, size: int, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """Median seconds of every variant, and shares of the reference.

    Args:
        exp: name of an experiment.
        base: name or folder of a base.
        size: side of the images, pixels.
        batch: images per step.
        rounds: in each, every variant has one turn.
        steps: of a turn that are counted.
    """
    cli = untrained(*configuration(exp, base, None, size, batch))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = cli.model.to(device).train()
    images = move_data_to_device(random_batch(module, batch, size), device)
    turns = [
        {name: seconds(module, variant, images, steps) for name, variant in VARIANTS.items()} for _ in range(rounds)
    ]
    return {
        "exp": exp,
        "base": Path(base).name,
        "size": size,
        "batch": batch,
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in VARIANTS},
        "shares": {name: statistics.median(turn[name] / turn["published"] for turn in turns) for name in VARIANTS},
    }


def main(args: list[str] | None = None) -> int:
    """Measure, print the table, write JSON where asked; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    p.add_argument("--exp", nargs="+", default=["clear2foggy", "edge2image"], choices=names(), metavar="EXP")
    p.add_argument("--bases", nargs="+", default=["tiny-unet", "pocket"], help="(default: both)")
    p.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], metavar="PIXELS", help="(default: all)")
    p.add_argument("--batch", type=int, default=1, metavar="N", help="images per step (default %(default)s)")
    p.add_argument("--rounds", type=int, default=5, metavar="N", help="(default %(default)s)")
    p.add_argument("--steps", type=int, default=2, metavar="N", help="counted in each turn (default %(default)s)")
    p.add_argument("--out", type=Path, help="also write JSON")
    own = p.parse_args(args)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for base in own.bases:
            source = str(tiny_unet(Path(work) / base)) if base == "tiny-unet" else base
            for exp in own.exp:
                for size in own.sizes:
                    rows.append(measure(exp, source, size, own.batch, own.rounds, own.steps))
                    print(exp, base, size, json.dumps(rows[-1]["seconds"]), flush=True)
    cells = [
        [row["exp"], row["base"], str(row["size"]), f"{row['seconds']['published']:.2f}"]
        + [f"{share:.2f}" for share in row["shares"].values()]
        for row in rows
    ]
    print(markdown_table(["experiment", "base", "pixels", "published s", *VARIANTS], cells))
    if own.out:
        about = {"command": typed_command(p, args), "device": device_name(), "threads": torch.get_num_threads()}
        write_json(own.out, {**about, "versions": versions(), "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
