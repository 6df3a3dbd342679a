"""Training images that cannot be read: another sample is drawn in their place, counted and bounded."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from datamodules.files.images import Images
from datamodules.sampling import draws
from images.resizing import resized_shape

OnBadImage = Literal["stop", "skip"]
SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT")
Key = tuple[int, int]  # epoch, index

LIMIT = 0.01  # share of draws that may be bad
ATTEMPTS = 10  # draws in place of one sample
REDRAW = 1000  # purpose of `draws` for the first of them; the next ones follow


class BadImageError(ValueError):
    """An image cannot be read, or is not the one that was checked when the data was listed; one line that names it."""


def read_checked(images: Images, index: int, short_side: int) -> Tensor:
    """Read an image that may have changed since the data was listed.

    Args:
        images: a list of images.
        index: position in it.
        short_side: to which it will be resized, pixels.

    Returns:
        The image, ``(3, H, W)`` in [-1, 1].

    Raises:
        BadImageError: it cannot be read, holds NaN or infinite pixels, or has another shape than was listed.
    """
    name = images.name(index) if images.folder is None else str(images.folder / images.name(index))
    try:
        image = images.read(index)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        said = said.removesuffix(".") + "."
        raise BadImageError(said if name in said else f"Cannot read {name}: {said}") from error
    if not torch.isfinite(image).all():
        raise BadImageError(f"{name} has pixels that are NaN or infinite.")
    listed, height, width = images.size(index), *image.shape[-2:]
    if resized_shape(*listed, short_side) != resized_shape(height, width, short_side):
        raise BadImageError(
            f"{name} has changed since it was checked: it had {listed[1]} x {listed[0]} pixels, now the shape of "
            f"{width} x {height}."
        )
    return image


Bad = tuple[Key, list[str]]
"""The sample that was to be drawn, and a message for each bad image met on the way to the one that was."""


class Redrawn(Dataset[tuple[SampleT, Bad | None]], Generic[SampleT]):
    """Training samples, where one with a bad image is another one, whole: both sides of a pair are drawn again.

    Which one is a function of (seed, epoch, index, attempt).

    Args:
        samples: by ``(epoch, index)``.
        length: number of samples.
        seed: of the draws.
    """

    def __init__(self, samples: Dataset[SampleT], length: int, seed: int) -> None:
        self.samples, self.length, self.seed = samples, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> tuple[SampleT, Bad | None]:
        """The sample of ``(epoch, index)`` or the one in its place, with what was bad.

        Raises:
            BadImageError: ten samples in its place are bad, too.
        """
        (epoch, index), messages = key, list[str]()
        for attempt in range(ATTEMPTS):
            try:
                return self.samples[epoch, index], (key, messages) if messages else None
            except BadImageError as error:
                messages.append(str(error))
                index = int(draws(self.seed, *key, purpose=REDRAW + attempt).integers(self.length))
        return self.samples[epoch, index], (key, messages)


class RedrawingLoader(DataLoader[Any]):
    """A loader of `Redrawn` samples.  Bad images are reported in this process, whichever worker met them.

    Attributes:
        report: called with the bad images of each batch before the batch is handed out.
    """

    report: Callable[[list[Bad]], None]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own is private
        batches = super().__iter__()  # starts the workers
        return (self._reported(*batch) for batch in batches)

    def _reported(self, batch: BatchT, bad: list[Bad]) -> BatchT:
        self.report(bad)
        return batch


def collate_redrawn(
    collate: Callable[[list[SampleT]], BatchT], samples: list[tuple[SampleT, Bad | None]]
) -> tuple[BatchT, list[Bad]]:
    """Samples of `Redrawn` => their batch and what was bad."""
    return collate([sample for sample, _ in samples]), [bad for _, bad in samples if bad is not None]


class BadDraws:
    """The draws of a training that met a bad image: which, and whether they are too many.

    Attributes:
        found: messages of the bad images, by the key of the sample that was to be drawn.
    """

    def __init__(self) -> None:
        self.found: dict[Key, list[str]] = {}
        self._drawn = self._per_batch = self._per_epoch = 0

    def start(self, drawn: int, per_batch: int, per_epoch: int) -> None:
        """Begin to count batches, from the start of training or from a checkpoint on.

        Args:
            drawn: draws before, of all ranks.
            per_batch: draws of a batch, of all ranks.
            per_epoch: draws of an epoch, of all ranks.
        """
        self._drawn, self._per_batch, self._per_epoch = drawn, per_batch, per_epoch

    def add(self, bad: Iterable[Bad]) -> None:
        """Count a batch; the first draw of a bad image is a warning.

        Raises:
            ValueError: more than a hundredth of all draws met a bad image.
        """
        self._drawn += self._per_batch
        for key, messages in bad:
            for message in messages:
                if message not in self.counts():
                    warnings.warn(f"{message} Another sample is drawn in its place.", stacklevel=2)
            self.found[key] = messages
        # An epoch has every sample once, so bad ones that happen to come first are not more than they are.
        if len(self.found) > LIMIT * max(self._drawn, self._per_epoch):
            raise ValueError(
                f"{len(self.found)} of {self._drawn:,} draws met an image that cannot be used, more than {LIMIT:.0%} "
                f"of an epoch or of all: {'; '.join([*self.counts()][:3])} Replace the files and resume the run, or "
                "remove them and start another."
            )

    def counts(self) -> dict[str, int]:
        """Number of draws by message, sorted by message."""
        return dict(sorted(Counter(message for messages in self.found.values() for message in messages).items()))

    def gather(self) -> None:
        """Add what other ranks have found; every rank must call it."""
        if distributed.is_available() and distributed.is_initialized():
            everywhere: list[dict[Key, list[str]]] = [{} for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(everywhere, self.found)
            for found in everywhere:
                self.found |= found
