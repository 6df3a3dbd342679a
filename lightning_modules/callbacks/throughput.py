"""Speed and memory of training, without validation."""

import resource
import sys
import time

import torch
from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs ``perf/{images_per_s,seconds_per_batch,peak_memory_mb}`` and sums them up for metrics.json.

    A batch's time on this rank runs from the end of the batch before it, so it includes the wait for data.  Peak memory
    is the device's on CUDA, without validations; otherwise the resident set of the process since its start.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.seconds = 0.0
        self.wall_before = 0.0
        self._started: float | None = None
        self._last: float | None = None
        # Since the scalars were last logged: batches, seconds; images seen then.
        self._new_batches, self._new_seconds, self._logged_at = 0, 0.0, 0
        self._peak = 0.0  # MiB, of training so far

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the wall time, which includes validations."""
        self._started = time.perf_counter()
        self._new_batches, self._new_seconds, self._logged_at = 0, 0.0, _images_seen(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the wall time before the test."""
        self.wall_before, self._started = self.wall_s, None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing the first batch, its loading included, and the device's peak memory."""
        self._last = time.perf_counter()
        if _on_cuda():
            torch.cuda.reset_peak_memory_stats()

    on_validation_end = on_train_epoch_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Add one batch; every `log_every_n_steps` batches log the means since the last time."""
        now = time.perf_counter()
        spent = now - (self._last or now)
        self._last = now
        self.batches += 1
        self.seconds += spent
        self._peak = max(self._peak, _peak_memory_mb())
        self._new_batches += 1
        self._new_seconds += spent
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0 is Lightning's "never"
        if not every or self._new_batches < every:
            return
        seen, span = _images_seen(pl_module), max(self._new_seconds, 1e-9)
        scalars = {
            "perf/images_per_s": (seen - self._logged_at) / span,
            "perf/seconds_per_batch": span / self._new_batches,
            "perf/peak_memory_mb": self.peak_memory_mb,
        }
        self._new_batches, self._new_seconds, self._logged_at = 0, 0.0, seen
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=seen)

    @property
    def peak_memory_mb(self) -> float:
        """Highest memory of training, in MiB; before the first batch, of the process so far."""
        return self._peak or _peak_memory_mb()

    @property
    def seconds_per_batch(self) -> float | None:
        """Mean over the run; None before the first batch."""
        return self.seconds / self.batches if self.batches else None

    @property
    def wall_s(self) -> float:
        """Seconds of fitting so far, summed over interruptions."""
        return self.wall_before + (time.perf_counter() - self._started if self._started else 0.0)

    def state_dict(self) -> dict[str, int | float]:
        """Sums that continue after a resume."""
        return {
            "batches": self.batches,
            "seconds": self.seconds,
            "wall_s": self.wall_s,
            "peak_memory_mb": self.peak_memory_mb,
        }

    def load_state_dict(self, state_dict: dict[str, int | float]) -> None:
        """Continue the sums of the interrupted run."""
        self.batches, self.seconds = int(state_dict["batches"]), state_dict["seconds"]
        self.wall_before, self._peak = state_dict["wall_s"], state_dict["peak_memory_mb"]


def _images_seen(module: LightningModule) -> int:
    seen = module.images_seen
    assert isinstance(seen, int), "only a module that counts images has a speed"
    return seen


def _on_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _peak_memory_mb() -> float:
    """Most memory held at once, in MiB."""
    if _on_cuda():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
