"""Grids as YAML: an experiment and named axes over its dotted keys, expanded by pure functions."""

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from storage import did_you_mean

Settings = dict[str, Any]
KEYS = ("experiment", "base", "seeds", "settings", "scale", "axes", "exclude", "quick")
QUICK_KEYS = ("seeds", "settings", "axes")
LABEL = re.compile(r"[A-Za-z0-9.+-]+")
MOST = 100_000


@dataclass(frozen=True)
class Point:
    """One combination of a grid.

    Attributes:
        labels: name of the value by axis.
        settings: value by dotted key, what all points share included.
    """

    labels: dict[str, str]
    settings: Settings

    @property
    def name(self) -> str:
        """Folder of the point: ``skip-none_rank-16``."""
        return "_".join(f"{axis}-{label}" for axis, label in self.labels.items())


@dataclass
class Grid:
    """A grid as its file says it.

    Attributes:
        name: of the file.
        experiment: what is varied.
        base: what it starts from.
        seeds: of weights, data and order.
        settings: value by dotted key, for every point.
        scale: further settings by base: how long a run is worth while from it.
        axes: by axis, the settings of each of its values; the first value is the one that the others are held against.
        exclude: combinations to leave out; a point is left out where it agrees with every axis that one names.
        short: settings of the short form, over all others but the axes'.
    """

    name: str
    experiment: str
    base: str
    axes: dict[str, dict[str, Settings]]
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: Settings = field(default_factory=dict)
    scale: dict[str, Settings] = field(default_factory=dict)
    exclude: list[dict[str, str]] = field(default_factory=list)
    short: Settings = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of combinations, the excluded ones included."""
        return math.prod(len(values) for values in self.axes.values())

    def points(self) -> list[Point]:
        """Every combination that is not excluded, the last axis fastest.

        Raises:
            ValueError: there are none, or too many to list.
        """
        if self.size > MOST:
            raise ValueError(f"Grid {self.name} has {self.size:,} combinations; the most is {MOST:,}.")
        found = []
        for labels in itertools.product(*self.axes.values()):
            chosen = dict(zip(self.axes, labels, strict=True))
            if any(all(chosen[axis] == label for axis, label in rule.items()) for rule in self.exclude):
                continue
            found.append(self._point(chosen))
        if not found:
            raise ValueError(f"Grid {self.name} has no point left: its exclude rules name every combination.")
        return found

    def single_changes(self) -> list[Point]:
        """The first point, and for every other value of an axis the point that differs by it alone.

        Every setting of the grid is in one of them: what they can be built from, so can all.
        """
        first = {axis: next(iter(values)) for axis, values in self.axes.items()}
        changes = [first, *({**first, axis: label} for axis, values in self.axes.items() for label in [*values][1:])]
        return [self._point(labels) for labels in changes]

    def _point(self, labels: dict[str, str]) -> Point:
        settings = self.settings | self.scale.get(self.base, {}) | self.short
        for axis, label in labels.items():
            settings |= self.axes[axis][label]
        return Point(labels, settings)


def grid_names(folder: Path) -> list[str]:
    """Names of the grids in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_grid(name: str, folder: Path, quick: bool = False) -> Grid:
    """Read a grid's YAML.

    Args:
        name: a file of ``folder`` without its ending.
        folder: where grids lie.
        quick: the short form: what its ``quick`` section says instead.

    Raises:
        ValueError: there is no such grid, or its file is wrong; names the key.
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


def parse_grid(name: str, content: Any, quick: bool = False) -> Grid:
    """The content of a grid's file; see `read_grid`."""
    where = f"grid {name}"
    content = _mapping(content, where, KEYS)
    for key in ("experiment", "axes"):
        if not content.get(key):
            raise ValueError(f"{where}: {key!r} is missing or empty.")
    axes: dict[str, dict[str, Settings]] = {}
    for axis, values in _mapping(content["axes"], f"{where}, axes").items():
        here = f"{where}, axis {axis}"
        named = {_label(where, axis, label): _settings(v, here) for label, v in _mapping(values, here).items()}
        if not named:
            raise ValueError(f"{where}: axis {axis!r} has no values.")
        axes[_label(where, "axes", axis)] = named
    grid = Grid(
        name,
        str(content["experiment"]),
        str(content.get("base", "pocket")),
        axes,
        _seeds(content.get("seeds", [0]), where),
        _settings(content.get("settings"), f"{where}, settings"),
        {
            str(base): _settings(v, f"{where}, scale {base}")
            for base, v in _mapping(content.get("scale"), f"{where}, scale").items()
        },
        [_rule(rule, axes, where) for rule in _list(content.get("exclude"), f"{where}, exclude")],
    )
    short = _mapping(content.get("quick"), f"{where}, quick", QUICK_KEYS)
    if quick:
        grid.seeds = _seeds(short.get("seeds", grid.seeds[:1]), f"{where}, quick")
        grid.short = _settings(short.get("settings"), f"{where}, quick")
        for axis, labels in _mapping(short.get("axes"), f"{where}, quick axes").items():
            kept = [str(label) for label in _list(labels, f"{where}, quick, {axis}")]
            for label in kept:
                _rule({axis: label}, axes, f"{where}, quick")
            grid.axes[str(axis)] = {label: grid.axes[str(axis)][label] for label in kept}
    return grid


def _mapping(value: Any, where: str, known: tuple[str, ...] | None = None) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: wanted keys and values, got {value!r}.")
    for key in value if known is not None else ():
        if key not in known:  # type: ignore[operator]
            hint = did_you_mean(str(key), known or ())
            raise ValueError(f"{where}: key {key!r} is not known.{hint} Known: {', '.join(known or ())}.")
    return value


def _settings(value: Any, where: str) -> Settings:
    found = _mapping(value, where)
    wrong = [key for key, v in found.items() if not isinstance(key, str) or isinstance(v, dict)]
    if wrong:
        raise ValueError(f"{where}: settings are dotted keys with plain values, got {wrong[0]!r}: {found[wrong[0]]!r}.")
    return dict(found)


def _list(value: Any, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{where}: wanted a list, got {value!r}.")
    return value or []


def _label(where: str, axis: Any, label: Any) -> str:
    text = str(label)
    if label is None or isinstance(label, bool) or not LABEL.fullmatch(text):
        raise ValueError(
            f"{where}: {axis} has a value named {label!r}; names are letters, digits, '.', '+' and '-', and YAML reads "
            "off, on, no, yes and null as something else: quote them."
        )
    return text


def _seeds(value: Any, where: str) -> list[int]:
    if not isinstance(value, list) or not value or not all(isinstance(s, int) and s >= 0 for s in value):
        raise ValueError(f"{where}: seeds must be a list of numbers from 0, got {value!r}.")
    return value


def _rule(rule: Any, axes: dict[str, dict[str, Settings]], where: str) -> dict[str, str]:
    found = {str(axis): str(label) for axis, label in _mapping(rule, f"{where}, exclude").items()}
    for axis, label in found.items():
        if axis not in axes:
            raise ValueError(f"{where}: {axis!r} is no axis. Axes: {', '.join(axes)}.")
        if label not in axes[axis]:
            raise ValueError(f"{where}: {axis} has no value {label!r}. Values: {', '.join(axes[axis])}.")
    return found
