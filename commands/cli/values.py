"""Finds numbers out of their range in configurations and on the command line, before torch is imported.

Looked at are numbers of settings in `limits`, of this project's classes, optimisers and the Trainer.  Other values are
left to LightningCLI and to the classes themselves.
"""

from collections.abc import Iterator, Mapping, Sequence

import yaml

from commands.cli.keys import Classes, change_class, classes_of, options, parameters
from commands.cli.recipes import EXPERIMENTS, Recipe, merged
from limits import LIMITS, OF_TRAINER, WEIGHT, Range

OPTIMIZERS = ("optimizer_g", "optimizer_d")


def check_values(recipe: Recipe, overrides: Sequence[str]) -> None:
    """Check the numbers of the user's own files and of the command line.

    Args:
        recipe: what the overrides change.
        overrides: arguments of LightningCLI, ``--key=value`` or ``--key value``.

    Raises:
        ValueError: a number is out of its range; names the key, the range and the value.
    """
    for number, path in enumerate(recipe.files):
        if EXPERIMENTS not in path.parents:
            classes = dict(classes_of(merged(recipe.layers[: number + 1])))
            for key, value in leaves(recipe.layers[number]):
                _check(key, value, classes, f" in {path}")
    classes = dict(classes_of(recipe.config))
    for key, text in options(overrides):
        change_class(classes, key, text)
        for below, value in values(key, text):
            _check(below, value, classes)


def values(key: str, text: str) -> Iterator[tuple[str, object]]:
    """The values that a text of the command line gives to a dotted key or, as a mapping, to those below it."""
    try:
        return leaves(yaml.safe_load(text), key)
    except yaml.YAMLError:
        return leaves(text, key)


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The values that are no mappings, by their dotted keys."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}".strip("."))
    else:
        yield path, value


def _check(key: str, value: object, classes: Classes, where: str = "") -> None:
    wanted = _range(key, classes)
    number = _number(value)
    if wanted is None or (number is None and value is not None):
        return
    if not wanted.holds(number):
        raise ValueError(f"{key}{where} must be {wanted}, got {'null' if value is None else value}.")


def _number(value: object) -> int | float | None:
    """The number that a value is, or a text such as "1e-4" or "nan" that YAML does not take for one; else None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _range(key: str, classes: Classes) -> Range | None:
    """The range of the setting with this dotted key; None where nothing is known."""
    *path, name = (part for part in key.split(".") if part != "init_args")
    if not path:
        return LIMITS[name] if name == "seed_everything" else None
    if path == ["trainer"]:
        return OF_TRAINER.get(name)
    if path[-1] in OPTIMIZERS:
        return LIMITS["lr"] if name == "lr" else None
    if path[-1] == "weights" and path[0] == "model":
        return WEIGHT
    holder = classes.get(".".join(path))
    known = None if holder is None else parameters(holder)
    return LIMITS.get(name) if known is not None and name in known else None
