"""Metric state as tables of one row per image, keyed by the image's place in its split."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class TableMetric(Metric):
    """Base of metrics that gather rows from all ranks and compute from them in the order of the images.

    Ordered by index, and with each index once, the rows do not depend on ranks, batches or the repeats by which a
    distributed sampler fills up.  A rank without images takes part with an empty table of the right width.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self._widths: dict[str, int] = {}
        self._kept: set[str] = set()

    def add_table(self, name: str, width: int, kept: bool = False) -> None:
        """Declare a table of float32 rows of length `width`; a `kept` one survives `reset()`."""
        self._widths[name] = width
        if kept:
            self._kept.add(name)
        self.add_state(f"{name}_index", default=[], dist_reduce_fx="cat")
        self.add_state(f"{name}_rows", default=[], dist_reduce_fx="cat")
        self._empty(name)

    def append(self, name: str, index: Tensor, rows: Tensor) -> None:
        """Add `rows` `(B, width)` of the images at `index` `(B,)`; an index that is there already is ignored later."""
        if rows.shape != (len(index), self._widths[name]):
            expected = (len(index), self._widths[name])
            raise ValueError(f"Table '{name}' wants rows {expected}, one per index, got {tuple(rows.shape)}.")
        getattr(self, f"{name}_index").append(index.to(rows.device, torch.int64))
        getattr(self, f"{name}_rows").append(rows.detach().float())
        self._computed = None  # whatever was computed before holds no more

    def table(self, name: str) -> Tensor:
        """Rows `(n, width)` in float64, ordered by index, each index once."""
        index = dim_zero_cat(getattr(self, f"{name}_index"))
        rows = dim_zero_cat(getattr(self, f"{name}_rows"))
        index, order = index.sort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        rows = rows[order[first]]
        return rows.cpu().double() if rows.device.type == "mps" else rows.double()  # MPS has no float64

    def reset(self) -> None:
        """Empty all tables but the kept ones."""
        kept = {name: [list(getattr(self, f"{name}_{part}")) for part in ("index", "rows")] for name in self._kept}
        super().reset()
        for name in self._widths:
            if name in kept:
                getattr(self, f"{name}_index").extend(kept[name][0])
                getattr(self, f"{name}_rows").extend(kept[name][1])
            else:
                self._empty(name)

    def _empty(self, name: str) -> None:
        # torchmetrics stands in for an empty list with a 1-d tensor, which ranks with 2-d rows cannot be gathered with
        getattr(self, f"{name}_index").append(torch.empty(0, dtype=torch.int64, device=self.device))
        getattr(self, f"{name}_rows").append(torch.empty(0, self._widths[name], device=self.device))
