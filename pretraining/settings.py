"""The settings of `make pocket`: pocket.yaml and changes to it; needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

RECIPE = Path(__file__).with_name("pocket.yaml")


def read_settings(changes: list[str], path: Path = RECIPE) -> DictConfig:
    """The recipe with changes such as "teacher.steps=500".

    Raises:
        ValueError: a change is no assignment, or names no setting, or its value is of another kind.
    """
    settings = OmegaConf.load(path)
    assert isinstance(settings, DictConfig)
    content = OmegaConf.to_container(settings)
    assert isinstance(content, dict)
    known = flat(content)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in known:
            raise ValueError(f"Unknown setting {change!r}: give one as KEY=VALUE. Known: {', '.join(known)}.")
        try:
            one = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        except OmegaConfBaseException as error:
            raise ValueError(f"{change}: the value cannot be read: {error}") from error
        assert isinstance(one, dict)
        old, parsed = known[key], one["value"]
        number = isinstance(old, float) and isinstance(parsed, int) and not isinstance(parsed, bool)
        if old is not None and not number and type(parsed) is not type(old):
            raise ValueError(f"{key} is {old!r}; {value!r} is of another kind.")
        OmegaConf.update(settings, key, parsed)
    return settings


def flat(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings => settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
