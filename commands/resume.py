"""``make resume``: continue a run exactly where it stopped, in the same folder."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import yaml

from commands.cli.errors import user_errors
from commands.cli.keys import check_keys
from commands.cli.recipes import Recipe, Settings
from commands.cli.trust import limit_parser, read_run, typed_names
from commands.cli.values import check_values

FROM_INIT = ("alpha_unet", "alpha_vae", "unet_targets", "vae_targets", "skip_lora", "input_range")


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="python -m commands.resume",
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
    from commands.cli.training import run  # these take seconds to import: errors above come at once
    from lightning_modules.resuming import check_resumable
    from networks.checkpoints.adapter import read_checkpoint
    from networks.checkpoints.card import AdapterCard

    limit_parser(trust)
    arguments = [f"--config={yaml.safe_dump(settings)}"]
    if not last.is_file():
        print(f"{own.run} has no checkpoint yet: its training starts again from the first image.")
        return run(folder, [*arguments, *overrides], "")
    generator = settings["model"]["init_args"]["generator"]["class_path"]
    try:
        import_module(generator.rpartition(".")[0])  # declares the settings that the checkpoint's card holds
    except ImportError as error:
        raise ValueError(f"{generator}: {error}; put the folder of your own code on PYTHONPATH.") from error
    checkpoint = read_checkpoint(last)
    check_resumable(checkpoint, str(last))
    card = AdapterCard.from_json(checkpoint["adapter"], str(last))
    del checkpoint  # it is read again when the training is restored
    started = yaml.safe_dump(_without_init(settings, card.settings.to_json()))
    return run(folder, [*arguments, f"--config={started}", *overrides], card.run.experiment or "", last)


def _without_init(config: Settings, settings: Mapping[str, object]) -> Settings:
    """Settings that the run took from its initial adapter, read from the checkpoint: the adapter may be gone."""
    if not config["model"]["init_args"]["generator"].get("init_args", {}).get("init"):
        return {}
    taken = {"init": None} | {key: value for key, value in settings.items() if key in FROM_INIT}
    return {"model": {"init_args": {"generator": {"init_args": taken}}}}


if __name__ == "__main__":
    raise SystemExit(main())
