"""Speed and memory of training, validation left out."""

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs ``perf/{images_per_s,seconds_per_batch,peak_memory_mb}`` and keeps the sums for metrics.json.

    Times are of whole batches on this rank, from start to end of the training step, the wait for data included.  Peak
    memory is the device's on CUDA, without that of validations; else the process's resident set, which knows no parts.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.seconds = 0.0
        self.wall_before = 0.0
        self._started: float | None = None
        self._last: float | None = None
        self._window = [0, 0.0, 0]  # batches, seconds, images at the last log
        self._peak = 0.0  # MiB, of training so far

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wall time runs from here, validation included."""
        self._started = time.perf_counter()
        self._window = [self.batches, 0.0, int(pl_module.images_seen)]  # type: ignore[arg-type]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing afterwards is not fitting."""
        self.wall_before, self._started = self.wall_s, None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock runs from here, so that the first batch's loading counts; so does the device's peak."""
        self._last = time.perf_counter()
        if _on_cuda():
            torch.cuda.reset_peak_memory_stats()

    on_validation_end = on_train_epoch_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Book one batch, and log now and then."""
        now = time.perf_counter()
        spent = now - (self._last or now)
        self._last = now
        self.batches += 1
        self.seconds += spent
        self._peak = max(self._peak, _peak_memory_mb())
        batches, _, images = self._window
        self._window[1] += spent
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0 is Lightning's never
        if not every or self.batches - batches < every:
            return
        seen = int(pl_module.images_seen)  # type: ignore[arg-type]
        span = max(self._window[1], 1e-9)
        scalars = {
            "perf/images_per_s": (seen - images) / span,
            "perf/seconds_per_batch": span / (self.batches - batches),
            "perf/peak_memory_mb": self.peak_memory_mb,
        }
        self._window = [self.batches, 0.0, seen]
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=seen)

    @property
    def peak_memory_mb(self) -> float:
        """Most memory of training, in MiB; before the first batch, of what came before it."""
        return self._peak or _peak_memory_mb()

    @property
    def seconds_per_batch(self) -> float | None:
        """Mean over the run; None before the first batch."""
        return self.seconds / self.batches if self.batches else None

    @property
    def wall_s(self) -> float:
        """Seconds of fitting so far, interrupted runs added up."""
        return self.wall_before + (time.perf_counter() - self._started if self._started else 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The sums go on over a resume."""
        return {
            "batches": self.batches,
            "seconds": self.seconds,
            "wall_s": self.wall_s,
            "peak_memory_mb": self.peak_memory_mb,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the sums of the interrupted run."""
        self.batches, self.seconds = state_dict["batches"], state_dict["seconds"]
        self.wall_before = state_dict["wall_s"]
        self._peak = state_dict.get("peak_memory_mb", 0.0)  # older checkpoints do not hold it


def _on_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _peak_memory_mb() -> float:
    """Most memory held at once, in MiB."""
    if _on_cuda():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
