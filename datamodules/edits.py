"""Edits by words: an image, a prompt that says what to change or what there is, and the result."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.base import EvaluationStage
from datamodules.batches import Asked, PairedBatch
from datamodules.files.edits import find_edits
from datamodules.files.images import FileImages
from datamodules.files.layouts import Pairs
from datamodules.paired import PairedImages
from datamodules.samples import CROP_A, STRENGTH, PairedSample, PairedTraining, TrainingSet
from datamodules.sampling import draws, sample_seed
from datamodules.scenes import ATTRIBUTES, RENDERER_VERSION, State, describe, render_state, states
from datamodules.transforms import TrainTransform
from limits import check_settings

EDIT = 5  # purpose of `draws`; see `samples`
MOST_CHANGED = 2  # attributes
NO_CHANGE = "no-op"
MOST_KINDS = 64  # distinct prompts of a folder up to which each is scored and listed by itself
EVALUATED: tuple[EvaluationStage, ...] = ("validate", "test")
UNSEEN: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "street": ({"light": "day", "air": "clear"}, {"light": "night", "air": "foggy"}),
    "meadow": ({"animal": "horse", "ground": "green"}, {"animal": "zebra", "ground": "sandy"}),
}
"""What is never trained, by place: from the first attributes to the second."""


@dataclass(frozen=True)
class SceneEdit:
    """An edit of a rendered scene.

    Attributes:
        place: "street" or "meadow".
        source: state before.
        target: state after; the same where nothing changes.
        named: the attributes that the prompt names; all others stay.
    """

    place: str
    source: State
    target: State
    named: tuple[str, ...]

    @property
    def before(self) -> dict[str, str]:
        """Value in the input by attribute."""
        return self._values(self.source)

    @property
    def asked(self) -> dict[str, str]:
        """What the prompt asks for: value by attribute."""
        return {name: value for name, value in self._values(self.target).items() if name in self.named}

    @property
    def prompt(self) -> str:
        """Description of what is asked for."""
        return describe(self.place, self.asked)

    @property
    def unseen(self) -> bool:
        """Whether it is one of `UNSEEN`."""
        before, after = UNSEEN[self.place]
        return before.items() <= self.before.items() and after.items() <= self._values(self.target).items()

    @property
    def kind(self) -> str:
        """Under which name it is measured: its prompt, where it changes one attribute."""
        if self.source == self.target:
            return NO_CHANGE
        if self.unseen:
            before, after = (" ".join(values.values()) for values in UNSEEN[self.place])
            return f"unseen: {before} to {after}"
        return self.prompt if len(self.named) == 1 else f"{self.place}, two at once"

    def to_score(self) -> Asked:
        """What a translation is held against."""
        after = self._values(self.target)
        keep = {name: value for name, value in after.items() if name not in self.named}
        return Asked(self.kind, self.asked, keep, self.source != self.target)

    def _values(self, state: State) -> dict[str, str]:
        return dict(zip(ATTRIBUTES[self.place], state, strict=True))


def scene_edits(place: str) -> list[SceneEdit]:
    """Every edit of a place, unseen ones too, that changes one or two attributes, or none and names one."""
    found = []
    for source, target in itertools.product(states(place), repeat=2):
        pairs = zip(ATTRIBUTES[place], source, target, strict=True)
        changed = tuple(name for name, before, after in pairs if before != after)
        if source == target:
            found += [SceneEdit(place, source, target, (name,)) for name in ATTRIBUTES[place]]
        elif len(changed) <= MOST_CHANGED:
            found.append(SceneEdit(place, source, target, changed))
    return found


class SceneStates:
    """Scenes, each in a state of its own, rendered when read; satisfies `datamodules.files.images.Images`.

    Args:
        scenes: place, state and index of each.
        seed: of the whole world.
        side: pixels of the square's side.
    """

    folder = None

    def __init__(self, scenes: Sequence[tuple[str, State, int]], seed: int, side: int) -> None:
        self.scenes, self.seed, self.side = scenes, seed, side

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        """Place, state and number of the scene."""
        place, state, number = self.scenes[index]
        return f"{place}/{'-'.join(state)}/{number:06d}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def read(self, index: int) -> Tensor:
        """The scene, ``(3, H, W)`` in [-1, 1]."""
        place, state, number = self.scenes[index]
        return render_state(place, state, self.seed, number, self.side)

    def stamp(self) -> str:
        """Changes with the renderer."""
        return f"renderer {RENDERER_VERSION}"


class EditTraining(TrainingSet[PairedSample, PairedBatch]):
    """Rendered edits, drawn anew for every ``(seed, epoch, index)``; scenes are those of the indices from 0 on.

    Args:
        edits: what is trained.
        unchanged: edits that change nothing.
        noops: share of these.
        count: samples of an epoch.
        transform: one draw of it for input and target.
        seed: of every draw, and of the world.
        stochastic: see `PairedTraining`.
        caption: of every sample; None takes the prompt of each edit.
    """

    def __init__(
        self,
        edits: Sequence[SceneEdit],
        unchanged: Sequence[SceneEdit],
        noops: float,
        count: int,
        transform: TrainTransform,
        seed: int,
        stochastic: bool = False,
        caption: str | None = None,
    ) -> None:
        self.edits, self.noops, self.count = [edits, unchanged], noops, count
        self.transform, self.seed, self.stochastic = transform, seed, stochastic
        self.caption = caption
        self.places = sorted({edit.place for edit in edits})

    def __len__(self) -> int:
        return self.count

    def edit(self, epoch: int, index: int) -> SceneEdit:
        """The edit that is trained at ``(epoch, index)``."""
        draw = draws(self.seed, epoch, index, EDIT)
        changes, unchanged = self.edits
        place = self.places[draw.integers(len(self.places))]
        known = [edit for edit in (unchanged if draw.random() < self.noops else changes) if edit.place == place]
        return known[draw.integers(len(known))]

    def __getitem__(self, key: tuple[int, int]) -> PairedSample:
        """The sample of ``(epoch, index)``."""
        epoch, index = key
        edit, side = self.edit(epoch, index), self.transform.resize
        images = [render_state(edit.place, state, self.seed, index, side) for state in (edit.source, edit.target)]
        real_a, real_b = self.transform(images, draws(self.seed, epoch, index, CROP_A))
        return {
            "real_a": real_a,
            "real_b": real_b,
            "caption": edit.prompt if self.caption is None else self.caption,
            "index": index,
            "seed": sample_seed(self.seed, epoch, index),
            "name": f"{edit.place}/{'-'.join(edit.target)}/{index:06d}",
            "strength": draws(self.seed, epoch, index, STRENGTH).random() if self.stochastic else None,
        }

    collate = staticmethod(PairedTraining.collate)


class Edits(PairedImages):
    """Images, prompts and results, for one model that does what the prompt says.

    .. code-block:: text

        root/metadata.jsonl               {"input": "a.png", "target": "b.png", "prompt": "make it night"}, a line each
        root/train/metadata.jsonl ...     or one of train/, and perhaps of val/ and test/, each beside its images

    Several lines may share an input or a target.  Without ``val/`` a part is held out, such that no image is on both
    sides.  Without `root`, scenes are rendered: source and target attributes are drawn for every sample, but for
    `UNSEEN` combinations, which are only measured.

    Args:
        caption: prompt of the adapter where none is given; None takes the most frequent one.
        noops: share of rendered samples whose prompt names what is there, so that nothing changes.
        kinds: of rendered edits that are trained, by their prompts; None trains all.
        captioned: False gives every image the adapter's prompt in place of its own (ablation).
        **settings: as in `PairedImages`.
    """

    domain_names = ("image", "edited image")
    shares_images = True

    def __init__(
        self,
        *,
        caption: str | None = None,
        noops: float = 0.1,
        kinds: Sequence[str] | None = None,
        captioned: bool = True,
        **settings: Any,
    ) -> None:
        check_settings(noops=noops)
        self.noops, self.kinds, self.captioned = noops, kinds, captioned
        self.evaluated: dict[EvaluationStage, list[SceneEdit]] = {}
        super().__init__(caption=caption or "", **settings)
        ((most_frequent, _),) = Counter(self.captions["train"]).most_common(1)
        self.prompts = {"a2b": caption or most_frequent}
        trained = tuple(dict.fromkeys(self.captions["train"]))
        self.edits = trained if len(trained) <= MOST_KINDS else ()
        self._prompts = {stage: list(texts) for stage, texts in self.captions.items()}
        if not captioned:
            self.captions = {stage: [self.prompts["a2b"]] * len(texts) for stage, texts in self.captions.items()}
            self.edits = ()

    @classmethod
    def list_files(cls, root: Path, seed: int) -> Pairs:
        """Files and prompts by stage; see `find_edits`."""
        return find_edits(root, seed)

    @property
    def description(self) -> str:
        """One-line description of the data."""
        if self.root is not None:
            return super().description
        counts = ", ".join(f"{stage} {count}" for stage, count in self.scene_counts.items())
        return f"twin world: rendered scenes before and after an edit by words, not photographs ({counts})"

    def _read(self, pairs: Pairs) -> None:
        super()._read(pairs)
        assert self.inputs is not None
        for images in (*self.inputs.values(), *self.targets.values()):
            assert isinstance(images, FileImages)
            images.number_repeats()

    def _render(self) -> None:
        every = [edit for place in ATTRIBUTES for edit in scene_edits(place)]
        kinds = list(dict.fromkeys(edit.kind for edit in every))
        self.trained = [edit for edit in every if edit.kind != NO_CHANGE and not edit.unseen]
        self.trained.sort(key=lambda edit: (len(edit.named), list(ATTRIBUTES[edit.place]).index(edit.named[0])))
        self.unchanged = [edit for edit in every if edit.kind == NO_CHANGE]
        if self.kinds is not None:
            known = list(dict.fromkeys(edit.kind for edit in self.trained))
            if unknown := [kind for kind in self.kinds if kind not in known]:
                raise ValueError(f"data: no edits of the kind {unknown[0]!r}. Known: {'; '.join(known)}.")
            self.trained = [edit for edit in self.trained if edit.kind in self.kinds]
        places = {edit.place for edit in self.trained}
        drawn = [*self.trained, *(edit for edit in self.unchanged if self.noops and edit.place in places)]
        self.captions["train"] = list(dict.fromkeys(edit.prompt for edit in drawn))
        self.inputs = {}
        first = self.scene_counts["train"]
        for stage in EVALUATED:
            numbers = range(first, first + self.scene_counts[stage])
            first = numbers.stop
            edits = [self._evaluated(every, kinds[k % len(kinds)], number) for k, number in enumerate(numbers)]
            self.evaluated[stage] = edits
            self.inputs[stage], self.targets[stage] = (
                SceneStates(
                    [(edit.place, getattr(edit, side), n) for edit, n in zip(edits, numbers, strict=True)],
                    self.seed,
                    self.eval_size,
                )
                for side in ("source", "target")
            )
            self.captions[stage] = [edit.prompt for edit in edits]

    def _evaluated(self, every: Sequence[SceneEdit], kind: str, scene: int) -> SceneEdit:
        """The edit of a scene of validation or test, where kinds take turns."""
        alike = [edit for edit in every if edit.kind == kind]
        return alike[draws(self.seed, 0, scene, EDIT).integers(len(alike))]

    def asked(self, stage: EvaluationStage) -> list[Asked]:
        """What each caption of a split asks for; of a folder its prompts, or none where there are too many."""
        if self.is_rendered:
            return [edit.to_score() for edit in self.evaluated[stage]]
        few = len({*self._prompts["train"]}) <= MOST_KINDS
        return [Asked(prompt) for prompt in self._prompts[stage]] if few else []

    def labelled(self, scenes: int) -> Iterator[tuple[dict[str, str], Tensor]]:
        """Rendered scenes that are in no split, in all their states: attributes and image, ``(3, H, W)`` in [-1, 1].

        Args:
            scenes: of each place.
        """
        first = sum(self.scene_counts.values())
        for place, number in itertools.product(ATTRIBUTES, range(first, first + scenes if self.is_rendered else first)):
            for state in states(place):
                values = dict(zip(ATTRIBUTES[place], state, strict=True))
                yield values, render_state(place, state, self.seed, number, self.eval_size)

    def training_set(self) -> PairedTraining | EditTraining:  # type: ignore[override]  # both give PairedBatch
        """Samples of inputs with prompts and targets."""
        if not self.is_rendered:
            return super().training_set()
        count = self.limited(self.scene_counts["train"])
        caption = None if self.captioned else self.prompts["a2b"]
        return EditTraining(
            self.trained, self.unchanged, self.noops, count, self.transform, self.seed, self.stochastic, caption
        )
