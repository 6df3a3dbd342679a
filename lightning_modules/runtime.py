"""The Trainer's operations that a training step uses: optimisers, backward, logging, ranks."""

from collections.abc import Mapping, Sequence

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.mean_gradients import MeanGradients

AnyOptimizer = Optimizer | LightningOptimizer


class NonFiniteLossError(FloatingPointError):
    """A loss, a gradient or a translation is NaN or infinite.  The batch that raises it has changed no weights."""


class Runtime:
    """The operations of a training step that reach beyond the module, through Lightning's Trainer.

    A subclass runs training steps without a Trainer; see `lightning_modules.memory`.

    Args:
        module: its trainer is looked up at each call, since Lightning attaches it later.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module = module

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.module.trainer.world_size

    @property
    def log_every(self) -> int:
        """Batches between two entries of the loggers; 0 writes none."""
        every: int = getattr(self.module.trainer, "log_every_n_steps")  # noqa: B009 (set, but not declared by Trainer)
        return every

    def optimizers(self) -> Sequence[AnyOptimizer]:
        """The optimisers in the order of `configure_optimizers`."""
        found = self.module.optimizers()
        assert isinstance(found, list)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss to the gradients of the parameters."""
        self.module.manual_backward(loss)

    def average_gradients(self, optimizer: AnyOptimizer) -> None:
        """Replace an optimiser's gradients by their means over the ranks; another strategy has its own way to do so."""
        strategy = self.module.trainer.strategy
        if isinstance(strategy, MeanGradients):
            strategy.average_gradients(parameters_of(optimizer))

    def is_finite(self, value: Tensor, on_every_rank: bool = False) -> bool:
        """Whether a scalar is neither NaN nor infinite, on this rank or on all of them."""
        bad = (~torch.isfinite(value.detach())).float()
        return not (self._gather(bad).max() if on_every_rank and self.world_size > 1 else bad)

    def mean_over_ranks(self, values: Tensor) -> list[float]:
        """Means over all ranks of the values ``(N,)`` of each."""
        means: list[float] = (self._gather(values).mean(0) if self.world_size > 1 else values).tolist()
        return means

    def log(self, scalars: Mapping[str, float], images_seen: int) -> None:
        """Write scalars to every logger; `images_seen` is their x position."""
        for logger in self.module.trainer.loggers:
            logger.log_metrics(dict(scalars), step=images_seen)

    def stop(self) -> None:
        """End training after this batch."""
        self.module.trainer.should_stop = True

    def _gather(self, value: Tensor) -> Tensor:
        """``(...)`` => ``(ranks, ...)``."""
        gathered = self.module.all_gather(value)
        assert isinstance(gathered, Tensor)
        return gathered


def clip_gradients(optimizer: AnyOptimizer, max_norm: float) -> Tensor:
    """Scale an optimiser's gradients down to a norm of at most `max_norm`; returns their norm before that."""
    return nn.utils.clip_grad_norm_(parameters_of(optimizer), max_norm)


def parameters_of(optimizer: AnyOptimizer) -> list[nn.Parameter]:
    """All parameters of an optimiser, group after group."""
    return [p for group in optimizer.param_groups for p in group["params"]]
