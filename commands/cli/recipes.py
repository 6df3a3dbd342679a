"""Which files make an experiment: task recipe first, then what the base changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from storage import did_you_mean

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
MEMORY = EXPERIMENTS / "memory"
FULL_SIZE = ("sd-turbo", "sdxl-turbo")  # the first is the recipe of any folder or hub id


@dataclass
class Recipe:
    """An experiment on a base.

    Attributes:
        exp: name of the experiment.
        run_name: name of the base in the run folder.
        configs: YAML files, later ones win.
        arguments: what ``BASE=`` sets on top.
        renders: whether the data may be rendered where none is given.
    """

    exp: str
    run_name: str
    configs: list[Path]
    arguments: list[str]
    renders: bool


def names(folder: Path = EXPERIMENTS) -> list[str]:
    """Names of the YAML files of a folder that stand on their own."""
    return sorted(path.stem for path in folder.glob("*.yaml") if "." not in path.stem)


def experiment_file(exp: str) -> Path:
    """The YAML of an experiment.

    Raises:
        ValueError: there is none of that name.
    """
    if exp not in names():
        hint = did_you_mean(exp, names())
        raise ValueError(f"Unknown experiment {exp!r}.{hint} Known: {', '.join(names())} (files of {EXPERIMENTS}).")
    return EXPERIMENTS / f"{exp}.yaml"


def compose(exp: str, base: str, memory: str | None = None) -> Recipe:
    """Resolve ``EXP=``, ``BASE=`` and ``MEMORY=``.

    Args:
        exp: a file of experiments/ without its ending.
        base: a name in experiments/base/; else an existing folder; else a hub id ``owner/name[@revision]``.
        memory: a file of experiments/memory/ without its ending; None leaves the recipe as it is.

    Raises:
        ValueError: one of them is unknown, or `memory` is meant for a plain network.
    """
    recipe = experiment_file(exp)
    known = names(EXPERIMENTS / "base")
    arguments: list[str] = []
    overlay, run_name = base, base
    if base not in known:
        if not Path(base).is_dir() and ("/" not in base or base.startswith((".", "/", "~"))):
            hint = did_you_mean(base, known)
            raise ValueError(
                f"Unknown base {base!r}.{hint} Known: {', '.join(known)} (experiments/base/); "
                "else give an existing folder in "
                "Hugging Face layout or a hub id owner/name[@revision]."
            )
        arguments = [f"--model.init_args.generator.init_args.base={base}"]
        overlay, run_name = FULL_SIZE[0], Path(base).resolve().name if Path(base).is_dir() else base.split("/")[-1]
    task = (
        "paired" if yaml.safe_load(recipe.read_text())["model"]["class_path"].endswith("Pix2PixTurbo") else "unpaired"
    )
    overlays = [EXPERIMENTS / "base" / f"{overlay}.yaml", EXPERIMENTS / "base" / f"{overlay}.{task}.yaml"]
    if memory is not None:
        profiles = names(MEMORY)
        if memory not in profiles:
            raise ValueError(f"Unknown memory profile {memory!r}. Known: {', '.join(profiles)} (experiments/memory/).")
        if overlay == "resnet":
            raise ValueError(f"Memory profile {memory} is for one-step models: leave out MEMORY= with BASE=resnet.")
        overlays += [MEMORY / f"{memory}.yaml", MEMORY / f"{memory}.{task}.yaml"]
    return Recipe(exp, run_name, [recipe, *filter(Path.is_file, overlays)], arguments, renders=overlay not in FULL_SIZE)


def base_source(base: str | None) -> str | None:
    """What ``load_generator`` is to open: the hub id behind a short name such as ``sd-turbo``, else what was given."""
    if base not in FULL_SIZE:
        return base
    overlay = merged([EXPERIMENTS / "base" / f"{base}.yaml"])
    source: str = overlay["model"]["init_args"]["generator"]["init_args"]["base"]
    return source


def merged(configs: Sequence[Path]) -> dict[str, Any]:
    """The content of YAML files put together, later ones win, interpolations resolved."""
    files = OmegaConf.merge(*(OmegaConf.load(path) for path in configs))
    return dict(OmegaConf.to_container(files, resolve=True))  # type: ignore[arg-type]
