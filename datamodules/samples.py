"""From index to sample, and from samples to batch; nothing of Lightning here.

A training set is asked with the key ``(epoch, index)``; what it returns depends on nothing else, whichever worker is
asked.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import EvaluationBatch, PairedBatch, UnpairedBatch
from datamodules.sampling import draws, sample_seed
from datamodules.transforms import TrainTransform
from images.reading import read_image
from images.resizing import resize_short_side, resized_shape
from storage import digest

PARTNER, CROP_A, CROP_B, STRENGTH = 1, 2, 3, 4  # purposes of `draws`


class Images(Protocol):
    """A list of images, read when asked for: files, or rendered scenes."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File name or scene name."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, without reading the image."""
        ...

    def read(self, index: int) -> Tensor:
        """The image, ``(3, H, W)`` in [-1, 1]."""
        ...


class FileImages:
    """Pictures on disk.

    Args:
        files: in a fixed order.
        folder: what names are relative to.
        sizes: height and width of each, from the headers.
    """

    def __init__(self, files: Sequence[Path], folder: Path, sizes: dict[Path, tuple[int, int]]) -> None:
        self.files = list(files)
        self.folder = folder
        self.sizes = [sizes[path] for path in files]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path below the folder."""
        return self.files[index].relative_to(self.folder).as_posix()

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.sizes[index]

    def read(self, index: int) -> Tensor:
        """The picture, ``(3, H, W)`` in [-1, 1]."""
        return read_image(self.files[index])


class UnpairedFolder(Dataset[dict[str, Any]]):
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

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """The sample of ``(epoch, index)``."""
        epoch, index = key
        here = index % len(self.a)
        there = int(draws(self.seed, epoch, index, PARTNER).integers(len(self.b)))
        return {
            "real_a": self.transform([self.a.read(here)], draws(self.seed, epoch, index, CROP_A))[0],
            "real_b": self.transform([self.b.read(there)], draws(self.seed, epoch, index, CROP_B))[0],
            "index": index,
            "seed": sample_seed(self.seed, epoch, index),
            "name_a": self.a.name(here),
            "name_b": self.b.name(there),
        }


class PairedFolder(Dataset[dict[str, Any]]):
    """Training samples of inputs with their targets.

    Args:
        targets: photographs.
        inputs: one per target; None computes each from its target, after resizing and cropping, so that lines are as
            thick as in translation.
        contour: computes an input from a target, where ``inputs`` is None.
        captions: one per target.
        transform: one draw of it for both images of a pair.
        seed: of every draw.
        stochastic: draw a strength uniformly from [0, 1] for each sample (paper, "generating diverse outputs").
    """

    def __init__(
        self,
        targets: Images,
        inputs: Images | None,
        contour: Callable[[Tensor], Tensor] | None,
        captions: Sequence[str],
        transform: TrainTransform,
        seed: int,
        stochastic: bool = False,
    ) -> None:
        assert (inputs is None) != (contour is None)
        self.targets, self.inputs, self.contour, self.captions = targets, inputs, contour, captions
        self.transform, self.seed, self.stochastic = transform, seed, stochastic

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """The sample of ``(epoch, index)``."""
        epoch, index = key
        draw = draws(self.seed, epoch, index, CROP_A)
        target = self.targets.read(index)
        if self.inputs is not None:
            real_a, real_b = self.transform([self.inputs.read(index), target], draw)
        else:
            assert self.contour is not None
            real_b = self.transform([target], draw)[0]
            real_a = self.contour(real_b)
        sample = {
            "real_a": real_a,
            "real_b": real_b,
            "caption": self.captions[index],
            "index": index,
            "seed": sample_seed(self.seed, epoch, index),
            "name": self.targets.name(index),
        }
        if self.stochastic:
            sample["strength"] = draws(self.seed, epoch, index, STRENGTH).random()
        return sample


class EvaluationImages(Dataset[dict[str, Any]]):
    """Whole images of one split, resized by their short side, never cropped.

    Args:
        images: what is translated, or compared with.
        size: short side, pixels.
        truths: true counterparts, where they exist.
        contour: computes the input from the image, which then is the truth.
        captions: one per image, or None.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        truths: Images | None = None,
        contour: Callable[[Tensor], Tensor] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        self.images, self.eval_size, self.truths, self.contour, self.captions = images, size, truths, contour, captions

    def __len__(self) -> int:
        return len(self.images)

    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each image after resizing."""
        return [resized_shape(*self.images.size(index), self.eval_size) for index in range(len(self))]

    def fingerprint(self) -> str:
        """Twelve hex digits over names and sizes, in order: which images these are, wherever their folder lies."""
        lines = [f"{self.images.name(index)} {shape}\n" for index, shape in enumerate(self.shapes())]
        return digest("".join(lines), digits=12)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image of the split."""
        real = resize_short_side(self.images.read(index), self.eval_size)
        sample: dict[str, Any] = {"real": real, "index": index, "name": self.images.name(index)}
        if self.contour is not None:
            sample |= {"real": self.contour(real), "truth": real}
        elif self.truths is not None:
            sample["truth"] = resize_short_side(self.truths.read(index), self.eval_size)
        if self.captions is not None:
            sample["caption"] = self.captions[index]
        return sample


def _stack(samples: list[dict[str, Any]], key: str) -> Tensor:
    return torch.stack([sample[key] for sample in samples])


def _integers(samples: list[dict[str, Any]], key: str) -> Tensor:
    return torch.tensor([sample[key] for sample in samples], dtype=torch.int64)


def collate_unpaired(samples: list[dict[str, Any]]) -> UnpairedBatch:
    """Samples of `UnpairedFolder` => batch."""
    return UnpairedBatch(
        real_a=_stack(samples, "real_a"),
        real_b=_stack(samples, "real_b"),
        index=_integers(samples, "index"),
        seed=_integers(samples, "seed"),
        names_a=[sample["name_a"] for sample in samples],
        names_b=[sample["name_b"] for sample in samples],
    )


def collate_paired(samples: list[dict[str, Any]]) -> PairedBatch:
    """Samples of `PairedFolder` => batch."""
    stochastic = "strength" in samples[0]
    return PairedBatch(
        real_a=_stack(samples, "real_a"),
        real_b=_stack(samples, "real_b"),
        captions=[sample["caption"] for sample in samples],
        index=_integers(samples, "index"),
        seed=_integers(samples, "seed"),
        names=[sample["name"] for sample in samples],
        strength=torch.tensor([sample["strength"] for sample in samples]).float() if stochastic else None,
    )


class EvaluationCollate:
    """Samples of `EvaluationImages` => batch of one direction (a class, so that worker processes can be given it)."""

    def __init__(self, direction: str) -> None:
        self.direction = direction

    def __call__(self, samples: list[dict[str, Any]]) -> EvaluationBatch:
        """Put samples of equal shape together."""
        return EvaluationBatch(
            real=_stack(samples, "real"),
            direction=self.direction,
            index=_integers(samples, "index"),
            names=[sample["name"] for sample in samples],
            captions=[sample["caption"] for sample in samples] if "caption" in samples[0] else None,
            truth=_stack(samples, "truth") if "truth" in samples[0] else None,
        )
