"""Data sets: samples of images, and how samples become batches; plain torch, nothing of Lightning.

A training set is indexed by the key ``(epoch, index)``; the sample depends on nothing else, whichever worker reads it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypedDict, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.bad_images import read_checked
from datamodules.batches import Direction, EvaluationBatch, PairedBatch, UnpairedBatch
from datamodules.files.images import Images
from datamodules.sampling import draws, sample_seed
from datamodules.transforms import TrainTransform
from images.ranges import Array
from images.resizing import resize_short_side, resized_shape
from storage import digest

PARTNER, CROP_A, CROP_B, STRENGTH = 1, 2, 3, 4  # purposes of `draws`

LineDrawing = Callable[[ArrayLike], Array]
"""Photograph to line drawing, both ``(3, H, W)`` in [-1, 1]; see `images.line_drawings`."""


SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT")


class TrainingSet(Dataset[SampleT], ABC, Generic[SampleT, BatchT]):
    """Training samples, each a function of its key ``(epoch, index)`` alone, and how they become a batch."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples of an epoch."""

    @abstractmethod
    def __getitem__(self, key: tuple[int, int]) -> SampleT:
        """The sample of ``(epoch, index)``."""

    @staticmethod
    @abstractmethod
    def collate(samples: list[SampleT]) -> BatchT:
        """Samples => batch.  Static, because a bound method would send its whole object to the worker processes."""


class UnpairedSample(TypedDict):
    """One image of each domain; tensors are ``(3, H, W)`` in [-1, 1], the other fields as in `UnpairedBatch`."""

    real_a: Tensor
    real_b: Tensor
    index: int
    seed: int
    name_a: str
    name_b: str


class UnpairedTraining(TrainingSet[UnpairedSample, UnpairedBatch]):
    """Training samples of two unrelated domains; an epoch is as long as the larger one.

    Args:
        a: images of domain A.
        b: images of domain B; the partner is drawn from (seed, epoch, index).
        transform: applied to both with separate draws.
        seed: of every draw.
    """

    def __init__(self, a: Images, b: Images, transform: TrainTransform, seed: int) -> None:
        self.a, self.b, self.transform, self.seed = a, b, transform, seed

    def __len__(self) -> int:
        return max(len(self.a), len(self.b))

    def __getitem__(self, key: tuple[int, int]) -> UnpairedSample:
        """The sample of ``(epoch, index)``."""
        epoch, index = key
        index_a = index % len(self.a)
        index_b = int(draws(self.seed, epoch, index, PARTNER).integers(len(self.b)))
        return {
            "real_a": self.transform([self._read(self.a, index_a)], draws(self.seed, epoch, index, CROP_A))[0],
            "real_b": self.transform([self._read(self.b, index_b)], draws(self.seed, epoch, index, CROP_B))[0],
            "index": index,
            "seed": sample_seed(self.seed, epoch, index),
            "name_a": self.a.name(index_a),
            "name_b": self.b.name(index_b),
        }

    def _read(self, images: Images, index: int) -> Tensor:
        return read_checked(images, index, self.transform.resize)

    @staticmethod
    def collate(samples: list[UnpairedSample]) -> UnpairedBatch:
        """Samples => batch."""
        return UnpairedBatch(
            real_a=torch.stack([sample["real_a"] for sample in samples]),
            real_b=torch.stack([sample["real_b"] for sample in samples]),
            index=_int64([sample["index"] for sample in samples]),
            seed=_int64([sample["seed"] for sample in samples]),
            names_a=[sample["name_a"] for sample in samples],
            names_b=[sample["name_b"] for sample in samples],
        )


class PairedSample(TypedDict):
    """An input with its target, ``(3, H, W)`` in [-1, 1]; the other fields as in `PairedBatch`."""

    real_a: Tensor
    real_b: Tensor
    caption: str
    index: int
    seed: int
    name: str
    strength: float | None


class PairedTraining(TrainingSet[PairedSample, PairedBatch]):
    """Training samples of inputs with their targets.

    Args:
        targets: photographs.
        inputs: one image per target; or a line drawing that is computed from each target after resizing and cropping,
            so that lines are as thick as in translation.
        captions: one per target.
        transform: one draw of it for both images of a pair.
        seed: of every draw.
        stochastic: draw a strength uniformly from [0, 1] for each sample (paper, "generating diverse outputs").
    """

    def __init__(
        self,
        targets: Images,
        inputs: Images | LineDrawing,
        captions: Sequence[str],
        transform: TrainTransform,
        seed: int,
        stochastic: bool = False,
    ) -> None:
        self.targets, self.inputs, self.captions = targets, inputs, captions
        self.transform, self.seed, self.stochastic = transform, seed, stochastic

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: tuple[int, int]) -> PairedSample:
        """The sample of ``(epoch, index)``."""
        epoch, index = key
        draw = draws(self.seed, epoch, index, CROP_A)
        target = self._read(self.targets, index)
        if callable(self.inputs):
            real_b = self.transform([target], draw)[0]
            real_a = torch.from_numpy(self.inputs(real_b))
        else:
            real_a, real_b = self.transform([self._read(self.inputs, index), target], draw)
        return {
            "real_a": real_a,
            "real_b": real_b,
            "caption": self.captions[index],
            "index": index,
            "seed": sample_seed(self.seed, epoch, index),
            "name": self.targets.name(index),
            "strength": draws(self.seed, epoch, index, STRENGTH).random() if self.stochastic else None,
        }

    def _read(self, images: Images, index: int) -> Tensor:
        return read_checked(images, index, self.transform.resize)

    @staticmethod
    def collate(samples: list[PairedSample]) -> PairedBatch:
        """Samples => batch."""
        strengths = [sample["strength"] for sample in samples if sample["strength"] is not None]
        return PairedBatch(
            real_a=torch.stack([sample["real_a"] for sample in samples]),
            real_b=torch.stack([sample["real_b"] for sample in samples]),
            captions=[sample["caption"] for sample in samples],
            index=_int64([sample["index"] for sample in samples]),
            seed=_int64([sample["seed"] for sample in samples]),
            names=[sample["name"] for sample in samples],
            strength=torch.tensor(strengths, dtype=torch.float32) if strengths else None,
        )


class EvaluationSample(TypedDict):
    """One whole image, ``(3, H, W)`` in [-1, 1], and its ground truth and caption where the data has them."""

    real: Tensor
    index: int
    name: str
    truth: Tensor | None
    caption: str | None


class EvaluationImages(Dataset[EvaluationSample]):
    """Whole images of one split, resized by their short side, never cropped.

    Args:
        images: what is translated, or compared with.
        size: short side, pixels.
        truths: ground truth of each image, where it exists.
        line_drawing: computes what is translated from the image, which then is the ground truth.
        captions: one per image, or None.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        truths: Images | None = None,
        line_drawing: LineDrawing | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        self.images, self.eval_size, self.captions = images, size, captions
        self.truths, self.line_drawing = truths, line_drawing

    def __len__(self) -> int:
        return len(self.images)

    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each image after resizing."""
        return [resized_shape(*self.images.size(index), self.eval_size) for index in range(len(self))]

    def fingerprint(self) -> str:
        """Twelve hex digits over names and sizes, in order; the same wherever the folder is."""
        lines = [f"{self.images.name(index)} {shape}\n" for index, shape in enumerate(self.shapes())]
        return digest("".join(lines), digits=12)

    def __getitem__(self, index: int) -> EvaluationSample:
        """One image of the split."""
        real, truth = self._read(self.images, index), None
        if self.line_drawing is not None:
            real, truth = torch.from_numpy(self.line_drawing(real)), real
        elif self.truths is not None:
            truth = self._read(self.truths, index)
        caption = None if self.captions is None else self.captions[index]
        return {"real": real, "index": index, "name": self.images.name(index), "truth": truth, "caption": caption}

    def _read(self, images: Images, index: int) -> Tensor:
        return torch.from_numpy(resize_short_side(read_checked(images, index, self.eval_size), self.eval_size))


def collate_evaluation(direction: Direction, samples: list[EvaluationSample]) -> EvaluationBatch:
    """Samples of equal shape => batch of one direction."""
    truths = [sample["truth"] for sample in samples if sample["truth"] is not None]
    captions = [sample["caption"] for sample in samples if sample["caption"] is not None]
    return EvaluationBatch(
        real=torch.stack([sample["real"] for sample in samples]),
        direction=direction,
        index=_int64([sample["index"] for sample in samples]),
        names=[sample["name"] for sample in samples],
        captions=captions or None,
        truth=torch.stack(truths) if truths else None,
    )


def _int64(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)
