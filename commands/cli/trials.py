"""Plans the trials of a grid and checks them as `make train` would, before anything runs; torch is imported last."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ablation.grids import Grid, Point
from ablation.trials import Trial
from commands.cli.recipes import EXPERIMENTS, compose, is_yaml
from commands.cli.trust import typed_names
from commands.train import configuration
from storage import digest

SEEDS = ("seed_everything", "data.init_args.seed")


def shared_arguments(grid: Grid, data: str | None) -> list[str]:
    """Arguments of every trial; paths are absolute, since trials may start elsewhere."""
    exp, base = (
        str(Path(name).absolute()) if is_yaml(name) or Path(name).is_dir() else name
        for name in (grid.experiment, grid.base)
    )
    where = [] if data is None else [f"--data={Path(data).absolute()}"]
    return [f"--exp={exp}", f"--base={base}", *where]


def refuse_varied(grid: Grid, overrides: list[str]) -> None:
    """Refuse arguments that override an axis or the seeds: the table would label equal trials differently.

    Raises:
        ValueError: one sets what an axis varies, or the seeds.
    """
    varied = {key for values in grid.axes.values() for settings in values.values() for key in settings}
    fixed = {key for point in grid.single_changes() for key in point.settings}
    for key in SEEDS:
        if key in fixed:
            raise ValueError(f"Grid {grid.name} sets {key}: say `seeds: [...]`, so that each trial has its own.")
    for word in overrides:
        key = word.removeprefix("--").partition("=")[0]
        if key in (*SEEDS, "config") or any(f"{path}.".startswith(f"{key}.") for path in varied):
            raise ValueError(f"{word} would undo an axis or the seeds of grid {grid.name}: leave it to the grid.")


def plan(grid: Grid, shared: list[str], overrides: list[str], folder: Path) -> list[Trial]:
    """Plan a trial for every point and seed; the first seed of all points comes first.

    Args:
        grid: what is varied.
        shared: arguments of every trial; see `shared_arguments`.
        overrides: further arguments of every trial.
        folder: of the grid. Rendered scenes and statistics of real images in it are shared by all trials.
    """
    sharing = [f"--evaluation.statistics={folder / '.statistics'}"]
    if not any(word.startswith("--data=") for word in shared):
        sharing.append(f"--data.init_args.scene_cache={folder / '.scenes'}")
    recipe = compose(grid.experiment, grid.base)
    typed = [layer for file, layer in zip(recipe.files, recipe.layers, strict=False) if EXPERIMENTS not in file.parents]
    trust = typed_names([*typed, *overrides])
    return [
        Trial(
            point.name,
            point.labels,
            seed,
            str(folder / point.name / f"seed{seed}"),
            [*shared, f"--seed_everything={seed}", *_arguments(point), *overrides],
            sharing,
            digest(json.dumps(recipe.config, sort_keys=True), digits=12),
            trust,
        )
        for seed in grid.seeds
        for point in grid.points()
    ]


@dataclass(frozen=True)
class Cost:
    """What a trial takes.

    Attributes:
        images: training images, where its recipe says so.
        processes: that one trial starts, at most.
    """

    images: int | None
    processes: int


def check(grid: Grid, shared: list[str], overrides: list[str]) -> Cost:
    """Parse every setting of a grid as `make train` would, and look through the data of every trial.

    Raises:
        ValueError: a key is unknown, a value of the wrong type, or the data cannot be used; names the point.
    """
    words = {}
    for point in grid.single_changes():
        with _naming(grid, point):
            words[point.name] = configuration([*shared, *_arguments(point), *overrides])[2]
    # These take seconds to import: errors above come at once.
    from commands.cli.lightning_cli import ParsedOnly, build_section
    from commands.cli.processes import devices_of
    from datamodules import TranslationData

    images: int | None = None
    processes = 1
    looked_at: set[str] = set()
    for point in grid.single_changes():
        with _naming(grid, point), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = ParsedOnly(Path("runs/of/no/run"), words[point.name]).config
            data = config["data"].as_dict()
            if repr(data) not in looked_at:
                looked_at.add(repr(data))
                build_section(TranslationData, "data", data)
        images = images or config["model"]["init_args"]["max_images"]
        processes = max(processes, devices_of(config["trainer"]))
    return Cost(images, processes)


@contextmanager
def _naming(grid: Grid, point: Point) -> Iterator[None]:
    """Name grid and point in the error of a point."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"Grid {grid.name}, {point.name}: {error}") from error


def _arguments(point: Point) -> list[str]:
    card = json.dumps({"ablation": point.labels})
    settings = [
        f"--{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in point.settings.items()
    ]
    return [*settings, f"--model.init_args.card={card}"]
