"""Metric state with one row per image, keyed by the image's index in its split; equal on any number of ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from metrics.moments import Moments, double, fold, moments_of, unfold


class TableMetric(Metric):
    """Base class of metrics that gather rows from all ranks and compute from them in the order of the images.

    Ordered by index, and with each index once, the rows do not depend on ranks, batches or the repeats with which a
    distributed sampler fills up.  A rank without images takes part with an empty table of the right width.

    A table of features has bounded memory: whenever it holds `2 * sample_size` rows, all but a sample of them (chosen
    by a fixed permutation of the indices) are folded into a summary of their moments, and only their indices remain,
    8 bytes per image.

    Attributes:
        sample_size: rows in the sample of a table of features; of fewer images, the sample is all of them.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    sample_size = 4096

    def __init__(self) -> None:
        super().__init__()
        self._widths: dict[str, int] = {}
        self._surviving: set[str] = set()
        self._sampled: set[str] = set()

    def add_table(self, name: str, width: int, survives_reset: bool = False) -> None:
        """Declare a table of float32 rows of length `width`, which `reset()` empties unless it survives that."""
        self._widths[name] = width
        if survives_reset:
            self._surviving.add(name)
        for state, empty in self._empty(name).items():
            self.add_state(state, default=[], dist_reduce_fx="cat")
            getattr(self, state).append(empty)

    def add_features(self, name: str, width: int, survives_reset: bool = False) -> None:
        """Declare a table of features: like `add_table`, but with bounded memory and with `moments`."""
        self._sampled.add(name)
        self.add_table(name, width, survives_reset)

    def append(self, name: str, index: Tensor, rows: Tensor) -> None:
        """Add `rows` `(B, width)` of the images at `index` `(B,)`; the first row of an index counts."""
        if rows.shape != (len(index), self._widths[name]):
            expected = (len(index), self._widths[name])
            raise ValueError(f"Table '{name}' needs rows {expected}, one per index, got {tuple(rows.shape)}.")
        held = getattr(self, f"{name}_index")
        held.append(index.to(rows.device, torch.int64))
        getattr(self, f"{name}_rows").append(rows.detach().float())
        self._computed = None  # a result computed before is out of date
        # not at every image beyond the sample: summarising one row costs as much as summarising hundreds
        if name in self._sampled and sum(len(part) for part in held) >= 2 * self.sample_size:
            self._evict(name)

    def table(self, name: str) -> Tensor:
        """Rows in float64, ordered by index, each index once: `(n, width)`, of features at most `sample_size`."""
        return self.indexed_table(name)[1]

    def indexed_table(self, name: str) -> tuple[Tensor, Tensor]:
        """The indices `(n,)` of `table(name)`, and that."""
        index, rows = self._held(name)
        if name in self._sampled:
            sample = self._sample(index)
            index, rows = index[sample], rows[sample]
        rows = double(rows)
        return index.to(rows.device), rows

    def moments(self, name: str) -> Moments:
        """Moments of all features that were added, in the sample or not.

        Raises:
            ValueError: if an image was given to two ranks and neither has its row any more: it would count twice.
        """
        index, rows = self._held(name)
        evicted = self._state(name, "evicted")
        if len(index) <= self.sample_size and not len(evicted):
            return moments_of(rows)
        places, times = evicted.unique(return_counts=True)
        if len(places) < len(evicted):
            raise ValueError(
                f"{int((times > 1).sum())} images of '{name}' were given to several ranks, the first at index "
                f"{int(places[times > 1][0])}: beyond {self.sample_size} images, share them out without repeats."
            )
        return unfold(fold(self._factor(name), rows), len(evicted) + len(index))

    def reset(self) -> None:
        """Empty all tables but those declared to survive it."""
        surviving = {state: list(getattr(self, state)) for name in self._surviving for state in self._empty(name)}
        super().reset()
        for name in self._widths:
            for state, empty in self._empty(name).items():
                getattr(self, state).extend(surviving.get(state, [empty]))

    def _held(self, name: str) -> tuple[Tensor, Tensor]:
        """Indices and rows that are held, ordered by index, without repeats and without what any rank evicted."""
        index, order = self._state(name, "index").sort(stable=True)
        once = torch.ones_like(index, dtype=torch.bool)
        once[1:] = index[1:] != index[:-1]
        if name in self._sampled:
            once &= ~torch.isin(index, self._state(name, "evicted"))
        return index[once], self._state(name, "rows")[order[once]]

    def _sample(self, index: Tensor) -> Tensor:
        """Mask of the indices that are in the sample, `(n,)` bool.

        Those whose permuted index is smallest, so that what one rank evicts is in no sample of more images.
        """
        chosen = torch.ones_like(index, dtype=torch.bool)
        chosen[_scramble(index).argsort(stable=True)[self.sample_size :]] = False
        return chosen

    def _evict(self, name: str) -> None:
        """Put all rows but the sample into the summary."""
        index, rows = self._held(name)
        sample = self._sample(index)
        left = {"index": index[sample], "rows": rows[sample]}
        if not sample.all():
            factor = fold(self._factor(name), rows[~sample])
            left["evicted"] = torch.cat([self._state(name, "evicted"), index[~sample]])
            left["factor"] = factor.view(torch.int64).to(index.device)
        for part, value in left.items():
            setattr(self, f"{name}_{part}", [value])

    def _factor(self, name: str) -> Tensor:
        """The summary of the rows that all ranks evicted, in the form that `fold` takes."""
        bits = self._state(name, "factor")
        return (bits.cpu() if bits.device.type == "mps" else bits).view(torch.float64)

    def _state(self, name: str, part: str) -> Tensor:
        return dim_zero_cat(getattr(self, f"{name}_{part}"))

    def _empty(self, name: str) -> dict[str, Tensor]:
        """The states of an empty table.

        torchmetrics replaces an empty list by a 1-d tensor, which cannot be gathered with the 2-d rows of other ranks.
        """
        width, none = self._widths[name], torch.empty(0, dtype=torch.int64, device=self.device)
        states = {f"{name}_index": none, f"{name}_rows": torch.empty(0, width, device=self.device)}
        if name in self._sampled:  # the factor is float64 seen as int64, since MPS has no float64
            states |= {f"{name}_evicted": none, f"{name}_factor": none.new_empty(0, width + 1)}
        return states


def _scramble(index: Tensor) -> Tensor:
    """A fixed pseudo-random permutation of the numbers below 2^32."""
    for _ in range(2):
        index = ((index >> 16) ^ index) * 0x45D9F3B & 0xFFFFFFFF
    return (index >> 16) ^ index
