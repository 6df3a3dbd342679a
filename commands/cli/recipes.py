"""Which YAML files make a training: the paper's method, the task, the base, the memory profile; torch-free.

Later files win. A task of experiments/ is written for a full-size base, so base and memory profile come after it. A
YAML of the user's own comes after the base, so that the base does not override it.
"""

import io
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from storage import did_you_mean

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
METHODS, BASES, MEMORY = (EXPERIMENTS / name for name in ("methods", "base", "memory"))
FULL_SIZE = ("sd-turbo", "sdxl-turbo")  # the first is the overlay of any folder or hub id
MAX_BYTES, MAX_VALUES = 2**20, 100_000  # of a YAML file
MAPPINGS = ("trainer", "model", "data", "init_args")  # keys of settings
WEIGHTS = "model.init_args.weights"  # of the loss terms
Settings = dict[str, Any]  # content of a YAML file
SEED: Settings = {"seed": "${seed_everything}"}  # of data of the user's own, as of the methods'


@dataclass(frozen=True)
class Recipe:
    """A task on a base.

    Attributes:
        exp: name of the task, as in the run folder.
        base: name of the base, as in the run folder.
        files: YAML files it is made of, in order.
        layers: settings of each file, then of a base that is not a file; later ones win.
        renders: whether scenes are rendered where no data is given.
    """

    exp: str
    base: str
    files: list[Path] = field(default_factory=list)
    layers: list[Settings] = field(default_factory=list)
    renders: bool = True

    @property
    def arguments(self) -> list[str]:
        """The layers as LightningCLI's arguments: merging is left to it, since it knows which keys a class accepts."""
        return [f"--config={yaml.safe_dump(layer, sort_keys=False)}" for layer in self.layers]

    @property
    def config(self) -> Settings:
        """All layers put together; see `merged`."""
        return merged(self.layers)


def names(folder: Path = EXPERIMENTS) -> list[str]:
    """Names of the YAML files of a folder; those with a dot belong to another one."""
    return sorted(path.stem for path in folder.glob("*.yaml") if "." not in path.stem)


def is_yaml(name: str) -> bool:
    """Whether a name is meant as a file of the user's own."""
    return Path(name).suffix in (".yaml", ".yml")


def experiment_file(exp: str) -> Path:
    """The YAML of a task: a name in experiments/, or a file of the user's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no task of that name.
    """
    if is_yaml(exp):
        return _own_file(exp)
    if exp not in names():
        raise ValueError(
            f"Unknown experiment {exp!r}.{did_you_mean(exp, names())} Known: {', '.join(names())} (files of "
            f"{EXPERIMENTS}), or a YAML file of your own."
        )
    return EXPERIMENTS / f"{exp}.yaml"


def compose(exp: str, base: str | None = None, memory: str | None = None, data_class: str | None = None) -> Recipe:
    """The recipe of a task on a base with a memory profile.

    The folder of a YAML of the user's own is appended to Python's search path, here and for processes started from
    here, so that classes defined beside it can be named as ``class_path``.

    Args:
        exp: a name in experiments/, or a YAML file: with ``method:`` it says only what it changes, without it is a
            complete configuration.
        base: a name in experiments/base/; a YAML file like those; a folder in Hugging Face layout; or a hub id
            ``owner/name[@revision]``. None is "pocket", for a complete configuration its own base.
        memory: a name in experiments/memory/; None changes nothing.
        data_class: class path of a data module in place of the task's.

    Raises:
        FileNotFoundError: a YAML file is missing.
        ValueError: a name is unknown, a file is no YAML mapping, or `memory` is meant for another kind of network.
    """
    path = experiment_file(exp)
    task = read_settings(path)
    method = task.pop("method", None)
    if method is not None and method not in names(METHODS):
        raise ValueError(
            f"{path}: unknown method {method!r}.{did_you_mean(str(method), names(METHODS))} "
            f"Known: {', '.join(names(METHODS))}."
        )
    start: dict[Path, Settings] = {}
    if method is None:
        method = _method_of(task)
    else:
        start = {METHODS / f"{method}.yaml": read_settings(METHODS / f"{method}.yaml")}
        base = base or "pocket"
    name, overlay, source = (_own_base(task), None, None) if base is None else _base(base)
    own_name = path.stem if path.parent == EXPERIMENTS else None
    on_base = {} if overlay is None else _with_overlays(overlay, method, own_name)
    if path.parent == EXPERIMENTS:
        files = start | {path: task} | on_base
    else:
        files = start | on_base | {path: task}
    if start and "class_path" in (data := task.get("data", {})):
        # Where a later layer changes the class, LightningCLI resolves interpolations too early for overrides.
        if path.parent == EXPERIMENTS:  # whose data classes take what the method's takes
            files[METHODS / f"{method}.yaml"]["data"]["class_path"] = data["class_path"]
        else:
            data["init_args"] = SEED | data.get("init_args", {})
    if memory is not None:
        if overlay is not None and overlay.stem == "resnet":
            raise ValueError(f"Memory profile {memory} is for one-step models: leave out MEMORY= with BASE=resnet.")
        files |= _memory(memory, method)
    layers = [*files.values()]
    if source is not None:
        layers.append({"model": {"init_args": {"generator": {"init_args": {"base": source}}}}})
    own_data = task.get("data", {}).get("init_args", {})
    if data_class is not None:  # a layer, for the same reason
        layers.append(
            {"data": {"class_path": data_class, "init_args": SEED if start and "seed" not in own_data else {}}}
        )
    full_size = overlay is not None and overlay.stem in FULL_SIZE
    return Recipe(path.stem, name, [*files], layers, renders="root" in own_data or not full_size)


def base_source(base: str | None) -> str | None:
    """Source of a base for ``load_generator``: the hub id behind "sd-turbo", the base that a YAML names, else `base`.

    Raises:
        FileNotFoundError: a YAML file is missing.
        ValueError: it is no known name, no folder and no hub id.
    """
    if base is None:
        return None
    _, path, source = _base(base)
    return source or _named_base(read_settings(path)) or base


def merged(layers: Sequence[Settings]) -> Settings:
    """Settings put together, later ones win, interpolations resolved.

    Raises:
        ValueError: an interpolation names no key, or two layers do not fit together.
    """
    try:
        together = OmegaConf.to_container(OmegaConf.merge(*layers), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ValueError(f"The configuration cannot be put together: {_line(error)}.") from error
    assert isinstance(together, dict)
    return {str(key): value for key, value in together.items()}


def read_settings(path: Path) -> Settings:
    """The content of a YAML file, interpolations as they are written.

    Raises:
        ValueError: it is no YAML mapping, or larger than any configuration.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is no configuration: it has more than {MAX_BYTES // 1024} KiB.")
    try:
        text = path.read_text(encoding="utf-8")
        if _values(yaml.compose(text, yaml.SafeLoader), {}) > MAX_VALUES:
            raise ValueError(f"{path} is no configuration: it has more than {MAX_VALUES:,} values.")
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is not YAML: {_line(error)}.") from error
    except RecursionError:
        raise ValueError(f"{path} is no configuration: it is nested too deeply.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a mapping of keys to values.")
    for key, value in items(content):
        if (key == WEIGHTS or key.rpartition(".")[2] in MAPPINGS) and not isinstance(value, dict):
            raise ValueError(f"{path}: {key} must be a mapping of keys to values, got {str(value)[:100]!r}.")
    return {str(key): value for key, value in content.items()}


def items(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested settings, with its dotted key; list elements as ``key[0]``."""
    if key:
        yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from items(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from items(value, f"{key}[{number}]")


def _values(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """Number of values of a YAML node with its aliases written out, which a file of 1 KB can make billions."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = MAX_VALUES + 1  # as long as it is counted: a node may contain itself
        parts = itertools.chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        counted[id(node)] = 1 + sum(_values(part, counted) for part in parts)
    return counted[id(node)]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _own_file(name: str) -> Path:
    """A YAML file of the user's own, its folder made importable."""
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise FileNotFoundError(f"No file {name}: looked for {path}.{near}")
    folder = str(path.parent)
    if path.parent != EXPERIMENTS and folder not in sys.path:
        # Appended last, so that the user's files cannot shadow modules of this project.
        sys.path.append(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), folder]))
    return path


def _base(base: str) -> tuple[str, Path, str | None]:
    """Name in the run folder, YAML, and the folder or hub id that the YAML does not name."""
    if is_yaml(base):
        path = _own_file(base)
        return path.stem, path, None
    known = names(BASES)
    if base in known:
        return base, BASES / f"{base}.yaml", None
    folder = Path(base)
    if not folder.is_dir() and ("/" not in base or base.startswith((".", "/", "~"))):
        raise ValueError(
            f"Unknown base {base!r}.{did_you_mean(base, known)} Known: {', '.join(known)} (experiments/base/); else "
            "give an existing folder in Hugging Face layout, a hub id owner/name[@revision], or a YAML file."
        )
    name = folder.resolve().name if folder.is_dir() else base.split("/")[-1]
    return name, BASES / f"{FULL_SIZE[0]}.yaml", base


def _with_overlays(path: Path, method: str | None, task: str | None = None) -> dict[Path, Settings]:
    """A YAML, and what it sets for one method or task alone: NAME.METHOD.yaml and NAME.TASK.yaml beside it."""
    files = [path, *(path.with_name(f"{path.stem}.{name}.yaml") for name in (method, task))]
    return {file: read_settings(file) for file in files if file.is_file()}


def _memory(profile: str, method: str | None) -> dict[Path, Settings]:
    """A memory profile, after the one that it extends."""
    if profile not in names(MEMORY):
        raise ValueError(
            f"Unknown memory profile {profile!r}.{did_you_mean(profile, names(MEMORY))} "
            f"Known: {', '.join(names(MEMORY))} (experiments/memory/)."
        )
    files = _with_overlays(MEMORY / f"{profile}.yaml", method)
    extended = files[MEMORY / f"{profile}.yaml"].pop("extends", None)
    return files if extended is None else _memory(extended, method) | files


def _method_of(config: Settings) -> str | None:
    """The method whose model a complete configuration has."""
    models = {read_settings(METHODS / f"{name}.yaml")["model"]["class_path"]: name for name in names(METHODS)}
    return models.get(config.get("model", {}).get("class_path"))


def _named_base(config: Settings) -> str | None:
    generator = config.get("model", {}).get("init_args", {}).get("generator", {})
    return generator.get("init_args", {}).get("base")


def _own_base(config: Settings) -> str:
    """Name in the run folder of the base of a complete configuration."""
    return (_named_base(config) or "own").rstrip("/").split("/")[-1]
