"""``make train``: train an experiment on a base, then score it on the test split."""

import argparse
from pathlib import Path

from commands.cli.errors import user_errors
from commands.cli.folders import add_folders, data_settings
from commands.cli.keys import check_keys
from commands.cli.paths import check_checkpoint, new_run_folder
from commands.cli.recipes import MEMORY, Recipe, compose, names
from commands.cli.values import check_values
from packaged_adapters import packaged_adapter


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="one-step train",
        description="Train an experiment. Any further argument overrides the configuration, "
        "e.g. --model.init_args.max_images=2000 "
        "--model.init_args.generator.init_args.rank_unet=8 --seed_everything=7.",
    )
    p.add_argument("--exp", required=True, metavar="NAME", help=f"{', '.join(names())}, or a YAML file of your own")
    p.add_argument(
        "--base",
        metavar="BASE",
        help="pocket (default), sd-turbo, sdxl-turbo, resnet, a folder, owner/name[@revision], or a YAML file",
    )
    add_folders(p)
    p.add_argument("--memory", metavar="PROFILE", help=f"for a card of this size: {', '.join(names(MEMORY))}")
    p.add_argument(
        "--init", metavar="PATH", help="start from a run, an adapter, pocket:NAME, owner/name or a released .pkl"
    )
    p.add_argument("--run", metavar="FOLDER", help="run folder; default runs/EXP/BASE/version_N with the next free N")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own, recipe, arguments = configuration(args)
    with new_run_folder(own.run, Path("runs") / recipe.exp / recipe.base) as folder:
        from commands.cli.training import run  # takes seconds to import: errors above come at once

        return run(folder, arguments, recipe.exp)


def configuration(args: list[str] | None) -> tuple[argparse.Namespace, Recipe, list[str]]:
    """This command's own arguments, the recipe that they choose, and LightningCLI's arguments for it.

    Raises:
        FileNotFoundError: a path is missing.
        ValueError: experiment, base, memory profile or a key is unknown, or the base needs data and none is named.
    """
    own, overrides = parser().parse_known_args(args)
    recipe = compose(own.exp, own.base, own.memory, data_class(overrides))
    folders = data_settings(own, recipe)
    if not folders and not recipe.renders:
        raise ValueError(
            f"{recipe.base} trains on photographs and DATA is not given: name a folder (DATA=...), or two (A=... "
            "B=...), or see `make data NAME=...` for the public set of this experiment. The packaged base "
            "(BASE=pocket) renders its own."
        )
    check_keys(recipe, overrides)
    check_values(recipe, overrides)
    arguments = recipe.arguments
    arguments += [f"--data.init_args.{name}={folder}" for name, folder in folders.items()]
    if own.init is not None:
        if packaged_adapter(own.init) is None:  # whose name, unlike its folder, is the same on another machine
            own.init = check_checkpoint(own.init)
        arguments.append(f"--model.init_args.generator.init_args.init={own.init}")
    return own, recipe, [*arguments, *overrides]


def data_class(overrides: list[str]) -> str | None:
    """The class that ``--data.class_path`` names, the last one where there are several."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--data.class_path", dest="name")
    name: str | None = own.parse_known_args(overrides)[0].name
    return name


if __name__ == "__main__":
    raise SystemExit(main())
