"""``make resume``: continue a run exactly where it stopped, in the same folder."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from adapter_hub import fetch, hub_name
from commands.cli.errors import user_errors
from commands.cli.keys import change_class, check_keys, classes_of, options
from commands.cli.recipes import Recipe, Settings
from commands.cli.trust import limit_parser, read_run, typed_names
from commands.cli.values import OPTIMIZERS, check_values, leaves, values

if TYPE_CHECKING:
    from networks.checkpoints.card import AdapterCard

BASE = "--model.init_args.generator.init_args.base"
SCORED_BY = (*(f"evaluation.{name}" for name in ("features", "structure", "lpips", "resize")), "data.eval_size")
FROM_INIT = ("alpha_unet", "alpha_vae", "unet_targets", "vae_targets", "skip_lora", "input_range")


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="one-step resume",
        description="Resume a run from its last checkpoint, or from the start where it has none yet. A finished run is "
        "extended by a new limit, e.g. --model.init_args.max_images=4000.",
    )
    p.add_argument("--run", required=True, metavar="FOLDER", help="runs/EXP/BASE/version_N")
    p.add_argument("--trust", default="", metavar="MODULES", help="of your own that the run may use: mine,other.part")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own, overrides = parser().parse_known_args(args)
    folder = Path(own.run).absolute()
    config, last = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if not config.is_file():
        raise FileNotFoundError(f"No run to resume in {own.run}: looked for {config}. Give runs/EXP/BASE/version_N.")
    trust = [*filter(None, own.trust.split(",")), *typed_names(overrides)]
    settings = read_run(config, trust)
    recipe = Recipe(folder.parent.parent.name, folder.parent.name, layers=[settings])
    check_keys(recipe, overrides)
    check_values(recipe, overrides)
    if last.is_file():
        _check_optimizers(settings, overrides)
        _check_scores(settings, overrides)
    from commands.cli.training import run  # these take seconds to import: errors above come at once
    from networks.one_step.bases import named_by_file

    limit_parser(trust)
    arguments, experiment = [f"--config={yaml.safe_dump(settings)}"], ""
    if last.is_file():
        card = _card(last, settings)
        experiment = card.run.experiment or ""
        arguments.append(f"--config={yaml.safe_dump(_without_init(settings, card.settings.to_json()))}")
    else:
        print(f"{own.run} has no checkpoint yet: its training starts again from the first image.")
        _check_init(settings)
    base_is_typed = any(word.startswith(BASE) for word in overrides)
    with nullcontext() if base_is_typed else named_by_file():
        return run(folder, [*arguments, *overrides], experiment, last if last.is_file() else None)


def _check_optimizers(settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse another class of optimiser: the checkpoint holds the state of the run's own.

    Raises:
        ValueError: the command line names one.
    """
    before = dict(classes_of(settings))
    after = dict(before)
    for key, value in options(overrides):
        change_class(after, key, value)
    for name in OPTIMIZERS:
        own, other = (classes.get(f"model.{name}", "") for classes in (before, after))
        if own.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(
                f"model.init_args.{name} is {other}, and the checkpoint holds the state of {own}: leave it as it is, "
                "or start a new training from the weights (make train INIT=)."
            )


def _check_scores(settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse other ways to score: those of before and after would be compared to choose the best checkpoint.

    Raises:
        ValueError: the command line changes one.
    """
    typed = (found for option in options(overrides) for found in values(*option))
    own, given = ({key.replace(".init_args", ""): value for key, value in found} for found in (leaves(settings), typed))
    for key in SCORED_BY:
        if given.get(key, own.get(key)) != own.get(key):
            raise ValueError(
                f"{key} is {own.get(key)} in this run, and scores of {given[key]} cannot be compared with those that "
                "chose its best checkpoint: leave it as it is, or start a new training from the weights "
                "(make train INIT=)."
            )


def _check_init(settings: Settings) -> None:
    """Refuse to start from an adapter of the hub that is not on this machine: a run names it, not the user."""
    init = settings["model"]["init_args"]["generator"].get("init_args", {}).get("init")
    if init and (name := hub_name(str(init))) is not None:
        fetch(name, download=False)


def _card(checkpoint: Path, settings: Settings) -> "AdapterCard":
    """The card of a checkpoint that training can go on from."""
    from lightning_modules.resuming import check_resumable
    from networks.checkpoints.adapter import read_checkpoint
    from networks.checkpoints.card import AdapterCard

    generator = settings["model"]["init_args"]["generator"]["class_path"]
    try:
        import_module(generator.rpartition(".")[0])  # declares the settings that the card holds
    except ImportError as error:
        raise ValueError(f"{generator}: {error}; put the folder of your own code on PYTHONPATH.") from error
    content = read_checkpoint(checkpoint)
    check_resumable(content, str(checkpoint))
    return AdapterCard.from_json(content["adapter"], str(checkpoint))


def _without_init(config: Settings, settings: Mapping[str, object]) -> Settings:
    """Settings that the run took from its initial adapter, read from the checkpoint: the adapter may be gone."""
    if not config["model"]["init_args"]["generator"].get("init_args", {}).get("init"):
        return {}
    taken = {"init": None} | {key: value for key, value in settings.items() if key in FROM_INIT}
    return {"model": {"init_args": {"generator": {"init_args": taken}}}}


if __name__ == "__main__":
    raise SystemExit(main())
