"""Which classes the config.yaml of a run folder may name; torch-free, and nothing is imported to find out.

A run folder may come from someone else, and its configuration names classes that are imported and called. Known names
pass; of others only those that the user typed or allowed with ``--trust``. A YAML that the user names as experiment or
base is the user's own and is not limited.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from commands.cli.keys import TOP_LEVEL
from commands.cli.recipes import Settings, items, read_settings

# None of these takes a function or class as argument.
OPTIMIZERS = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
CALLBACKS = ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "Timer")
PACKAGES = ("datamodules", "lightning_modules", "networks")
LIBRARIES = ("torch.optim", "lightning.pytorch.callbacks")
KNOWN = (
    *PACKAGES,
    *(f"torch.optim.{name}" for name in OPTIMIZERS),
    *(f"lightning.pytorch.callbacks.{name}" for name in CALLBACKS),
)
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def read_run(path: Path, trust: Sequence[str]) -> Settings:
    """The configuration that a training wrote into its run folder, refused where a training would not write it.

    Args:
        path: its config.yaml.
        trust: modules, or classes in them, that the user typed or allowed.

    Raises:
        ValueError: a trusted module is not found; or the file is no run's configuration, names a class that is neither
            known nor trusted, or a folder elsewhere to write to; says which key does.
    """
    for name in trust:
        if not _exists(name.partition(".")[0]):
            raise ValueError(f"There is no module {name!r} to trust: put the folder that holds it on PYTHONPATH.")
    config = read_settings(path)
    wrong = _malformed(config)
    if wrong:
        raise ValueError(f"{path} is no run's configuration: {wrong}.")
    for key, value in items(config):
        last = key.rpartition(".")[2]
        if last == "class_path":
            # A loss term is whatever callable has that name, and none of this project is meant as one.
            allowed = trust if "extra_terms" in key else (*KNOWN, *trust)
            if not any(f"{value}.".startswith(f"{entry}.") for entry in allowed):
                raise ValueError(f"{path}: {key} names {str(value)[:100]!r}, {refusal(str(value)[:100])}")
        elif last in ("dirpath", "filename") and {"..", "/"} & {*Path(str(value)).parts}:
            raise ValueError(f"{path}: {key} is {str(value)[:100]!r}, outside of the run folder.")
    return config


def _malformed(config: Settings) -> str:
    """What no training would write; empty where there is nothing."""
    unknown = sorted(set(config) - (set(TOP_LEVEL) - {"config", "print_config"}))
    if unknown:
        return f"it has {unknown[0][:100]!r}"
    if not isinstance(config.get("experiment", ""), str):
        return "experiment is no text"
    for section in set(config) - {"seed_everything", "experiment"}:
        if not isinstance(config[section], dict):
            return f"{section} is no mapping"
    for key, value in items(config):
        if isinstance(value, str) and "${" in value:
            return f"{key} is an interpolation, which a training writes out"
    for key in ("model", "data", "model.init_args.generator"):
        if not isinstance(_get(config, f"{key}.class_path"), str):
            return f"it names no {key}.class_path"
    return ""


def refusal(name: str) -> str:
    """Why a name is refused, and how to allow it."""
    return (
        "which is no class that this project knows. Configurations of run folders may come from others, so it was "
        f"not imported; if you know this code, allow it with TRUST={name.rpartition('.')[0] or name}."
    )


def limit_parser(trust: Sequence[str]) -> None:
    """Let this process's parser import known and trusted names only, wherever a value stands that it takes for one.

    Args:
        trust: as for `read_run`; everything in their packages, since modules hand on what others define.
    """
    from jsonargparse import set_parsing_settings

    roots = sorted({name.partition(".")[0] for name in trust})
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*PACKAGES, *LIBRARIES, *roots])


def typed_names(values: Iterable[object]) -> list[str]:
    """Modules outside this project, and classes of torch and Lightning, that values typed by the user name.

    Args:
        values: arguments ``--key=value``, or content of the user's YAML files.
    """
    found = set()
    for text in _texts(values):
        root = text.partition(".")[0]
        if DOTTED.fullmatch(text) and root not in PACKAGES and _exists(root):
            found.add(text if root in ("torch", "lightning") else root)
    return sorted(found)


def _get(node: object, key: str) -> object:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _texts(node: object) -> Iterator[str]:
    """All texts of nested settings; of an argument, those of its value."""
    if isinstance(node, Mapping):
        node = [*node.values()]
    if isinstance(node, str) and node.startswith("--"):
        try:
            node = yaml.safe_load(node.partition("=")[2])
        except yaml.YAMLError:
            return
    if isinstance(node, str):
        yield node
    elif isinstance(node, Iterable):
        for value in node:
            yield from _texts(value)


def _exists(module: str) -> bool:
    """Whether a top-level module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except ValueError:  # it is loaded, and was not found by a finder: ``__main__``
        return True
