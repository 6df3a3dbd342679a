"""Settings of a generator: the constructor arguments that rebuild it, typed and validated, as adapter.json holds them.

A generator of your own declares its settings under the base name that its adapters carry::

    @dataclass(frozen=True, kw_only=True)
    class MySettings(Settings, base_name="mine"):
        depth: int
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args

from limits import ABOVE_ZERO, check_range, check_settings
from storage import did_you_mean, shortened

Direction = Literal["a2b", "b2a"]
"""Which way an image is translated: from domain A to domain B, or back."""

ConditioningName = Literal["direct", "controlnet", "t2i_adapter"]
FrozenDtype = Literal["float32", "bfloat16"]
Range = Literal["[-1, 1]", "[0, 1]"]
SkipInit = float | Literal["gaussian"]

Json = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
"""A value that JSON can hold."""

MAX_TARGETS = 1024  # a released file names each layer by itself: hundreds
MAX_NAME = 256  # characters of a module's name

_S = TypeVar("_S", bound="Settings")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class of all settings; a subclass is a frozen dataclass whose fields are its generator's arguments.

    Attributes:
        directions: the directions that the generator translates in.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    directions: tuple[Direction, ...]

    _by_base: ClassVar[dict[str, type["Settings"]]] = {}

    def __init_subclass__(cls, base_name: str | None = None) -> None:
        """Register the class for adapters of a base; without a name, for none."""
        super().__init_subclass__()
        if base_name is not None:
            Settings._by_base[base_name] = cls

    def __post_init__(self) -> None:
        """Turn lists into tuples and validate."""
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        known, given = get_args(Direction), self.directions
        fits = isinstance(given, tuple) and 0 < len(given) <= len(known) and all(d in known for d in given)
        require(fits and len(given) == len(set(given)), "directions", "a2b, b2a or both", given)

    @classmethod
    def from_json(cls: type[_S], values: Mapping[str, Any]) -> _S:
        """Build from the `settings` of adapter.json; settings that are missing there take their defaults.

        Raises:
            ValueError: a setting is unknown or missing, or its value is invalid.
        """
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                hint = did_you_mean(name[:MAX_NAME], known)
                raise ValueError(f"unknown setting {shortened(name)} of a generator.{hint}")
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        if absent := [name for name in needed if name not in values]:
            raise ValueError(f"settings are incomplete: {', '.join(absent)} missing.")
        try:
            return cls(**values)
        except TypeError as error:  # of a class outside this module, which reads a value before its type is known
            raise ValueError(f"a setting is of another type: {error}.") from error

    def to_json(self) -> dict[str, Json]:
        """The settings as plain JSON types, in the order of the fields; also the generator's keyword arguments."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def type_for(base: str | None) -> "type[Settings]":
        """The class that adapters of this base have; `OneStepSettings` unless a subclass was declared for it."""
        return Settings._by_base.get(base or "", OneStepSettings)


@dataclass(frozen=True, kw_only=True)
class OneStepSettings(Settings):
    """Settings of `OneStepGenerator`; see there.  What released files do not hold has a default."""

    rank_unet: int
    rank_vae: int
    alpha_unet: float
    alpha_vae: float
    skips: bool
    skip_init: SkipInit
    input_range: Range
    conditioning: ConditioningName = "direct"
    unet_targets: tuple[str, ...]
    vae_targets: tuple[str, ...]
    skip_lora: bool = False
    prompt_gates: int = 0
    frozen_dtype: FrozenDtype = "float32"

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        check_settings(rank_unet=self.rank_unet, rank_vae=self.rank_vae, prompt_gates=self.prompt_gates)
        alone = not self.prompt_gates or len(self.directions) == 1
        require(alone, "prompt_gates", "0 with two directions, each of which has an autoencoder", self.prompt_gates)
        for name in ("alpha_unet", "alpha_vae"):
            check_range(name, getattr(self, name), ABOVE_ZERO)
        for name in ("skips", "skip_lora"):
            require(isinstance(getattr(self, name), bool), name, "true or false", getattr(self, name))
        wanted = "a finite number or 'gaussian'"
        require(self.skip_init == "gaussian" or is_number(self.skip_init), "skip_init", wanted, self.skip_init)
        require_one_of(self.input_range, "input_range", get_args(Range))
        require_one_of(self.conditioning, "conditioning", get_args(ConditioningName))
        require_one_of(self.frozen_dtype, "frozen_dtype", get_args(FrozenDtype))
        for name in ("unet_targets", "vae_targets"):
            targets = getattr(self, name)
            fits = isinstance(targets, tuple) and 0 < len(targets) <= MAX_TARGETS
            fits = fits and all(isinstance(t, str) and 0 < len(t) <= MAX_NAME for t in targets)
            require(fits, name, f"a list of module names, at most {MAX_TARGETS}", targets)

    def to_json(self) -> dict[str, Json]:
        """See `Settings`; `prompt_gates` is left out when 0, so that version 0.2.0 can read the card."""
        values = super().to_json()
        if not self.prompt_gates:
            del values["prompt_gates"]
        return values


@dataclass(frozen=True, kw_only=True)
class ResnetSettings(Settings, base_name="resnet"):
    """Settings of `ResnetGenerator`; see there."""

    width: int
    blocks: int

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        check_settings(width=self.width, blocks=self.blocks)


def require(holds: bool, name: str, wanted: str, value: object) -> None:
    """Refuse a value.

    Raises:
        ValueError: the condition does not hold; the message has the expected and the given value.
    """
    if not holds:
        raise ValueError(
            f"{name} must be {wanted}, got {shortened(list(value) if isinstance(value, tuple) else value)}."
        )


def require_int(value: object, name: str, low: int, high: int | None = None) -> None:
    """Refuse what is not an integer in ``[low, high]``."""
    fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= (value if high is None else high)
    require(fits, name, f"an integer of at least {low}" + ("" if high is None else f" and at most {high}"), value)


def require_one_of(value: object, name: str, known: Sequence[str]) -> None:
    """Refuse what is not one of some words."""
    *first, last = map(repr, known)
    require(value in known, name, f"{', '.join(first)} or {last}", value)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # also of an integer that no float can hold, and not of NaN
