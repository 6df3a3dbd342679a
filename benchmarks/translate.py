"""``make bench-translate``: seconds per image and memory of every backend and precision, beside unmerged float32.

The reference is the way of the published code: PyTorch, float32, LoRA unmerged, contiguous memory.  Each model is timed
in turns with it; the cold start of each is a process of its own.  Weights are random,
which changes neither time nor memory.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from benchmarks.context import typed_command
from exporting.export import NAMES, Format, Samples, write_models
from images.ranges import Array
from inference.backends.torch import pick_device
from inference.translator import Translator
from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import read_adapter, save_adapter
from networks.features import load_features
from networks.one_step.prompts import PromptEncoder
from prompt_embeddings import PromptEmbeddings
from storage import atomic_folder, write_json

ARCHITECTURES = Path(__file__).parents[1] / "networks" / "architectures"
MODELS = ("torch-float32", "torch-bfloat16", "onnx-float32", "openvino-float32", "openvino-bfloat16", "openvino-int8")
PROMPTS = {"a2b": "driving in the night", "b2a": "driving in the day"}
GB = 1e9


def main(args: list[str] | None = None) -> None:
    """Measure every combination, print the table, write JSON where asked."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.translate", description=__doc__)
    p.add_argument("--base", default="pocket", help="pocket (default), sd-turbo (its architecture), or a folder")
    p.add_argument("--sizes", type=int, nargs="+", default=[128, 256], metavar="PIXELS", help="(default: 128 256)")
    p.add_argument("--batches", type=int, nargs="+", default=[1, 4], metavar="N", help="(default: 1 4)")
    p.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    p.add_argument("--pairs", type=int, default=5, metavar="N", help="of reference and model (default %(default)s)")
    p.add_argument("--device", default="auto", help="of PyTorch (default %(default)s); exported models run on the CPU")
    p.add_argument("--work", type=Path, help="folder of adapter and exports, reused; default: a temporary one")
    p.add_argument("--out", type=Path, help="also write JSON")
    options = p.parse_args(args)
    device = str(pick_device(options.device))
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        with one_process() as pool:  # whose memory the measured ones then have
            adapter = pool.submit(random_adapter, options.base, work).result()
        rows = []
        print(
            "| model | pixels | batch | seconds per image | of the reference | load s | first image s | peak GB |\n"
            "|---|---|---|---|---|---|---|---|",
            flush=True,
        )
        for model in options.models:
            with one_process() as pool:
                path, precision = pool.submit(prepared, model, adapter, work, min(options.sizes)).result()
            on = device if model.startswith("torch") else "cpu"
            cold = {size: cold_start(path, precision, on, size) for size in options.sizes}
            for size, batch in itertools.product(options.sizes, options.batches):
                seconds = paired(adapter, path, precision, on, size, batch, options.pairs)
                row = {"model": model, "device": on, "size": size, "batch": batch, **seconds, **cold[size]}
                rows.append(row)
                print(line(row), flush=True)
    if options.out:
        report = {"command": typed_command(p, args), "base": options.base, **machine(device), "rows": rows}
        write_json(options.out, report)


def one_process() -> ProcessPoolExecutor:
    """A pool of a single fresh process."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def random_adapter(base: str, work: Path) -> Path:
    """An adapter at random values in `work`, and for an architecture a base at random weights beside it."""
    adapter, source = work / "adapter", base
    if (adapter / "adapter.json").is_file():
        return adapter
    torch.manual_seed(0)
    if (ARCHITECTURES / base).is_dir():
        source = str(work / "base")
        for part, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
            kind.from_config(kind.load_config(ARCHITECTURES / base / part)).save_pretrained(work / "base" / part)
        scheduler = ARCHITECTURES / base / "scheduler"
        (work / "base" / "scheduler").mkdir()
        for path in scheduler.iterdir():
            (work / "base" / "scheduler" / path.name).write_bytes(path.read_bytes())
    generator = OneStepGenerator(source)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    generator.prompts = PROMPTS
    width = generator.unet.config["cross_attention_dim"]
    if source != base:  # an architecture has no text encoder
        draw = np.random.default_rng(0)
        values = {direction: draw.normal(size=(77, width)).astype(np.float32) for direction in PROMPTS}
        assert isinstance(generator.encode_prompts, PromptEncoder)
        generator.encode_prompts.take(PromptEmbeddings("0", PROMPTS, values), "this benchmark")
    else:
        generator.encode_prompts([*PROMPTS.values()])
    return save_adapter(generator, adapter)


def prepared(model: str, adapter: Path, work: Path, size: int) -> tuple[Path, str]:
    """Path and precision of a model; exported if it is no adapter and not there yet."""
    backend, precision = model.split("-")
    if backend == "torch":
        return adapter, precision
    path = work / model
    if not (path / "export.json").is_file():
        image = np.random.default_rng(1).uniform(-1, 1, (3, size, size)).astype(np.float32)
        samples = Samples({}, load_features("lite0"), calibration={"a2b": [image, -image]})
        # Random weights have no quality that could be lost, so nothing is compared.
        with atomic_folder(path, NAMES.__contains__) as part:
            write_models(read_adapter(adapter), None, part, Format(backend, precision, ["a2b"]), samples, print)
    return path, "auto"


def paired(
    adapter: Path, path: Path, precision: str, device: str, size: int, batch: int, pairs: int
) -> dict[str, float]:
    """Time reference and model in turns; the first call of each is not counted.

    Each has a process of its own: the threads of two runtimes in one process slow each other down.

    Returns:
        Medians of both in seconds per image, and of the ratios of the pairs.
    """
    with one_process() as reference, one_process() as model:
        reference.submit(_open_reference, adapter, device).result()
        model.submit(_open_model, path, precision, device).result()
        times = [
            [pool.submit(_timed, size, batch).result() / batch for pool in (reference, model)] for _ in range(pairs + 1)
        ][1:]
    theirs, mine = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(mine / theirs for theirs, mine in times)
    return {"seconds": mine, "reference_s": theirs, "ratio": ratio, "pairs": pairs}


_run: Callable[[Array], object]  # of the process: what it times


def _open_reference(adapter: Path, device: str) -> None:
    global _run  # a process of the pool keeps its model between tasks
    generator = load_generator(adapter).to(device)
    _run = lambda images: generator.translate(torch.from_numpy(images).to(device)).cpu()  # noqa: E731


def _open_model(path: Path, precision: str, device: str) -> None:
    global _run
    _run = Translator.load(path, precision, device).translate


def _timed(size: int, batch: int) -> float:
    """Seconds of one call; the results are in main memory when it returns."""
    images = np.random.default_rng(0).uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)
    start = time.perf_counter()
    _run(images)
    return time.perf_counter() - start


def cold_start(path: Path, precision: str, device: str, size: int) -> dict[str, float]:
    """Load and translate one image in a fresh process: seconds of both, imports included, and its peak memory."""
    command = [sys.executable, "-m", "benchmarks.cold_start", str(path), precision, device, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on: processor or GPU, threads, versions."""
    model = next((text.split(":")[1].strip() for text in _cpu() if text.startswith("model name")), platform.machine())
    flags = next((text for text in _cpu() if text.startswith("flags")), "").split()
    return {
        "cpu": model,
        "cpu_has": sorted(flag for flag in flags if flag.startswith("amx") or flag == "avx512_bf16"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else None,
        "versions": {name: version(name) for name in ("torch", "diffusers", "openvino", "onnxruntime", "nncf")},
    }


def _cpu() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cold = [f"{row['load_s']:.1f}", f"{row['first_image_s']:.1f}", f"{row['peak_bytes'] / GB:.1f}"]
    figures = [row["model"], row["size"], row["batch"], f"{row['seconds']:.3f}", f"{row['ratio']:.2f}"]
    return f"| {' | '.join(map(str, figures + cold))} |"


if __name__ == "__main__":
    main()
