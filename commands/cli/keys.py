"""Finds misspelt configuration keys before torch is imported: signatures are read from source files, nothing is run.

What cannot be decided this way (classes from outside the repository, values, elements of lists) is left to
LightningCLI.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from commands.cli.recipes import EXPERIMENTS, Recipe, Settings, merged
from storage import did_you_mean

ROOT = Path(__file__).parents[2]
# Sections beside `seed_everything`, and the class that takes each; the CLI adds the callbacks by this list.
CALLBACKS = {
    "checkpoints": "lightning_modules.callbacks.RunFolder",
    "throughput": "lightning_modules.callbacks.Throughput",
    "evaluation": "lightning_modules.callbacks.Evaluation",
    "image_grid": "lightning_modules.callbacks.ImageGrid",
    "collapse_alarm": "lightning_modules.callbacks.CollapseAlarm",
}
SECTIONS = {"trainer": "commands.cli.lightning_cli.ExactTrainer", **CALLBACKS}
TOP_LEVEL = ("seed_everything", "experiment", "trainer", "model", "data", *CALLBACKS, "config", "print_config")
Classes = dict[str, str]  # class path by the dotted key that holds it, without `init_args`


def check_keys(recipe: Recipe, overrides: Sequence[str]) -> None:
    """Check the keys of the user's own files and of the command line.

    Args:
        recipe: what the overrides change.
        overrides: arguments of LightningCLI, ``--key=value`` or ``--key value``.

    Raises:
        ValueError: a key is not known; names it and the nearest one that is.
    """
    for number, path in enumerate(recipe.files):
        if EXPERIMENTS not in path.parents:
            classes = dict(classes_of(merged(recipe.layers[: number + 1])))
            for key in _keys(recipe.layers[number]):
                _check(key, classes, f" in {path}")
    classes = dict(classes_of(recipe.config))
    for key, value in options(overrides):
        _check(key, classes)
        change_class(classes, key, value)


def options(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and value of each ``--key=value`` and ``--key value``."""
    for word, following in zip(overrides, [*overrides[1:], ""], strict=False):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            yield key, value if equals else following


def _check(key: str, classes: Classes, where: str = "") -> None:
    """Check a dotted key, part by part, as far as its classes can be read."""
    known: Mapping[str, str | None] | None = dict.fromkeys(TOP_LEVEL)
    path: list[str] = []
    for part in key.split("."):
        if known is None or part in ("help", "dict_kwargs"):
            return
        if path and part in ("class_path", "init_args"):
            continue
        part = part.removesuffix("+")  # appends to a list
        if part not in known:
            near = did_you_mean(part, known)
            listed = near or f" Known: {', '.join(known)}."
            raise ValueError(f"Configuration key {key!r}{where} is not known.{listed}")
        path.append(part)
        holder = classes.get(".".join(path)) or known[part]
        known = None if holder is None else parameters(holder)


def classes_of(config: Settings) -> Iterator[tuple[str, str]]:
    """The classes that a configuration names, and those of the sections that always have the same."""
    yield from SECTIONS.items()
    stack = [("", config)]
    while stack:
        path, node = stack.pop()
        if isinstance(class_path := node.get("class_path"), str):
            yield path, class_path
        for key, value in node.items():
            if isinstance(value, dict):
                stack.append((path if key == "init_args" else f"{path}.{key}".strip("."), value))


def change_class(classes: Classes, key: str, value: str) -> None:
    """Record a class that the command line chooses."""
    path = ".".join(part for part in key.split(".") if part not in ("init_args", "class_path"))
    if path not in classes:
        return
    try:
        content = yaml.safe_load(value)
    except yaml.YAMLError:
        content = value
    if isinstance(content, dict):
        content = content.get("class_path", classes[path])
    classes[path] = str(content)


def _keys(settings: Settings, path: str = "") -> Iterator[str]:
    """The dotted keys of nested settings."""
    for key, value in settings.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{path}{key}.")


@cache
def parameters(class_path: str) -> Mapping[str, str | None] | None:
    """The constructor's parameters, each with the dataclass of ours that annotates it, if one does.

    Returns:
        None where the source does not tell: another library's class, or one that passes keywords on to it.
    """
    if not _file(class_path.split(".")[0]):
        return None
    return _parameters(class_path)


def _parameters(class_path: str) -> dict[str, str | None] | None:
    found = _find(class_path)
    if found is None:
        return None
    module, node = found
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        fields = {
            n.target.id: None for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        return dict(fields) if _is_dataclass(node) else _inherited(module, node)
    arguments = [*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs][1:]
    own = {a.arg: _dataclass_of(module, a.annotation) for a in arguments}
    if init.args.kwarg is None:
        return own
    inherited = _inherited(module, node)
    return None if inherited is None else inherited | own


def _inherited(module: str, node: ast.ClassDef) -> dict[str, str | None] | None:
    """Parameters of the first base class."""
    return _parameters(f"{module}.{ast.unparse(node.bases[0])}") if node.bases else None


def _dataclass_of(module: str, annotation: ast.expr | None) -> str | None:
    if not isinstance(annotation, ast.Name):
        return None
    found = _find(f"{module}.{annotation.id}")
    return f"{module}.{annotation.id}" if found and _is_dataclass(found[1]) else None


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _find(class_path: str) -> tuple[str, ast.ClassDef] | None:
    """The module and the definition of a class, imports followed."""
    module, _, name = class_path.rpartition(".")
    path = _file(module) or _file_of_library(module)
    if path is None:
        return None
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name and f"{node.module}.{alias.name}" != class_path:
                    return _find(f"{node.module}.{alias.name}")
    return None


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _file(module: str, root: Path = ROOT) -> Path | None:
    """The source of a module below a folder."""
    path = root / module.replace(".", "/")
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if module and file.is_file()), None)


def _file_of_library(module: str) -> Path | None:
    """The source of an installed package's module; a package is located without being imported."""
    spec = find_spec(module.split(".")[0]) if module else None
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((file for folder in folders if (file := _file(module, Path(folder).parent))), None)
