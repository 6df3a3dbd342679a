"""``make pocket``: make the packaged base from scratch, in stages that can be resumed."""

import argparse
from pathlib import Path

from commands.cli.errors import user_errors
from pretraining.settings import RECIPE, read_settings

STAGES = ("autoencoder", "teacher", "distillation", "export", "quality")


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step pocket",
        description="Make the packaged base from scratch: render captioned scenes, train the autoencoder, the "
        "text-conditional teacher and the one-step student, export them, and measure the result. Finished stages are "
        "skipped, an interrupted one is resumed from its last checkpoint. TensorBoard: make tensorboard LOGDIR=WORK.",
        allow_abbrev=False,
    )
    p.add_argument("--out", type=Path, metavar="FOLDER", help="where the base goes (default: networks/pocket)")
    p.add_argument(
        "--work",
        type=Path,
        default=Path("runs/pocket"),
        metavar="FOLDER",
        help="caches, checkpoints, results of the stages (%(default)s)",
    )
    p.add_argument(
        "--stage", action="append", choices=STAGES, help="do this one only; can be repeated (default: all in order)"
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a setting of {RECIPE.parent.name}/{RECIPE.name}, e.g. teacher.steps=500",
    )
    p.add_argument("--again", action="store_true", help="redo stages whose settings or inputs changed")
    p.add_argument("--device", default="auto", help="auto takes an accelerator if there is one; or cpu")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    settings = read_settings(options.set)
    # After the checks: these import torch, which takes seconds.
    from inference.backends.torch import pick_device
    from networks.one_step.bases import POCKET
    from pretraining import card, training
    from pretraining.workspace import Workspace

    run = {
        "autoencoder": training.train_autoencoder,
        "teacher": training.train_teacher,
        "distillation": training.distil,
        "export": card.export,
        "quality": card.quality,
    }
    device = pick_device(options.device)
    workspace = Workspace(options.work, options.out or POCKET, settings, options.again, device)
    for name in STAGES:
        if options.stage is None or name in options.stage:
            run[name](workspace)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
