"""Grids of an ablation: an experiment and named axes over its settings, read from YAML."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from storage import did_you_mean

Settings = dict[str, Any]
KEYS = ("experiment", "base", "seeds", "settings", "scale", "axes", "exclude", "quick")
QUICK_KEYS = ("seeds", "settings", "axes")
LABEL = re.compile(r"[A-Za-z0-9.+-]+")
MAX_POINTS = 100_000


@dataclass(frozen=True)
class Point:
    """A combination of a grid's values.

    Attributes:
        labels: name of the value by axis.
        settings: value by dotted key, including the settings that all points share.
    """

    labels: dict[str, str]
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the point's folder, such as ``skip-none_rank-16``."""
        return "_".join(f"{axis}-{label}" for axis, label in self.labels.items())


@dataclass
class Grid:
    """A grid of trainings.

    Attributes:
        name: name of its file.
        experiment: name of the experiment that is varied.
        base: base model of every trial.
        seeds: seeds of weights, data and order; every point is trained with each.
        settings: value by dotted key, for every point.
        scale: further settings by base, such as the number of training images.
        axes: settings by value by axis.  The first value of each axis is the reference that others are compared with.
        exclude: rules of value by axis; a point that agrees with all of a rule is left out.
        quick: settings of the short form, which override all others but those of the axes.
    """

    name: str
    experiment: str
    base: str
    axes: dict[str, dict[str, Settings]]
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: Settings = field(default_factory=dict)
    scale: dict[str, Settings] = field(default_factory=dict)
    exclude: list[dict[str, str]] = field(default_factory=list)
    quick: Settings = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of combinations, including those that are excluded."""
        return math.prod(len(values) for values in self.axes.values())

    def points(self) -> list[Point]:
        """Every combination that is not excluded; the last axis varies fastest.

        Raises:
            ValueError: no combination is left, or there are more than `MAX_POINTS`.
        """
        if self.size > MAX_POINTS:
            raise ValueError(f"Grid {self.name} has {self.size:,} combinations; at most {MAX_POINTS:,} are possible.")
        found = []
        for labels in itertools.product(*self.axes.values()):
            chosen = dict(zip(self.axes, labels, strict=True))
            if any(all(chosen[axis] == label for axis, label in rule.items()) for rule in self.exclude):
                continue
            found.append(self._point(chosen))
        if not found:
            raise ValueError(f"Grid {self.name} has no point left: its exclude rules match every combination.")
        return found

    def single_changes(self) -> list[Point]:
        """The reference point, and for each further value of an axis the point that differs from it in this value.

        Every setting of the grid is in at least one of them: where all of these are valid, so is every point.
        """
        first = {axis: next(iter(values)) for axis, values in self.axes.items()}
        changes = [first, *({**first, axis: label} for axis, values in self.axes.items() for label in [*values][1:])]
        return [self._point(labels) for labels in changes]

    def _point(self, labels: dict[str, str]) -> Point:
        settings = self.settings | self.scale.get(self.base, {}) | self.quick
        for axis, label in labels.items():
            settings |= self.axes[axis][label]
        return Point(labels, settings)


def grid_names(folder: Path) -> list[str]:
    """Names of the grids in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_grid(name: str, folder: Path, quick: bool = False) -> Grid:
    """Read a grid from its YAML file.

    Args:
        name: a file of ``folder`` without its suffix.
        folder: the folder of all grids.
        quick: whether the file's ``quick`` section replaces seeds, settings and axes.

    Raises:
        ValueError: there is no such grid, or its file is not valid; the message names the key.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = grid_names(folder)
        hint = did_you_mean(name, known)
        raise ValueError(f"Unknown grid {name!r}.{hint} Known: {', '.join(known)} (files of {folder}).")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}.") from error
    return parse_grid(name, content, quick)


def parse_grid(name: str, content: object, quick: bool = False) -> Grid:
    """Validate the content of a grid's file; see `read_grid`."""
    where = f"grid {name}"
    found = _mapping(content, where, KEYS)
    for key in ("experiment", "axes"):
        if not found.get(key):
            raise ValueError(f"{where}: {key!r} is missing or empty.")
    axes: dict[str, dict[str, Settings]] = {}
    for axis, values in _mapping(found["axes"], f"{where}, axes").items():
        here = f"{where}, axis {axis}"
        named = {_label(where, axis, label): _settings(v, here) for label, v in _mapping(values, here).items()}
        if not named:
            raise ValueError(f"{where}: axis {axis!r} has no values.")
        axes[_label(where, "axes", axis)] = named
    grid = Grid(
        name,
        str(found["experiment"]),
        str(found.get("base", "pocket")),
        axes,
        _seeds(found.get("seeds", [0]), where),
        _settings(found.get("settings"), f"{where}, settings"),
        {
            str(base): _settings(v, f"{where}, scale {base}")
            for base, v in _mapping(found.get("scale"), f"{where}, scale").items()
        },
        [_rule(rule, axes, where) for rule in _list(found.get("exclude"), f"{where}, exclude")],
    )
    changes = _mapping(found.get("quick"), f"{where}, quick", QUICK_KEYS)
    if quick:
        grid.seeds = _seeds(changes.get("seeds", grid.seeds[:1]), f"{where}, quick")
        grid.quick = _settings(changes.get("settings"), f"{where}, quick")
        for axis, labels in _mapping(changes.get("axes"), f"{where}, quick axes").items():
            chosen = [str(label) for label in _list(labels, f"{where}, quick, {axis}")]
            for label in chosen:
                _rule({axis: label}, axes, f"{where}, quick")
            grid.axes[str(axis)] = {label: grid.axes[str(axis)][label] for label in chosen}
    return grid


def _mapping(value: object, where: str, known: Sequence[str] | None = None) -> dict[Any, Any]:
    """Check for a mapping, empty where there is no value, and its keys where they are known."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected keys and values, got {value!r}.")
    for key in value:
        if known is not None and key not in known:
            hint = did_you_mean(str(key), known)
            raise ValueError(f"{where}: key {key!r} is not known.{hint} Known: {', '.join(known)}.")
    return value


def _settings(value: object, where: str) -> Settings:
    found = _mapping(value, where)
    for key, setting in found.items():
        if not isinstance(key, str) or isinstance(setting, dict):
            raise ValueError(f"{where}: settings are dotted keys with plain values, got {key!r}: {setting!r}.")
    return dict(found)


def _list(value: object, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got {value!r}.")
    return value or []


def _label(where: str, axis: object, label: object) -> str:
    text = str(label)
    if label is None or isinstance(label, bool) or not LABEL.fullmatch(text):
        raise ValueError(
            f"{where}: {axis} has a value named {label!r}; names are letters, digits, '.', '+' and '-', and YAML reads "
            "off, on, no, yes and null as something else: quote them."
        )
    return text


def _seeds(value: object, where: str) -> list[int]:
    if not isinstance(value, list) or not value or not all(isinstance(s, int) and s >= 0 for s in value):
        raise ValueError(f"{where}: seeds must be a list of integers from 0, got {value!r}.")
    return value


def _rule(rule: object, axes: dict[str, dict[str, Settings]], where: str) -> dict[str, str]:
    found = {str(axis): str(label) for axis, label in _mapping(rule, f"{where}, exclude").items()}
    for axis, label in found.items():
        if axis not in axes:
            raise ValueError(f"{where}: {axis!r} is no axis. Axes: {', '.join(axes)}.")
        if label not in axes[axis]:
            raise ValueError(f"{where}: {axis} has no value {label!r}. Values: {', '.join(axes[axis])}.")
    return found
