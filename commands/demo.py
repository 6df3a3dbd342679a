"""``make demo``: a web page on this machine that translates photographs by trained adapters."""

import argparse
import gc
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

from commands.cli.errors import user_errors
from commands.cli.recipes import base_source
from commands.serve import add_common_arguments, listen, serve, warn_if_open
from inference.backends import check_precision
from limits import Range, check_range
from packaged_adapters import PREFIX, packaged_names
from serving.catalogue import Facts, find_models

RUNS = "runs"
PATIENCE = 3.0  # seconds that a running translation has at the end


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step demo",
        description="Show a web page on which photographs are translated: before and after, variants, download.",
        allow_abbrev=False,
    )
    p.add_argument(
        "--ckpt",
        help="run folder, adapter folder, .ckpt, released .pkl, exported model, pocket:NAME, a folder of such folders, "
        f"or several of these joined by commas (default: {RUNS}, or the packaged adapters where it has none)",
    )
    add_common_arguments(p, port=7860)
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    check_precision(options.precision)
    check_range("PORT", options.port, Range(0, 65535, whole=True))
    paths = own_or_packaged() if options.ckpt is None else find_models(options.ckpt)
    facts = read_facts(paths)
    base = base_source(options.base)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the package is imported
    with listen(options.host, options.port) as listener, TemporaryDirectory(prefix="one-step-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{error.name} is not installed: pip install -e '.[demo]' adds what the page needs."
            ) from error
        from serving.demo import create_app
        from serving.models import LoadedModels

        models = LoadedModels({name: paths[name] for name in facts}, 2, options.precision, options.device, base)
        last = Timer(PATIENCE, leave, [folder])
        last.daemon = True
        app = create_app(models, facts, Path(folder), last.start)
        for name, known in facts.items():
            print(f"{name}: {known.base or 'base not known before loading'}, by {known.backend} ({known.path})")
        warn_if_open(listener, "leave HOST out")
        serve(app, listener, 1, "Open {} in a browser (Ctrl-C ends)", "critical")
    print("Stopped.")
    gc.freeze()  # at its end Python would first collect what the page was made of, which takes seconds
    return 0


def own_or_packaged() -> dict[str, Path]:
    """The adapters in runs/, by name; where there are none, those that come with the package."""
    try:
        return find_models(RUNS)
    except FileNotFoundError:
        print(f"No adapters in {RUNS}/ (`make train EXP=day2night` trains one): the page has the packaged ones.")
        return find_models(",".join(f"{PREFIX}{name}" for name in packaged_names()))


def read_facts(paths: dict[str, Path]) -> dict[str, Facts]:
    """Facts of each model; one of several that cannot be read is a warning.

    Raises:
        OSError: none can be read.
        ValueError: likewise.
    """
    facts: dict[str, Facts] = {}
    for name, path in paths.items():
        try:
            facts[name] = Facts.read(path)
        except (OSError, ValueError) as error:
            if len(paths) == 1:
                raise
            print(f"warning: left out: {error}", file=sys.stderr)
    if not facts:
        raise ValueError("None of the adapters found can be read.")
    return facts


def leave(folder: str) -> None:
    """End this process: a translation that still runs would keep it for as long as it takes."""
    shutil.rmtree(folder, ignore_errors=True)
    print("Stopped.", flush=True)
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
