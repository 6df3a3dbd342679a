"""``make bench``: seconds per batch of CycleGAN-Turbo's two update rules, fused against sequential.

The rules take turns, a few batches each, so that a drift in the machine's speed affects both; the ratio is of medians.
"""

import argparse
import functools
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from benchmarks.context import device_name
from datamodules.batches import UnpairedBatch
from lightning_modules import CycleGANTurbo
from lightning_modules.unpaired import UnpairedWeights
from networks import EnsembleDiscriminator, OneStepGenerator, PatchDiscriminator, VisionAidedDiscriminator
from storage import write_json

PROMPTS = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}


class Stopwatch(Callback):
    """Measures the seconds of each training step, without the data loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Start the clock."""
        self._synchronise()
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Append the seconds of the step."""
        self._synchronise()
        self.seconds.append(time.perf_counter() - self.start)

    @staticmethod
    def _synchronise() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def build(update: Literal["fused", "sequential"]) -> CycleGANTurbo:
    """The pocket recipe's model (experiments/base/pocket.yaml) with one update rule."""
    torch.manual_seed(0)
    adamw = functools.partial(torch.optim.AdamW, lr=1e-5)
    discriminator = EnsembleDiscriminator([VisionAidedDiscriminator("lite1"), PatchDiscriminator(32)])
    generator = OneStepGenerator("pocket", rank_unet=16, rank_vae=4)
    return CycleGANTurbo(generator, discriminator, adamw, adamw, PROMPTS, UnpairedWeights(), "lite1", update)


class Noise(Dataset[UnpairedBatch]):
    """Whole batches of noise; the time of a step does not depend on what the images show."""

    def __init__(self, count: int, batch_size: int, size: int) -> None:
        index, names = torch.arange(batch_size), ["noise"] * batch_size
        noise = torch.rand(count, 2, batch_size, 3, size, size) * 2 - 1
        self.batches = [UnpairedBatch(a, b, index, index, names, names) for a, b in noise]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> UnpairedBatch:
        return self.batches[index]


def measure(batch_size: int, size: int, rounds: int, per_round: int) -> dict[str, Any]:
    """Median seconds per batch of both rules and their ratio; the first batch of each turn is not counted."""
    models = {"fused": build("fused"), "sequential": build("sequential")}
    seconds: dict[str, list[float]] = {update: [] for update in models}
    ratios = []
    for _ in range(rounds):
        turn = {}
        for update, model in models.items():
            watch = Stopwatch()
            trainer = Trainer(
                max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, callbacks=[watch],
            )  # fmt: skip
            trainer.fit(model, DataLoader(Noise(per_round + 1, batch_size, size), batch_size=None))
            seconds[update] += watch.seconds[1:]
            turn[update] = statistics.median(watch.seconds[1:])
        ratios.append(turn["fused"] / turn["sequential"])
    medians = {update: statistics.median(values) for update, values in seconds.items()}
    return {
        "batch_size": batch_size,
        **{f"{update}_s": value for update, value in medians.items()},
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    """Print the table and write the JSON."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.update_rule", description=__doc__)
    p.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="batch sizes")
    p.add_argument("--rounds", type=int, default=5, help="turns of each rule")
    p.add_argument("--per-round", type=int, default=4, help="batches counted per turn")
    p.add_argument("--out", type=Path, default=Path("runs/bench/update_rule.json"))
    own = p.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    print("batch  fused s  sequential s  fused/sequential (min to max)", flush=True)
    for batch_size in own.batch:
        row = measure(batch_size, own.size, own.rounds, own.per_round)
        rows.append(row)
        print(
            f"{row['batch_size']:5d}  {row['fused_s']:7.3f}  {row['sequential_s']:12.3f}  {row['ratio']:.3f} "
            f"({row['ratio_min']:.3f} to {row['ratio_max']:.3f})",
            flush=True,
        )
    report = {
        "size": own.size,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }
    write_json(own.out, report)
    print(f"written: {own.out}")


if __name__ == "__main__":
    main()
