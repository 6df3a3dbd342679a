"""The card of an adapter (adapter.json): what rebuilds its generator, and what its training run was."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from networks.checkpoints.settings import Direction, Json, Settings, require, require_int
from prompt_embeddings import PromptEmbeddings
from storage import shortened

if TYPE_CHECKING:
    from networks.contract import ImageTranslator

FORMAT = 1
CARD_BYTES = 1 << 20  # of adapter.json, which has some kilobytes
MAX_TEXT = 10_000  # characters of a prompt, a name or a description
PACKAGES = ("torch", "diffusers", "peft", "transformers", "safetensors")

JsonMap = Mapping[str, Json]
Resolution = Literal["lift", "tiles", "direct"]
"""See `inference.high_resolution`."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The training run's entries in an adapter's card; those that are None are left out of adapter.json.

    Attributes:
        task: "paired" or "unpaired".
        source: "released" for a file of the authors; None for adapters of this project.
        ablation: labels of the trial in its grid, by axis.
        data: one line on the training data.
        data_is_rendered: whether its images are rendered scenes, not photographs.
        preprocessing: how images became inputs, as the data module names it.
        resolution: how images larger than those are translated best.
        edits: prompts that were trained, where each image's caption was one of a few.
        experiment: name of the experiment.
        training_features: names of the feature networks that training used.
        images_seen: training samples seen, all ranks together.
        extra: further top-level entries of adapter.json, written back as they were read.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    task: str | None = None
    source: str | None = None
    ablation: JsonMap | None = None
    data: str | None = None
    data_is_rendered: bool | None = None
    preprocessing: JsonMap | None = None
    resolution: Resolution | None = None
    edits: tuple[str, ...] | None = None
    experiment: str | None = None
    training_features: tuple[str, ...] | None = None
    images_seen: int | None = None
    extra: JsonMap = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turn lists into tuples and validate."""
        for name in ("training_features", "edits"):
            if isinstance(names := getattr(self, name), list):
                object.__setattr__(self, name, tuple(names))
            names = getattr(self, name)
            require(names is None or isinstance(names, tuple), name, "a list of texts", names)
            for text in names or ():
                _require_text(text, name, or_none=False)
        for name in ("task", "source", "data", "experiment"):
            _require_text(getattr(self, name), name)
        for name in ("ablation", "preprocessing", "extra"):
            _require_type(getattr(self, name), name, Mapping, "an object")
        _require_type(self.data_is_rendered, "data_is_rendered", bool, "true or false")
        modes = get_args(Resolution)
        require(self.resolution in (None, *modes), "resolution", " or ".join(modes), self.resolution)
        if self.images_seen is not None:
            require_int(self.images_seen, "images_seen", 0)

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> "RunFacts":
        """Build from top-level entries of adapter.json; unknown ones become `extra`."""
        names = {f.name for f in fields(cls)} - {"extra"}
        known = {name: value for name, value in entries.items() if name in names}
        extra = {name: value for name, value in entries.items() if name not in names}
        return cls(**known, extra=extra)

    def to_json(self) -> dict[str, Json]:
        """Top-level entries of adapter.json."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: value for name, value in listed.items() if value is not None} | dict(self.extra)


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """Content of adapter.json and of the `adapter` entry of a checkpoint.

    Attributes:
        settings: arguments of the generator's constructor.
        prompts: target prompt by direction.
        base: what the weights start from, as `load_base` takes it; None for released files, which do not name it.
        base_random_init: whether the base's weights are seeded random numbers.
        base_fingerprint: of the base's frozen weights, hexadecimal; None likewise.
        base_description: one line on the base; None likewise.
        run: the training run's entries.
        versions: of Python and of the packages that wrote the card.
        metrics: scores of the final state on the test split, by direction.
        best: the state that validation chose, with its scores if it is another than the final state.
        exported: format and losses of an export.
        weights: digest of the tensors that it describes; None in cards that stand beside none, and of earlier versions.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    settings: Settings
    prompts: Mapping[str, str]
    base: str | None = None
    base_random_init: bool = False
    base_fingerprint: str | None = None
    base_description: str | None = None
    run: RunFacts = field(default_factory=RunFacts)
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: JsonMap | None = None
    best: JsonMap | None = None
    exported: JsonMap | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("base", "base_fingerprint", "base_description", "weights"):
            _require_text(getattr(self, name), name)
        for name in ("metrics", "best", "exported"):
            _require_type(getattr(self, name), name, Mapping, "an object")
        require(isinstance(self.base_random_init, bool), "base_random_init", "true or false", self.base_random_init)
        for name in ("prompts", "versions"):
            texts = getattr(self, name)
            require(isinstance(texts, Mapping), name, "an object of texts", texts)
            for key, text in texts.items():
                _require_text(text, f"{name}.{shortened(key)}", or_none=False)
        unknown = set(self.prompts) - set(get_args(Direction))
        require(not unknown, "prompts", "given by direction, a2b and b2a", sorted(self.prompts))

    @classmethod
    def of(
        cls,
        generator: "ImageTranslator",
        run: RunFacts,
        metrics: JsonMap | None = None,
        best: JsonMap | None = None,
        exported: JsonMap | None = None,
    ) -> "AdapterCard":
        """Build the card of a generator in its current state; every card that is written is built here.

        Args:
            generator: trained.
            run: the training run's entries.
            metrics: see the attributes.
            best: see the attributes.
            exported: see the attributes.

        Raises:
            ValueError: a value is invalid, or the generator's settings would be read back as another class.
        """
        kind = Settings.type_for(generator.base_name)
        if not isinstance(generator.settings, kind):
            name = type(generator.settings).__name__
            raise ValueError(
                f"Settings of base {generator.base_name!r} are read as {kind.__name__}, this generator has {name}: "
                f"declare `class {name}(Settings, base_name={generator.base_name!r})`."
            )
        return cls(
            base=generator.base_name,
            base_random_init=generator.base_random_init,
            base_fingerprint=generator.base_fingerprint,
            base_description=generator.base_description,
            settings=generator.settings,
            prompts=dict(generator.prompts),
            run=run,
            versions={"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            metrics=metrics,
            best=best,
            exported=exported,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "AdapterCard":
        """Read the content of adapter.json.

        Args:
            content: as `json.loads` returned it.
            where: the file, for messages.

        Raises:
            ValueError: its format is another, a setting is unknown, or a value is invalid; one line with the file.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, Mapping) else content
            raise ValueError(f"{where} has format {shortened(found)}; this version reads format {FORMAT}.")
        rest = {name: value for name, value in content.items() if name != "format"}
        settings, base = rest.pop("settings", None), rest.get("base")
        try:
            if not isinstance(settings, Mapping):
                raise ValueError("settings are missing")
            own = {f.name: rest.pop(f.name) for f in fields(cls) if f.name in rest and f.name != "run"}
            own = {"prompts": {}, **own}
            kind = Settings.type_for(base if isinstance(base, str) else None)
            return cls(settings=kind.from_json(settings), run=RunFacts.from_json(rest), **own)
        except ValueError as error:
            raise ValueError(f"{where} cannot be read: {error}") from error

    def to_json(self) -> dict[str, Json]:
        """Content of adapter.json, plain JSON types only."""
        base = {
            "base": self.base,
            "base_random_init": self.base_random_init,
            "base_fingerprint": self.base_fingerprint,
            "base_description": self.base_description,
        }
        names = ("metrics", "best", "exported", "weights")
        more: dict[str, Json] = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {
            "format": FORMAT,
            **base,
            "settings": self.settings.to_json(),
            "prompts": dict(self.prompts),
            **self.run.to_json(),
            "versions": dict(self.versions),
            **more,
        }


@dataclass(frozen=True)
class Adapter:
    """A trained generator without its base.

    Attributes:
        tensors: every trained tensor by its name in the generator.
        card: what rebuilds the generator.
        path: where it was read.
        conv_in_delta: of a released unpaired file, which holds the UNet's first convolution as a LoRA only: what to add
            to the base's weight.
        prompts: embeddings of the trained prompts; None where there are none beside the tensors.
    """

    tensors: Mapping[str, Tensor]
    card: AdapterCard
    path: str
    conv_in_delta: Tensor | None = None
    prompts: PromptEmbeddings | None = None


def _require_text(value: object, name: str, or_none: bool = True) -> None:
    fits = value is None if not isinstance(value, str) else len(value) <= MAX_TEXT
    require(fits and (or_none or value is not None), name, f"a text of at most {MAX_TEXT:,} characters", value)


def _require_type(value: object, name: str, kind: type, wanted: str) -> None:
    require(value is None or isinstance(value, kind), name, wanted, value)
