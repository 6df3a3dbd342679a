"""``make bench-folder``: seconds to read, to compute and to write a folder, each alone, and of all three overlapped.

Weights are random, which changes no time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.context import device_name, typed_command
from benchmarks.translate import random_adapter
from datamodules.scenes import render
from images.headers import check_headers
from images.writing import encode_image, write_image
from inference.backends import Training
from inference.folder import choose, translate_folder
from inference.jobs import Settings, plan
from inference.translator import Translator
from metrics.scores import markdown_table
from storage import cores, write_json


def measured(translator: Translator, folder: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage alone, one after the other, and of the folder.

    Args:
        translator: of an adapter or an exported model.
        folder: of images.
        out: of results.
    """
    settings = Settings(prompt=translator.prompts(None, "a2b")[0])
    jobs = plan(folder, out)
    tasks, _ = choose(jobs, check_headers(image for image, _ in jobs), translator, settings)
    (first,) = [translator.prepare(task.source) for task in tasks[:1]]
    translator.compute([first], settings.prompt)  # embeds the prompt and merges the LoRA
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401  # what the work returns
        start = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - start
        return result

    prepared = timed("reading", lambda: [translator.prepare(task.source) for task in tasks])
    outputs = timed("computing", lambda: [translator.compute([one], settings.prompt)[0] for one in prepared])
    pairs = list(zip(prepared, outputs, strict=True))
    timed("writing", lambda: [encode_image(translator.finish(*pair)) for pair in pairs])
    timed("folder", lambda: list(translate_folder(translator, tasks, settings)))
    return seconds


def main(args: list[str] | None = None) -> None:
    """Render a folder, measure, print the table, write JSON where asked."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.translate_folder", description=__doc__)
    p.add_argument("--images", type=int, default=32, metavar="N", help="(default %(default)s)")
    p.add_argument("--sizes", type=int, nargs="+", default=[128, 1024], metavar="PIXELS", help="(default: 128 1024)")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="the median counts (default %(default)s)")
    p.add_argument("--out", type=Path, help="also write JSON")
    own = p.parse_args(args)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        translator = Translator.load(random_adapter("pocket", work))
        translator.backend.training = Training(size=128)  # as of the quick starts
        for size in own.sizes:
            folder = work / str(size)
            for k in range(own.images):
                write_image(folder / f"{k}.jpg", render("day_night", "a", 0, k, size))
            rounds = [measured(translator, folder, work / f"out-{size}-{k}") for k in range(own.rounds)]
            # The round whose folder took the median time: its stages were measured beside it.
            row = sorted(rounds, key=lambda seconds: seconds["folder"])[len(rounds) // 2]
            rows.append({"size": size, "images": own.images, **row})
    stages = ("reading", "computing", "writing")
    cells = [
        [
            str(row["size"]),
            *(f"{row[stage]:.2f}" for stage in stages),
            f"{sum(row[stage] for stage in stages):.2f}",
            f"{row['folder']:.2f}",
        ]
        for row in rows
    ]
    print(markdown_table(["pixels", *(f"{stage} s" for stage in stages), "sum s", "folder s"], cells))
    if own.out:
        about = {"command": typed_command(p, args), "device": device_name(), "cores": cores()}
        write_json(own.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
