"""The batches that the pocket base is made from: crops of rendered pictures, and the latents of them.

Every batch is a function of (seed, step), so an interrupted stage goes on with the batch that it would have had.
"""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from images.line_drawings import LINE_DRAWINGS
from pretraining.captioned_scenes import CaptionedScenes


class StepBatches(Dataset[dict[str, Any]]):
    """Item k is the whole batch of step k, with `step` in it; subclasses draw it.

    Args:
        steps: of the stage.
        seed: of order and draws.
    """

    def __init__(self, steps: int, seed: int) -> None:
        self.steps, self.seed = steps, seed

    def __len__(self) -> int:
        return self.steps

    def indices(self, length: int, step: int, batch_size: int, purpose: int = 0) -> list[int]:
        """Which samples the batch of a step holds: seeded permutations of all, one after the other."""
        positions = range(step * batch_size, (step + 1) * batch_size)
        return [int(_permutation(self.seed, purpose, p // length, length)[p % length]) for p in positions]

    def draws(self, step: int) -> np.random.Generator:
        """Random numbers of one step."""
        return np.random.default_rng([self.seed, 2, step])


@lru_cache(maxsize=8)
def _permutation(seed: int, purpose: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 3, purpose, epoch]).permutation(length)


class PictureBatches(StepBatches):
    """For the autoencoder: crops first, then whole pictures, some of them drawn as contours.

    Args:
        pictures: what to draw from.
        batch_size: crops per step; whole pictures are as many as have the crops' pixels.
        crop: side of the crops, pixels.
        crop_share: share of the steps on crops, in [0, 1].
        contour_share: share of pictures that are replaced by their edges or sketch, as the paired tasks feed them.
        steps: of the stage.
        seed: of order and draws.
    """

    def __init__(
        self,
        pictures: CaptionedScenes,
        batch_size: int,
        crop: int,
        crop_share: float,
        contour_share: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(steps, seed)
        self.pictures, self.batch_size, self.crop = pictures, batch_size, crop
        self.crop_share, self.contour_share = crop_share, contour_share

    def __getitem__(self, step: int) -> dict[str, Any]:
        """``image``: ``(B, 3, h, w)`` in [-1, 1]."""
        draw, images = self.draws(step), []
        whole = step >= self.crop_share * self.steps
        for index in self.indices(len(self.pictures), step, self.batch_size):
            image = self.pictures.image(index)
            if draw.random() < self.contour_share:
                image = LINE_DRAWINGS[sorted(LINE_DRAWINGS)[draw.integers(len(LINE_DRAWINGS))]](image)
            top, left = (int(draw.integers(side - self.crop + 1)) for side in image.shape[1:])
            images.append(image if whole else image[:, top : top + self.crop, left : left + self.crop])
            area = image.shape[1] * image.shape[2] if whole else self.crop**2
            if len(images) * area >= self.batch_size * self.crop**2:
                break
        return {"image": torch.stack(images), "step": step}


class LatentBatches(StepBatches):
    """For teacher and distillation: cached latents with their captions' tokens, and pairs where there are some.

    Args:
        latents: ``(N, 4, h, w)`` float16, scaled.
        tokens: ``(N, L)`` int64.
        batch_size: latents per step.
        steps: of the stage.
        seed: of the order.
        pairs: the teacher's draws: "noise", "target" and "tokens", each of as many rows.
        pairs_batch: of those per step.
    """

    def __init__(
        self,
        latents: NDArray[np.float16],
        tokens: Tensor,
        batch_size: int,
        steps: int,
        seed: int,
        pairs: dict[str, Tensor] | None = None,
        pairs_batch: int = 0,
    ) -> None:
        super().__init__(steps, seed)
        self.latents, self.tokens, self.batch_size = latents, tokens, batch_size
        self.pairs, self.pairs_batch = pairs or {}, pairs_batch

    def __getitem__(self, step: int) -> dict[str, Any]:
        """``latent`` ``(B, 4, h, w)`` float32, ``tokens`` ``(B, L)``, and pairs as ``pair_noise`` and so on."""
        rows = self.indices(len(self.latents), step, self.batch_size)
        batch: dict[str, Any] = {
            "latent": torch.from_numpy(self.latents[rows].astype(np.float32)),
            "tokens": self.tokens[rows],
            "step": step,
        }
        if self.pairs:
            rows = self.indices(len(self.pairs["noise"]), step, self.pairs_batch, purpose=1)
            batch |= {
                f"pair_{name}": values[rows].float() if name != "tokens" else values[rows]
                for name, values in self.pairs.items()
            }
        return batch


class _StepsFrom(Sampler[int]):
    """Steps from the one where an interrupted stage stopped; its length is that of the whole, as Lightning counts."""

    def __init__(self, steps: int, start: int) -> None:
        self.steps, self.start = steps, start

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        yield from range(self.start, self.steps)


class PretrainingData(LightningDataModule):
    """The batches of a stage as one epoch, which can start anywhere.

    Args:
        batches: by step.
    """

    def __init__(self, batches: StepBatches) -> None:
        super().__init__()
        self.batches = batches
        self._start = 0

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """One batch per step."""
        return DataLoader(self.batches, batch_size=None, sampler=_StepsFrom(len(self.batches), self._start))

    def state_dict(self) -> dict[str, Any]:
        """The next step: a checkpoint at a batch's end is written before Lightning counts it as completed."""
        trainer: Any = self.trainer
        return {"step": trainer.fit_loop.epoch_loop.batch_progress.current.processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next loader there."""
        self._start = state_dict["step"]
        # Lightning looks for state in the loader; it is here.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
