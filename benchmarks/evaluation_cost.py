"""``make bench-evaluation``: how long the parts of an evaluation take, and the share that is not translation.

Times one direction of clear2foggy on the pocket base: inputs and real images are read from disk, the inputs translated,
the features of all computed by Lite0, then FID, KID and the other scores.  Without ``--data`` the images are scenes of
the twin world, rendered and written as PNG beforehand.  No other process reads ahead.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.context import device_name, typed_command
from commands.cli.training import versions
from datamodules import ClearFoggy
from datamodules.base import TranslationData
from datamodules.batches import EvaluationBatch
from datamodules.scenes import render
from evaluation.scorer import Scorer
from images.writing import write_image
from inference.backends.torch import pick_device
from metrics.scores import markdown_table
from networks import ImageTranslator, OneStepGenerator
from storage import write_json

PARTS = ("reading", "translating", "features", "statistics")
TRAIN = 20  # images of the training folders, which must exist and are not read
LIMIT = 0.5  # largest share of the whole for everything but translating


def main(args: list[str] | None = None) -> int:
    """Measure, print a table, write JSON where asked; returns 1 where all but translating takes half of the time."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.evaluation_cost", description=__doc__)
    p.add_argument("--pairs", type=int, default=1000, help="inputs, and as many real images (%(default)s)")
    p.add_argument("--size", type=int, default=256, help="pixels of the short side (%(default)s)")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="your images, as in docs/your-own-data.md")
    p.add_argument("--out", type=Path, metavar="FILE", help="also write JSON")
    options = p.parse_args(args)
    device = pick_device("auto")
    generator = OneStepGenerator("pocket", rank_unet=16, rank_vae=4).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or rendered(Path(folder), options.pairs, options.size)
        data = ClearFoggy(root=str(root), resize=options.size, crop=options.size, eval_size=options.size, num_workers=0)
        generator.prompts = data.prompts
        seconds, numbers = measure(data, generator, options.pairs, device)
    whole = sum(seconds.values())
    shares = {part: spent / whole for part, spent in seconds.items()}
    rows = [[part, f"{seconds[part]:.2f}", f"{shares[part]:.1%}"] for part in PARTS]
    print(markdown_table(["part", "seconds", "share"], rows))
    rest = 1 - shares["translating"]
    print(f"all but translating: {rest:.1%} of {whole:.1f} s, {numbers['n_fake']} pairs at {options.size} px")
    if options.out:
        report = {
            "command": typed_command(p, args),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "data": str(options.data) if options.data else "twin world, rendered to PNG",
            "size": options.size,
            **numbers,
            "seconds": seconds,
            "shares": shares,
            "all_but_translating": rest,
            "limit": LIMIT,
        }
        write_json(options.out, report)
    return int(rest >= LIMIT)


def rendered(root: Path, pairs: int, size: int) -> Path:
    """Write scenes of the twin world as PNG, the same ones on a clear day and in fog, in the layout of two folders."""
    for split, count in (("train", TRAIN), ("test", pairs)):
        for index, letter in tqdm(list(itertools.product(range(count), "ab")), desc=f"render {split}", disable=None):
            image = render("clear_foggy", letter, 0, index, size)
            write_image(root / f"{split}_{letter.upper()}" / f"{index:05d}.png", image)
    return root


@torch.no_grad()
def measure(
    data: TranslationData, generator: ImageTranslator, pairs: int, device: torch.device
) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of each of `PARTS`, and the numbers of real images and translations.

    Args:
        data: the data whose test split is translated from A to B.
        generator: the generator, on the device.
        pairs: number of inputs, and of real images, as far as the folder has them; whole batches are measured.
        device: where it runs; synchronised after each part.
    """
    seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[part] += time.perf_counter() - start

    def read(loader: Iterable[EvaluationBatch]) -> Iterator[EvaluationBatch]:
        batches, left = iter(loader), pairs
        while left > 0:
            with timed("reading"):
                batch = next(batches, None)
            if batch is None:
                return
            left -= len(batch.index)
            yield batch

    metrics = Scorer("lite0", "lite0", "lite0").build().to(device)
    for batch in tqdm(read(data.reference_dataloader("a2b", "test")), desc="real", disable=None):
        with timed("features"):
            metrics.update_real(batch.real.to(device), batch.index)
    for batch in tqdm(read(data.test_dataloader()[0]), desc="translate", disable=None):
        real = batch.real.to(device)
        with timed("translating"):
            fake = generator.translate(real, batch.captions, batch.direction)
        with timed("features"):
            metrics.update(real, fake, batch.index)
    with timed("statistics"):
        found = metrics.compute()
        metrics.per_image()
    return seconds, {key: found[key] for key in ("n_real", "n_fake")}


if __name__ == "__main__":
    raise SystemExit(main())
