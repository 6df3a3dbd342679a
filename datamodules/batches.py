"""Batches of images: what data modules hand to training steps, callbacks and commands.

Every image is float32, ``(B, 3, H, W)``, in [-1, 1].  Lightning moves dataclasses to the device field by field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Direction = Literal["a2b", "b2a"]
"""Which way an image is translated: from domain A to domain B, or back."""

DomainLetter = Literal["a", "b"]
"""One of the two domains of a task."""

DOMAINS: dict[Direction, tuple[DomainLetter, DomainLetter]] = {"a2b": ("a", "b"), "b2a": ("b", "a")}
"""Source and target domain of each direction."""


@dataclass
class UnpairedBatch:
    """One training batch of two unrelated domains.

    Attributes:
        real_a: images of domain A, ``(B, 3, H, W)`` in [-1, 1].
        real_b: images of domain B, ``(B, 3, H, W)`` in [-1, 1]; no image of it corresponds to one of ``real_a``.
        index: position of each sample in its data set, ``(B,)`` int64.
        seed: one integer per sample, ``(B,)`` int64, a function of (seed, epoch, index); every random draw that the
            training step makes for a sample (discriminator augmentation) starts from it.
        names_a: file names of ``real_a``, for error messages.
        names_b: file names of ``real_b``.
    """

    real_a: Tensor
    real_b: Tensor
    index: Tensor
    seed: Tensor
    names_a: list[str]
    names_b: list[str]

    @property
    def names(self) -> list[str]:
        """Every file of the batch."""
        return [*self.names_a, *self.names_b]


@dataclass
class PairedBatch:
    """One training batch of inputs with their targets.

    Attributes:
        real_a: input images, ``(B, 3, H, W)`` in [-1, 1].
        real_b: target images of the same size, ``(B, 3, H, W)`` in [-1, 1].
        captions: one per image.
        index: position of each sample in its data set, ``(B,)`` int64.
        seed: one integer per sample, as in `UnpairedBatch`; the noise map of stochastic training starts from it too.
        names: file names of the targets.
        strength: ``(B,)`` in [0, 1], the ``r`` of each image; None trains deterministically (``r = 1``).
    """

    real_a: Tensor
    real_b: Tensor
    captions: list[str]
    index: Tensor
    seed: Tensor
    names: list[str]
    strength: Tensor | None = None


@dataclass
class EvaluationBatch:
    """Real images of one domain, to be translated in one direction (or, as reference, to be compared with).

    Attributes:
        real: the images, ``(B, 3, H, W)`` in [-1, 1]; all images of a batch have one size, batches may differ.
        direction: "a2b" or "b2a".
        index: position of each image in its split, ``(B,)`` int64, unique over all ranks.
        names: path of each file relative to its domain's folder, or name of a rendered scene.
        captions: one per image where the task has captions; None uses the fixed prompt of the direction.
        truth: ground truth, the counterpart in the other domain, same size, where the data has it.
    """

    real: Tensor
    direction: Direction
    index: Tensor
    names: list[str]
    captions: list[str] | None = None
    truth: Tensor | None = None


@dataclass
class Translation:
    """Translated images: what a validation, test or predict step returns to the callbacks.

    Attributes:
        direction: "a2b" or "b2a".
        real: the input images, ``(B, 3, H, W)`` in [-1, 1].
        fake: their translations, same shape and range.
        index: position of each image in its split, ``(B,)`` int64.
        names: as in `EvaluationBatch`.
        truth: as in `EvaluationBatch`.
        captions: as in `EvaluationBatch`.
        extra: further images for the grid by name ("rec", "idt"), same shape and range.
    """

    direction: Direction
    real: Tensor
    fake: Tensor
    index: Tensor
    names: list[str]
    truth: Tensor | None = None
    captions: list[str] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the caption of an image asks for, where the data knows: scores are then told by kind.

    Attributes:
        kind: under which name the image is scored.
        change: attributes that the caption names, with the values that the translation should show.
        keep: all other attributes, with their values in the input.
        is_change: whether the translation should differ from the input.
    """

    kind: str
    change: Mapping[str, str] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    is_change: bool = True
