"""``make translate``: pictures through a trained generator, a file or a whole folder."""

import argparse
from pathlib import Path

from tqdm import tqdm

from commands.cli.errors import user_errors
from commands.cli.recipes import base_source
from images.line_drawings import LINE_DRAWINGS
from inference.device import pick_device
from inference.folder import check_pictures, plan, translate_folder
from inference.processing import Preprocessing
from networks import load_generator
from networks.checkpoints.adapter import read_adapter
from networks.checkpoints.card import Adapter


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
    run = adapter.card.run
    if run.data is not None:
        print(f"Trained on: {run.data}")
    lines = (run.preprocessing or {}).get("preprocess", "none")
    if options.preprocess == "none" != lines:
        print(f"It was trained on {lines} lines: PREPROCESS={lines} draws them where the input is a photograph.")
    pictures = "1 picture" if len(jobs) == 1 else f"{len(jobs)} pictures"
    print(f"{pictures}, direction {options.direction}, prompt {prompt!r}, on {device}", flush=True)
    with tqdm(total=len(jobs), unit="picture") as progress:
        for done in translate_folder(
            generator,
            jobs,
            shapes,
            Preprocessing.named(options.size, options.preprocess),
            prompt,
            options.direction,
            options.strength,
            options.seed,
            options.batch,
            device,
        ):
            progress.update(done)
    print(f"Written to {options.target}")
    return 0


def check_options(options: argparse.Namespace, adapter: Adapter) -> str:
    """Refuse values that cannot work with this adapter; returns the prompt.

    Raises:
        ValueError: names the value as typed and what would do.
    """
    known = adapter.card.settings.directions
    if options.direction not in known:
        raise ValueError(f"Unknown direction {options.direction!r}: {options.ckpt} translates {' and '.join(known)}.")
    if not 0 <= options.strength <= 1:
        raise ValueError(f"STRENGTH must lie in [0, 1], got {options.strength:g}.")
    if options.preprocess != "none" and options.preprocess not in LINE_DRAWINGS:
        raise ValueError(f"Unknown PREPROCESS {options.preprocess!r}: known are none, {', '.join(LINE_DRAWINGS)}.")
    for name in ("size", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name.upper()} must be at least 1, got {value}.")
    prompt = adapter.card.prompts.get(options.direction) if options.prompt is None else options.prompt
    if prompt is None:
        raise ValueError(
            f"{options.ckpt} names no prompt for {options.direction}: say what the result shows with PROMPT=."
        )
    return prompt


if __name__ == "__main__":
    raise SystemExit(main())
