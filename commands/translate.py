"""``make translate``: pictures through a trained generator, a file or a whole folder."""

import argparse
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import torch
from tqdm import tqdm

from commands.experiments import base_source
from commands.terminal import user_errors
from datamodules.contours import CONTOURS
from datamodules.headers import check_headers
from datamodules.images import (
    IMAGE_SUFFIXES,
    list_images,
    read_image_with_alpha,
    resize_short_side,
    resized_shape,
    write_image,
)
from networks import ImageTranslator, load_generator
from networks.weights import Adapter, read_adapter

MEGAPIXEL = 1024 * 1024  # pixels
Job = tuple[Path, Path]  # picture, PNG to write
Shape = tuple[int, int]  # height, width


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="python -m commands.translate",
        description="Translate a picture, or every picture of a folder, into PNGs of the same names and sub-folders.",
        usage="python -m commands.translate --ckpt CKPT --in IN --out OUT [options]",
        allow_abbrev=False,
    )
    p.add_argument("--ckpt", required=True, help="run folder, adapter folder, .ckpt, or a released .pkl")
    p.add_argument("--in", required=True, dest="source", metavar="IN", help="picture or folder")
    p.add_argument("--out", required=True, dest="target", metavar="OUT", help="PNG (for one picture) or folder")
    p.add_argument("--base", help="pocket, sd-turbo, folder or hub id; a .pkl needs it, else the one trained on")
    p.add_argument("--prompt", help="text that describes the result; else the one trained with")
    p.add_argument("--direction", default="a2b", help="a2b or b2a (default %(default)s)")
    p.add_argument("--strength", type=float, default=1.0, help="0 is a picture drawn from noise, 1 follows the input")
    p.add_argument("--seed", type=int, default=0, help="of the noise for a strength below 1")
    p.add_argument("--size", type=int, help="resize the short side to so many pixels first")
    p.add_argument("--preprocess", default="none", help="none, canny or sketch: lines drawn from photographs first")
    p.add_argument("--batch", type=int, default=1, help="pictures of equal size translated together")
    p.add_argument(
        "--device", default="auto", help="auto takes an accelerator if there is one; or cpu, or torch's name of it"
    )
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    # The checkpoint first: what is wrong with it should not wait for base and pictures.
    adapter = read_adapter(options.ckpt)
    prompt = check_options(options, adapter)
    device = pick_device(options.device)
    jobs = plan(Path(options.source), Path(options.target))
    shapes = check_pictures([picture for picture, _ in jobs], options.size)

    generator = load_generator(adapter, base_source(options.base)).to(device)
    generator.encode_prompts([prompt], device)
    generator.encode_prompts.release()  # the one prompt is cached; at full size its encoder takes 1.4 GB
    if options.strength == 1:
        generator.merge()
    else:
        print(f"Strength {options.strength:g}, noise from seed {options.seed}.")
    print(f"Base: {generator.base_description}")
    if "data" in adapter.card:
        print(f"Trained on: {adapter.card['data']}")
    lines = adapter.card.get("preprocessing", {}).get("preprocess", "none")
    if options.preprocess == "none" != lines:
        print(f"It was trained on {lines} lines: PREPROCESS={lines} draws them where the input is a photograph.")
    pictures = "1 picture" if len(jobs) == 1 else f"{len(jobs)} pictures"
    print(f"{pictures}, direction {options.direction}, prompt {prompt!r}, on {device}", flush=True)
    with tqdm(total=len(jobs), unit="picture") as progress:
        for batch in batches(jobs, shapes, options.batch):
            translate(generator, batch, prompt, options, device)
            progress.update(len(batch))
    print(f"Written to {options.target}")
    return 0


def check_options(options: argparse.Namespace, adapter: Adapter) -> str:
    """Refuse values that cannot work with this adapter; returns the prompt.

    Raises:
        ValueError: names the value as typed and what would do.
    """
    known = adapter.settings["directions"]
    if options.direction not in known:
        raise ValueError(f"Unknown direction {options.direction!r}: {options.ckpt} translates {' and '.join(known)}.")
    if not 0 <= options.strength <= 1:
        raise ValueError(f"STRENGTH must lie in [0, 1], got {options.strength:g}.")
    if options.preprocess != "none" and options.preprocess not in CONTOURS:
        raise ValueError(f"Unknown PREPROCESS {options.preprocess!r}: known are none, {', '.join(CONTOURS)}.")
    for name in ("size", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name.upper()} must be at least 1, got {value}.")
    prompt = adapter.card.get("prompts", {}).get(options.direction) if options.prompt is None else options.prompt
    if prompt is None:
        raise ValueError(
            f"{options.ckpt} names no prompt for {options.direction}: say what the result shows with PROMPT=."
        )
    return prompt


def pick_device(name: str) -> torch.device:
    """The device to run on; "auto" is the accelerator that torch sees, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"No device {name!r} here ({reason}). Use cpu, or auto for what is there.") from error
    return device


def plan(source: Path, target: Path) -> list[Job]:
    """Which pictures are read and which PNGs are written for them.

    Raises:
        FileNotFoundError: ``source`` is not there or holds no picture.
        ValueError: ``target`` cannot take the results, or would overwrite an input.
    """
    if not source.exists():
        raise FileNotFoundError(f"Nothing to translate: {source} does not exist. Give a picture or a folder as IN=.")
    named_as_picture = target.suffix.lower() in IMAGE_SUFFIXES and not target.is_dir()
    if source.is_dir():
        if named_as_picture or target.is_file():
            raise ValueError(f"IN {source} is a folder, so OUT must be one too, not the file {target}.")
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"OUT {target} is IN or lies in it, so results would be taken for input: give another folder."
            )
        pictures = list_images(source)
        if not pictures:
            raise FileNotFoundError(
                f"No pictures in {source}: looked for *{', *'.join(IMAGE_SUFFIXES)} in all sub-folders."
            )
        jobs = [(picture, (target / picture.relative_to(source)).with_suffix(".png")) for picture in pictures]
    elif named_as_picture:
        if target.suffix.lower() != ".png":
            raise ValueError(f"Results are written as PNG: name OUT {target.with_suffix('.png')} instead of {target}.")
        jobs = [(source, target)]
    else:
        jobs = [(source, target / f"{source.stem}.png")]
    _check_targets(jobs)
    return jobs


def _check_targets(jobs: list[Job]) -> None:
    writers: dict[Path, Path] = {}
    inputs = {picture.resolve() for picture, _ in jobs}
    for picture, png in jobs:
        if png in writers:
            raise ValueError(f"{writers[png]} and {picture} would both become {png}: rename one or move it elsewhere.")
        writers[png] = picture
        if png.resolve() in inputs:
            raise ValueError(f"OUT {png} would overwrite a picture of IN: give another name or folder.")
        if png.is_dir():
            raise ValueError(f"OUT {png} is a folder, a PNG is to be written there: give another name.")
        there = next(parent for parent in png.absolute().parents if parent.exists())
        if not there.is_dir():
            raise ValueError(f"OUT {png} cannot be written: {there} is a file, not a folder.")
        if not os.access(there, os.W_OK):
            raise ValueError(f"OUT {png} cannot be written: no permission to write in {there}.")


def check_pictures(pictures: Iterable[Path], size: int | None) -> dict[Path, Shape]:
    """Height and width at which each picture is translated; finds files that are no pictures or are cut off.

    Raises:
        ValueError: some cannot be used, or one is larger than a megapixel and no size was asked for.
    """
    shapes = check_headers(pictures)
    if size is not None:
        return {picture: resized_shape(height, width, size) for picture, (height, width) in shapes.items()}
    for picture, (height, width) in shapes.items():
        if height * width > MEGAPIXEL:
            raise ValueError(
                f"{picture} has {width} x {height} pixels. Above one megapixel memory and time grow steeply, far "
                "from the sizes trained at: say how large the result should be, e.g. SIZE=512 (short side, pixels)."
            )
    return shapes


def batches(jobs: Iterable[Job], shapes: dict[Path, Shape], size: int) -> Iterator[list[Job]]:
    """Jobs in groups of one shape, at most ``size`` each."""
    for _, group in groupby(sorted(jobs, key=lambda job: shapes[job[0]]), key=lambda job: shapes[job[0]]):
        alike = list(group)
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def translate(
    generator: ImageTranslator, batch: list[Job], prompt: str, options: argparse.Namespace, device: torch.device
) -> None:
    """Read, translate and write pictures of one shape."""
    inputs, alphas = [], []
    for picture, _ in batch:
        colours, alpha = read_image_with_alpha(picture)
        if alpha is not None:
            # What shows through is white, as in training; the result gets the transparency back.
            colours = colours * alpha + (1 - alpha)
        if options.size is not None:
            colours = resize_short_side(colours, options.size)
            alpha = None if alpha is None else (resize_short_side(alpha * 2 - 1, options.size) + 1) / 2
        inputs.append(colours if options.preprocess == "none" else CONTOURS[options.preprocess](colours))
        alphas.append(alpha)
    images = torch.stack(inputs).to(device)
    results = generator.translate(images, prompt, options.direction, options.strength, options.seed)
    for (_, png), result, alpha in zip(batch, results.cpu(), alphas, strict=True):
        write_image(png, result, alpha)


if __name__ == "__main__":
    raise SystemExit(main())
