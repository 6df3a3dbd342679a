"""``make translate``: translate image files through a trained generator, one or a whole folder."""

import argparse
from collections import Counter
from pathlib import Path

from commands.cli.errors import user_errors
from commands.cli.paths import check_checkpoint
from commands.cli.recipes import base_source
from inference.backends import check_precision
from inference.high_resolution import RESOLUTIONS
from inference.jobs import Job, plan
from limits import LIMITS, check_range
from storage import did_you_mean

LINES = ("none", "canny", "sketch")  # names in images.line_drawings.LINE_DRAWINGS


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="python -m commands.translate",
        description="Translate an image, or every image of a folder, into PNGs of the same names and sub-folders.",
        usage="python -m commands.translate --ckpt CKPT --in IN --out OUT [options]",
        allow_abbrev=False,
    )
    p.add_argument(
        "--ckpt", required=True, help="run folder, adapter folder, .ckpt, released .pkl, or folder of an exported model"
    )
    p.add_argument("--in", required=True, dest="source", metavar="IN", help="image or folder")
    p.add_argument("--out", required=True, dest="target", metavar="OUT", help="PNG (for one image) or folder")
    p.add_argument("--base", help="pocket, sd-turbo, folder or hub id; a .pkl needs it, else the one trained on")
    p.add_argument("--prompt", help="text that describes the result; else the one trained with")
    p.add_argument("--direction", default="a2b", help="a2b or b2a (default %(default)s)")
    p.add_argument("--strength", type=float, default=1.0, help="0 draws an image from noise, 1 follows the input")
    p.add_argument("--seed", type=int, default=0, help="of the noise for a strength below 1")
    p.add_argument("--size", type=int, help="resize the short side to this many pixels first")
    p.add_argument(
        "--resolution",
        default="auto",
        help="direct, lift or tiles; auto: direct up to the trained size, above it what suits the adapter's task",
    )
    p.add_argument("--preprocess", default="none", help="none, canny or sketch: lines drawn from photographs first")
    p.add_argument(
        "--precision", default="auto", help="float32, bfloat16, or auto: the faster here (default %(default)s)"
    )
    p.add_argument("--batch", type=int, default=1, help="images of equal size translated together")
    p.add_argument(
        "--device", default="auto", help="auto (an accelerator if there is one), cpu, or a device name of torch"
    )
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    check_checkpoint(options.ckpt)
    check_options(options)
    options.base = base_source(options.base)
    jobs = plan(Path(options.source), Path(options.target))
    translate(options, jobs)
    print(f"Written to {options.target}")
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse values that are invalid for every adapter.

    Raises:
        ValueError: names the value as typed and what is accepted.
    """
    if options.direction not in ("a2b", "b2a"):
        raise ValueError(f"Unknown DIRECTION {options.direction!r}: known are a2b and b2a.")
    if not 0 <= options.strength <= 1:
        raise ValueError(f"STRENGTH must lie in [0, 1], got {options.strength:g}.")
    if options.preprocess not in LINES:
        near = did_you_mean(options.preprocess, LINES)
        raise ValueError(f"Unknown PREPROCESS {options.preprocess!r}.{near} Known: {', '.join(LINES)}.")
    check_precision(options.precision)
    if options.resolution not in RESOLUTIONS:
        near = did_you_mean(options.resolution, RESOLUTIONS)
        raise ValueError(f"Unknown RESOLUTION {options.resolution!r}.{near} Known: {', '.join(RESOLUTIONS)}.")
    for name, setting in (("size", "eval_size"), ("batch", "eval_batch_size"), ("seed", "seed")):
        if (value := getattr(options, name)) is not None:
            check_range(name.upper(), value, LIMITS[setting])


def translate(options: argparse.Namespace, jobs: list[Job]) -> None:
    """Load adapter and base, and write every PNG.

    Args:
        options: of this command, checked.
        jobs: as `plan` gives them.

    Raises:
        ValueError: adapter, prompt, device, base or an image cannot be used.
    """
    # These take seconds to import: errors above come at once.
    from tqdm import tqdm

    from images.headers import check_headers
    from inference.folder import translate_folder
    from inference.translator import Translator

    shapes = check_headers(image for image, _ in jobs)
    translator = Translator.load(options.ckpt, options.precision, options.device, options.base)
    backend = translator.backend
    layouts = {
        image: translator.layout(image, shape, options.size, options.preprocess, options.resolution)
        for image, shape in shapes.items()
    }
    (prompt,) = translator.prompts(options.prompt, options.direction)
    backend.embed([prompt])
    backend.release()  # the one prompt is cached
    if options.strength != 1:
        print(f"Strength {options.strength:g}, noise from seed {options.seed}.")
    print(f"Base: {backend.base_description}")
    if backend.training.data is not None:
        print(f"Trained on: {backend.training.data}")
    lines = backend.training.line_drawing
    if options.preprocess == "none" != lines:
        print(f"It was trained on {lines} lines: PREPROCESS={lines} draws them where the input is a photograph.")
    images = "1 image" if len(jobs) == 1 else f"{len(jobs)} images"
    print(f"Computed by: {backend.name} in {backend.precision} on {backend.device}")
    print(f"{images}, direction {options.direction}, prompt {prompt!r}")
    for how, count in Counter(map(str, layouts.values())).most_common():
        print(f"Resolution: {how}{f' ({count} images)' if count < len(jobs) else ''}", flush=True)
    with tqdm(total=len(jobs), unit="image") as progress:
        for done in translate_folder(
            translator,
            jobs,
            layouts,
            prompt,
            options.direction,
            options.strength,
            options.seed,
            options.size,
            options.preprocess,
            options.resolution,
            options.batch,
        ):
            progress.update(done)


if __name__ == "__main__":
    raise SystemExit(main())
