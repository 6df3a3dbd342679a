"""Training batches of the pocket base: crops of rendered images, and latents with their captions.

Every batch is a function of (seed, step), so that a resumed stage continues with the batch that it would have had.
"""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Generic, TypedDict, TypeVar

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from images.line_drawings import LINE_DRAWINGS
from pretraining.captioned_scenes import CaptionedScenes


class StepBatch(TypedDict):
    """A batch with its step."""

    step: int


class ImageBatch(StepBatch):
    """A batch of the autoencoder: `image` is `(B, 3, h, w)` in [-1, 1]."""

    image: Tensor


class LatentBatch(StepBatch):
    """A batch of the teacher: `latent` is `(B, 4, h, w)` float32, `tokens` is `(B, L)` int64."""

    latent: Tensor
    tokens: Tensor


class PairBatch(LatentBatch):
    """A batch of the distillation: also noise and the teacher's samples from it (latents), with their tokens."""

    pair_noise: Tensor
    pair_target: Tensor
    pair_tokens: Tensor


BatchT = TypeVar("BatchT", bound=StepBatch, covariant=True)


class StepBatches(Dataset[BatchT], Generic[BatchT]):
    """A data set whose item k is the whole batch of step k.

    Args:
        steps: number of steps of the stage.
        seed: seed of the order and of random draws.
    """

    def __init__(self, steps: int, seed: int) -> None:
        self.steps, self.seed = steps, seed

    def __len__(self) -> int:
        return self.steps

    def indices(self, length: int, step: int, batch_size: int, purpose: int = 0) -> list[int]:
        """Positions of the samples of a step's batch, from one seeded permutation of all samples after another."""
        positions = range(step * batch_size, (step + 1) * batch_size)
        return [int(_permutation(self.seed, purpose, p // length, length)[p % length]) for p in positions]

    def generator(self, step: int) -> np.random.Generator:
        """The generator of one step's random numbers."""
        return np.random.default_rng([self.seed, 2, step])


@lru_cache(maxsize=8)
def _permutation(seed: int, purpose: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 3, purpose, epoch]).permutation(length)


class ImageBatches(StepBatches[ImageBatch]):
    """Batches of the autoencoder: crops first, then whole images; some are replaced by line drawings of them.

    Args:
        images: the images to draw from.
        batch_size: crops per step; as many whole images as have the same number of pixels.
        crop: side of the crops in pixels.
        crop_share: share of the steps on crops, in [0, 1].
        contour_share: share of the images that are replaced by their edges or sketch, the inputs of paired tasks.
        steps: number of steps of the stage.
        seed: seed of the order and of random draws.
    """

    def __init__(
        self,
        images: CaptionedScenes,
        batch_size: int,
        crop: int,
        crop_share: float,
        contour_share: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(steps, seed)
        self.images, self.batch_size, self.crop = images, batch_size, crop
        self.crop_share, self.contour_share = crop_share, contour_share

    def __getitem__(self, step: int) -> ImageBatch:
        random, chosen = self.generator(step), []
        whole = step >= self.crop_share * self.steps
        for index in self.indices(len(self.images), step, self.batch_size):
            image = self.images.image(index)
            if random.random() < self.contour_share:
                draw = LINE_DRAWINGS[sorted(LINE_DRAWINGS)[random.integers(len(LINE_DRAWINGS))]]
                image = torch.from_numpy(draw(image))
            top, left = (int(random.integers(side - self.crop + 1)) for side in image.shape[1:])
            chosen.append(image if whole else image[:, top : top + self.crop, left : left + self.crop])
            area = image.shape[1] * image.shape[2] if whole else self.crop**2
            if len(chosen) * area >= self.batch_size * self.crop**2:
                break
        return {"image": torch.stack(chosen), "step": step}


class LatentBatches(StepBatches[LatentBatch]):
    """Batches of the teacher: cached latents with the tokens of their captions.

    Args:
        latents: ``(N, 4, h, w)`` float16, scaled.
        tokens: ``(N, L)`` int64.
        batch_size: latents per step.
        steps: number of steps of the stage.
        seed: seed of the order.
    """

    def __init__(self, latents: NDArray[np.float16], tokens: Tensor, batch_size: int, steps: int, seed: int) -> None:
        super().__init__(steps, seed)
        self.latents, self.tokens, self.batch_size = latents, tokens, batch_size

    def __getitem__(self, step: int) -> LatentBatch:
        rows = self.indices(len(self.latents), step, self.batch_size)
        latent = torch.from_numpy(self.latents[rows].astype(np.float32))
        return {"latent": latent, "tokens": self.tokens[rows], "step": step}


class PairBatches(StepBatches[PairBatch]):
    """Batches of the distillation: those of the teacher, and pairs of noise and the teacher's sample from it.

    Args:
        latents: batches of latents.
        pairs: "noise", "target" and "tokens", each of as many rows.
        batch_size: pairs per step.
    """

    def __init__(self, latents: LatentBatches, pairs: dict[str, Tensor], batch_size: int) -> None:
        super().__init__(latents.steps, latents.seed)
        self.latents, self.pairs, self.batch_size = latents, pairs, batch_size

    def __getitem__(self, step: int) -> PairBatch:
        rows = self.indices(len(self.pairs["noise"]), step, self.batch_size, purpose=1)
        return {
            **self.latents[step],
            "pair_noise": self.pairs["noise"][rows].float(),
            "pair_target": self.pairs["target"][rows].float(),
            "pair_tokens": self.pairs["tokens"][rows],
        }


class _StepsFrom(Sampler[int]):
    """Steps from the one at which a stage is resumed; the length is that of all steps, as Lightning counts."""

    def __init__(self, steps: int, start: int) -> None:
        self.steps, self.start = steps, start

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        yield from range(self.start, self.steps)


class PretrainingData(LightningDataModule):
    """The batches of a stage as one epoch that can start at any step.

    Args:
        batches: the batches by step.
    """

    def __init__(self, batches: StepBatches[StepBatch]) -> None:
        super().__init__()
        self.batches = batches
        self._start = 0

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """One batch per step."""
        return DataLoader(self.batches, batch_size=None, sampler=_StepsFrom(len(self.batches), self._start))

    def state_dict(self) -> dict[str, int]:
        """The next step: a checkpoint at a batch's end is written before Lightning counts the batch as completed."""
        assert self.trainer is not None
        return {"step": self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["current"]["processed"]}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next loader at the step of `state_dict`."""
        self._start = state_dict["step"]
        # Lightning looks for state in the loader; it is here.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
