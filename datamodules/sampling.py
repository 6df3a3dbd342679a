"""Samplers and random draws: which image is in which batch, as a function of seed, epoch and rank."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def draws(seed: int, epoch: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Random numbers of one sample; workers, ranks and resuming cannot change them.

    Args:
        seed: of the run's data.
        epoch: counted from 0.
        index: of the sample.
        purpose: a number per kind of draw, so that draws of one sample are independent.
    """
    return np.random.default_rng([seed, epoch, index, purpose])


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of the draws that the training step makes for one sample."""
    return int(draws(seed, epoch, index, purpose=99).integers(2**62))


class EpochSampler(Sampler[tuple[int, int]]):
    """One rank's share of each epoch's permutation, as keys ``(epoch, index)`` of the data set.

    The permutation is dealt out one by one, so W ranks of batch b see in each step what one rank of batch W b sees.
    The tail that fills no batch on all ranks is dropped; a set smaller than one such batch repeats itself within it.

    Args:
        length: samples of the data set.
        batch_size: samples per batch and rank.
        seed: of the permutations.
        rank: this process.
        world_size: processes.
        start: epoch, and batches of that epoch that were trained on before the interruption and are skipped.
        repeat: every epoch is the first one again, for training that should overfit.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: tuple[int, int] = (0, 0),
        repeat: bool = False,
    ) -> None:
        self.length, self.batch_size, self.seed, self.rank, self.world_size = length, batch_size, seed, rank, world_size
        self.batches = max(1, length // (batch_size * world_size))
        self.start, self.repeat = start, repeat
        self.epoch = start[0]

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        # The whole epoch: after an interruption Lightning itself counts the batches that are left.
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skipped = self.start[1] * self.batch_size if self.epoch == self.start[0] else 0
        epoch = 0 if self.repeat else self.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        order = np.resize(order, self.batches * self.batch_size * self.world_size)
        for index in order[self.rank :: self.world_size][skipped:]:
            yield epoch, int(index)


class ShapeBatches(Sampler[list[int]]):
    """Batches of images of equal shape; every image is in one batch of one rank.

    With more ranks than images, the ranks left over repeat one, which metrics count once by its index: Lightning skips
    the evaluation of a rank without batches, and the others would wait for it for ever.

    Args:
        shapes: of each image.
        batch_size: images per batch at most.
        rank: this process.
        world_size: processes.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        alike: dict[tuple[int, int], list[int]] = {}
        for index in range(rank, len(shapes), world_size) or range(rank % len(shapes), len(shapes), len(shapes)):
            alike.setdefault(shapes[index], []).append(index)
        self.batches = [group[k : k + batch_size] for group in alike.values() for k in range(0, len(group), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
