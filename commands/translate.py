"""``make translate``: translate image files, one or a whole folder, or a video through a trained generator."""

import argparse
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_hub import hub_name
from commands.cli.errors import UnfinishedError, user_errors
from commands.cli.paths import check_checkpoint
from commands.cli.recipes import base_source
from images.listing import VIDEO_SUFFIXES
from inference.backends import check_precision
from inference.high_resolution import RESOLUTIONS
from inference.jobs import Job, Record, Settings, plan
from limits import LIMITS, check_range
from storage import did_you_mean, free_space, lock_folder, remove_unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.folder import Outcome, Task
    from inference.translator import Translator

LINES = ("none", "canny", "sketch")  # names in images.line_drawings.LINE_DRAWINGS
ENDINGS = ("png", "jpg", "webp")
GB = 1e9


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step translate",
        description="Translate an image, a video, or every image of a folder into files of the same names and "
        "sub-folders. A folder or video that was interrupted goes on where it stopped.",
        usage="one-step translate --ckpt CKPT --in IN --out OUT [options]",
        allow_abbrev=False,
    )
    p.add_argument(
        "--ckpt",
        required=True,
        help="run folder, adapter folder, .ckpt, released .pkl, exported model, pocket:NAME, or owner/name[@revision] "
        "on the hub",
    )
    p.add_argument("--in", required=True, dest="source", metavar="IN", help="image, folder or video")
    p.add_argument("--out", required=True, dest="target", metavar="OUT", help="file (for one image or video) or folder")
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
        "--precision", default="auto", help="float32, bfloat16, or auto: by network and hardware (default %(default)s)"
    )
    p.add_argument(
        "--batch", type=number_or_auto, help="images or tiles translated together; auto (default): by size and device"
    )
    p.add_argument("--ext", help="png, jpg or webp; default: the ending of OUT, png in a folder")
    p.add_argument("--depth", type=int, default=8, help="bits per channel of PNG: 8 or 16 (default %(default)s)")
    p.add_argument("--grey", default="rgb", help="keep: a grey file becomes a grey file (default %(default)s)")
    p.add_argument("--strict", type=int, default=0, help="1: do nothing where a file cannot be used (default 0)")
    p.add_argument(
        "--address",
        help="translate on a Ray cluster: host:port, auto for the one of this machine, local to start one here",
    )
    p.add_argument("--cores", type=int, help="CPU threads of each of its workers without a GPU (default 4 if there)")
    p.add_argument(
        "--device", default="auto", help="auto (an accelerator if there is one), cpu, or a device name of torch"
    )
    return p


def number_or_auto(word: str) -> int | None:
    """A number of images, or None for "auto"."""
    return None if word == "auto" else int(word)


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    check_options(options)
    options.base = base_source(options.base)
    options.ckpt = check_checkpoint(options.ckpt)
    source, target = Path(options.source).expanduser(), Path(options.target).expanduser()
    if options.address is not None:  # workers start in another folder
        source, target = source.absolute(), target.absolute()
    if source.suffix.lower() in VIDEO_SUFFIXES and not source.is_dir():
        return translate_video(options, source, target)
    jobs = plan(source, target, options.ext and f".{options.ext}", options.depth)
    failed = translate(options, jobs, source if source.is_dir() else None, target)
    if not failed:
        print(f"Written to {target}")
        return 0
    print(f"Written to {target}, but not {len(failed)} of {len(jobs)} images:", file=sys.stderr)
    for image, why in failed.items():
        print(f"  {why if str(image) in why else f'{image}: {why}'}", file=sys.stderr)
    return 1


def check_options(options: argparse.Namespace) -> None:
    """Refuse values that are invalid for every adapter.

    Raises:
        ValueError: names the value as typed and what is accepted.
    """
    if options.direction not in ("a2b", "b2a"):
        raise ValueError(f"Unknown DIRECTION {options.direction!r}: known are a2b and b2a.")
    if not 0 <= options.strength <= 1:
        raise ValueError(f"STRENGTH must lie in [0, 1], got {options.strength:g}.")
    for name, known in (
        ("preprocess", LINES),
        ("resolution", RESOLUTIONS),
        ("ext", ENDINGS),
        ("grey", ("rgb", "keep")),
    ):
        if (value := getattr(options, name)) not in (None, *known):
            near = did_you_mean(value, known)
            raise ValueError(f"Unknown {name.upper()} {value!r}.{near} Known: {', '.join(known)}.")
    for name, choices in (("depth", (8, 16)), ("strict", (0, 1))):
        if getattr(options, name) not in choices:
            raise ValueError(f"{name.upper()} must be {choices[0]} or {choices[1]}, got {getattr(options, name)}.")
    check_precision(options.precision)
    for name, setting in (("size", "eval_size"), ("batch", "eval_batch_size"), ("seed", "seed")):
        if (value := getattr(options, name)) is not None:
            check_range(name.upper(), value, LIMITS[setting])


def translate(options: argparse.Namespace, jobs: list[Job], folder: Path | None, target: Path) -> dict[Path, str]:
    """Load adapter and base, and write every image.

    Args:
        options: of this command, checked.
        jobs: as `plan` gives them.
        folder: the input if it is a folder, whose finished outputs are recorded and whose errors are collected.
        target: file or folder that is written.

    Returns:
        Why images could not be translated.

    Raises:
        ValueError: adapter, prompt, device, base, the only image, or with ``strict`` any image cannot be used.
        UnfinishedError: the disk filled up after some images.
        OSError: nothing can be written.
    """
    # These take seconds to import: errors above come at once.
    from commands.cli.progress import Progress
    from images.headers import read_headers, refuse
    from inference.folder import bytes_needed, choose, remaining, translate_folder
    from inference.translator import Translator

    shapes, failed = read_headers(image for image, _ in jobs)
    if not shapes or options.strict:
        refuse(failed, len(jobs))
    device = options.device if options.address is None else "cpu"  # there the workers compute
    translator = Translator.load(options.ckpt, options.precision, device, options.base)
    backend = translator.backend
    settings = settings_of(options, translator)
    tasks, unusable = choose(jobs, shapes, translator, settings)
    if unusable and (options.strict or not tasks):
        raise ValueError(next(iter(unusable.values())))
    failed |= unusable
    with ExitStack() as stack:
        record = None
        if folder is not None:
            stack.enter_context(lock_folder(target, "translation"))
            record = stack.enter_context(Record(target, folder, backend.identity, settings))
            if record.path.is_file():  # else nothing of ours was killed there
                remove_unfinished(target)
        left = tasks if record is None else remaining(tasks, record)
        written = len(tasks) - len(left)
        describe(options, translator, settings)
        if written:
            print(f"{written} of {len(jobs)} are finished already ({record and record.path})")
        if not left:
            return failed
        for how, count in Counter(str(task.layout) for task in left).most_common():
            print(f"Resolution: {how}, {count} image{'s' if count > 1 else ''}", flush=True)
        needed, room = bytes_needed(left, settings.depth), free_space(target)
        if needed > room:
            sizes = f"about {needed / GB:.1f} GB will be written, {room / GB:.1f} GB are free"
            print(f"warning: {sizes} on the disk of {target}", file=sys.stderr)
        with Progress(len(left)) as progress:
            if options.address is None:
                backend.embed([settings.prompt])
                backend.release()  # the one prompt is cached
                outcomes = translate_folder(translator, left, settings, options.batch, record)
            else:
                outcomes = on_cluster(options, backend.precision, left, settings, record)
            try:
                for outcome in outcomes:
                    progress.update()
                    if outcome.error is None:
                        written += 1
                    else:
                        failed[outcome.task.source] = outcome.error
            except OSError as error:
                if not written:
                    raise
                raise UnfinishedError(
                    f"{error} {written} of {len(jobs)} images are written; the same command does the others."
                ) from error
    if failed and folder is None:
        raise ValueError(next(iter(failed.values())))
    return failed


def translate_video(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Translate a video; returns the exit code, 1 where the input is damaged.

    Raises:
        FileNotFoundError: there is no such video.
        ValueError: it, the output, adapter, prompt, device or base cannot be used, or an option is for images only.
    """
    for name, usual in (("ext", None), ("depth", 8), ("grey", "rgb"), ("strict", 0), ("address", None)):
        if getattr(options, name) != usual:
            raise ValueError(f"{name.upper()} is for images, {source} is a video: leave it out.")
    from inference import video as videos

    video = videos.Video.check(source, target)
    from commands.cli.progress import Progress
    from inference.translator import Translator

    translator = Translator.load(options.ckpt, options.precision, options.device, options.base)
    settings = settings_of(options, translator)
    layout = translator.layout(source, video.shape, settings.size, settings.preprocess, settings.resolution)
    translator.backend.embed([settings.prompt])
    translator.backend.release()  # the one prompt is cached
    describe(options, translator, settings)
    print(f"Video: {video.description}")
    print(f"Resolution: {layout}", flush=True)
    try:
        with Progress(video.frames, "frame") as progress:
            damage = videos.translate_video(translator, video, settings, options.batch, progress.update, progress.skip)
    except MemoryError as error:
        raise ValueError(f"{error}: give a smaller SIZE.") from error
    for line in damage:
        print(f"warning: {line}", file=sys.stderr)
    print(f"Written to {target}{', what could be decoded' if damage else ''}")
    return 1 if damage else 0


def settings_of(options: argparse.Namespace, translator: "Translator") -> Settings:
    """The settings that the command line gives.

    Raises:
        ValueError: the model has no such direction, or no prompt for it.
    """
    (prompt,) = translator.prompts(options.prompt, options.direction)
    return Settings(
        prompt=prompt,
        direction=options.direction,
        strength=options.strength,
        seed=options.seed,
        size=options.size,
        preprocess=options.preprocess,
        resolution=options.resolution,
        depth=options.depth,
        keep_grey=options.grey == "keep",
    )


def on_cluster(
    options: argparse.Namespace, precision: str, tasks: "list[Task]", settings: Settings, record: Record | None
) -> "Iterator[Outcome]":
    """Translate on a Ray cluster."""
    from inference.cluster import Model, translate_on_cluster  # Ray takes seconds to import

    address = None if options.address == "local" else options.address
    path = Path(options.ckpt)
    model = Model(path if hub_name(path) else path.absolute(), precision, options.base)
    return translate_on_cluster(address, model, tasks, settings, options.batch, record, options.cores)


def describe(options: argparse.Namespace, translator: "Translator", settings: Settings) -> None:
    """Print what translates, by what, and what was trained."""
    backend = translator.backend
    if options.strength != 1:
        print(f"Strength {options.strength:g}, noise from seed {options.seed}.")
    print(f"Base: {backend.base_description}")
    if backend.training.data is not None:
        print(f"Trained on: {backend.training.data}")
    lines = backend.training.line_drawing
    if options.preprocess == "none" != lines:
        print(f"It was trained on {lines} lines: PREPROCESS={lines} draws them where the input is a photograph.")
    print(f"Computed by: {backend.name} in {backend.precision} on {backend.device}")
    print(f"Direction {settings.direction}, prompt {settings.prompt!r}")
    edits = backend.training.edits
    if edits and settings.prompt not in edits:
        print("\n  ".join(["That prompt was not trained, these were:", *edits]))


if __name__ == "__main__":
    raise SystemExit(main())
