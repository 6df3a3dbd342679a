"""``make bench-resolution``: lift, tiles and the whole image beside each other, on scenes rendered at larger sizes.

The packaged adapters of the unpaired tasks, trained at 128 px, translate scenes of 512 px and more, which they were not
trained on.  Each result is compared with its counterpart rendered at that size; ``enlarged`` is the translation at the
trained size, enlarged bicubically.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.context import device_name, typed_command
from commands.cli.recipes import compose
from commands.evaluate import build_data
from datamodules.scenes import render
from images.ranges import Array
from images.resizing import resize
from inference.high_resolution import seam_gradients
from inference.translator import Translator
from metrics.pixels import from_uint8, to_uint8
from metrics.psnr import psnr
from metrics.scores import markdown_table
from networks.features import FeatureNetwork, load_features
from packaged_adapters import PREFIX
from storage import write_json

TASKS = ("clear2foggy", "day2night", "horse2zebra")
SCORES = ("lpips", "psnr", "seconds", "at_seams", "beside_seams", "at_seams_truth", "beside_seams_truth")
METHODS = ("lift", "tiles", "direct", "enlarged")


def translations(translator: Translator, source: Array, direction: str) -> dict[str, tuple[Array, float]]:
    """Translate one image by every method; results and seconds by name.

    Args:
        translator: of an adapter trained at a smaller size.
        source: ``(3, H, W)`` in [-1, 1].
        direction: "a2b" or "b2a".
    """
    size, trained = min(source.shape[1:]), translator.backend.training.size
    results = {}
    for method in METHODS:
        start = time.perf_counter()
        if method == "enlarged":
            result = resize(translator(source, direction, size=trained), (source.shape[1], source.shape[2]))
        else:
            result = translator(source, direction, size=size, resolution=method)
        results[method] = result, time.perf_counter() - start
    return results


def rows(task: str, size: int, scenes: int, lpips: FeatureNetwork) -> list[dict[str, Any]]:
    """Mean scores of every direction and method at one size.

    Args:
        task: an experiment of rendered scenes with a packaged adapter.
        size: of the scenes, pixels.
        scenes: number of them.
        lpips: network of the perceptual distance.
    """
    data = build_data(compose(task, "pocket").config, None)
    assert data.scenes is not None
    first = data.scene_counts["train"] + data.scene_counts["validate"]  # the test split's
    translator = Translator.load(f"{PREFIX}{task}", "float32")
    found: list[dict[str, Any]] = []
    for direction in translator.backend.directions:
        source, target = direction[0], direction[-1]
        sums = {method: dict.fromkeys(SCORES, 0.0) for method in METHODS}
        for index in range(first, first + scenes):
            image, truth = (render(data.scenes, domain, data.seed, index, size) for domain in (source, target))
            for method, (result, seconds) in translations(translator, image.numpy(), direction).items():
                pixels = [to_uint8(one[None]) for one in (torch.from_numpy(result), truth)]
                tile = translator.layout("", (size, size), resolution="tiles").network_shape
                with torch.inference_mode():
                    distance = lpips.distance(*(lpips.stages(from_uint8(one)) for one in pixels))
                scores = {
                    "lpips": float(distance),
                    "psnr": float(psnr(*pixels)),
                    "seconds": seconds,
                }
                for name, one in (("", result), ("_truth", truth.numpy())):
                    scores |= zip((f"at_seams{name}", f"beside_seams{name}"), seam_gradients(one, tile), strict=True)
                sums[method] = {name: sums[method][name] + value / scenes for name, value in scores.items()}
        found += [
            {"task": task, "direction": direction, "size": size, "method": method, **sums[method]} for method in METHODS
        ]
    return found


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """LPIPS and PSNR of every method, a line per task, direction and size."""
    cells = []
    for k in range(0, len(table), len(METHODS)):
        some = table[k : k + len(METHODS)]
        head = [f"{some[0]['task']} {some[0]['direction']}", str(some[0]["size"])]
        # The whole image has no seams, but what it shows there raises its gradients too.
        tiles, whole = (
            row["at_seams"] / row["beside_seams"] for row in (some[METHODS.index(m)] for m in ("tiles", "direct"))
        )
        cells.append(
            [
                *head,
                *(f"{row['lpips']:.3f} / {row['psnr']:.1f}" for row in some),
                f"{tiles / whole:.2f}",
            ]
        )
    return (
        markdown_table(["LPIPS / PSNR to truth", "pixels", *METHODS, "seams of tiles, to the whole image"], cells)
        + "\n"
    )


def main(args: list[str] | None = None) -> int:
    """Measure, print the table; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.resolution", description=__doc__)
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="EXP", help="(default: all)")
    p.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048], metavar="PIXELS")
    p.add_argument("--scenes", type=int, default=8, metavar="N", help="per direction and size (default %(default)s)")
    p.add_argument("--out", type=Path, help="also write JSON")
    own = p.parse_args(args)
    lpips = load_features("lite0")
    table: list[dict[str, Any]] = []
    for task in own.tasks:
        for size in own.sizes:
            table += rows(task, size, own.scenes, lpips)
            print(markdown(table[-2 * len(METHODS) :]), flush=True)
    print(markdown(table))
    if own.out:
        write_json(own.out, {"command": typed_command(p, args), "device": device_name(), "rows": table})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
