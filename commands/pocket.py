"""``make pocket``: make the packaged base from scratch, in stages that can be resumed."""

import argparse
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import pretraining
from commands.cli.errors import user_errors
from inference.device import pick_device
from networks.one_step.bases import POCKET
from pretraining.card import export, quality
from pretraining.training import distil, train_autoencoder, train_teacher
from pretraining.workspace import Workspace, flat

RECIPE = Path(pretraining.__file__).with_name("pocket.yaml")
STAGES: dict[str, Callable[[Workspace], None]] = {
    "autoencoder": train_autoencoder,
    "teacher": train_teacher,
    "distillation": distil,
    "export": export,
    "quality": quality,
}


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="python -m commands.pocket",
        description="Make the packaged base from scratch: render captioned scenes, train the autoencoder, the "
        "text-conditional teacher and the one-step student, export them, and measure the result. Finished stages are "
        "skipped, an interrupted one is resumed from its last checkpoint. TensorBoard: make tensorboard LOGDIR=WORK.",
        allow_abbrev=False,
    )
    p.add_argument("--out", type=Path, default=POCKET, metavar="FOLDER", help="where the base goes (networks/pocket)")
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
    device, settings = pick_device(options.device), read_settings(options.set)
    workspace = Workspace(options.work, options.out, settings, options.again, device)
    for name, run in STAGES.items():
        if options.stage is None or name in options.stage:
            run(workspace)
    return 0


def read_settings(changes: list[str], path: Path = RECIPE) -> DictConfig:
    """The recipe with changes such as "teacher.steps=500".

    Raises:
        ValueError: a change is no assignment, or names no setting, or its value is of another kind.
    """
    settings = OmegaConf.load(path)
    assert isinstance(settings, DictConfig)
    content = OmegaConf.to_container(settings)
    assert isinstance(content, dict)
    known = flat(content)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in known:
            raise ValueError(f"Unknown setting {change!r}: give one as KEY=VALUE. Known: {', '.join(known)}.")
        try:
            one = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        except OmegaConfBaseException as error:
            raise ValueError(f"{change}: the value cannot be read: {error}") from error
        assert isinstance(one, dict)
        old, parsed = known[key], one["value"]
        number = isinstance(old, float) and isinstance(parsed, int) and not isinstance(parsed, bool)
        if old is not None and not number and type(parsed) is not type(old):
            raise ValueError(f"{key} is {old!r}, so {value!r} cannot stand there.")
        OmegaConf.update(settings, key, parsed)
    return settings


if __name__ == "__main__":
    raise SystemExit(main())
