"""Strategy for several processes: each holds the whole model, and gradients are averaged once per optimiser step."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import nn

NAME = "mean_gradients"  # of `trainer.strategy`
BUCKET = 1 << 24  # numbers that travel together: 64 MB


class MeanGradients(DDPStrategy):
    """Lightning's DDP without `DistributedDataParallel`, which averages all gradients at every backward.

    Two optimisers take turns here, and one step may have several backwards.  So `TranslationModule.step` asks for the
    mean of its own optimiser's gradients, when they are complete.
    """

    def configure_ddp(self) -> None:
        """Give every process the weights of the first."""
        assert self.model is not None
        _sync_module_states(self.model)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, which all have to call this.

        Args:
            parameters: equal on every process, of one dtype.  One without gradient counts as zeros, and stays without
                where no process has one.
        """
        buckets = []
        for some in _buckets(parameters):
            numbers = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in some])
            buckets.append((some, numbers, dist.all_reduce(numbers, async_op=True)))
        for some, numbers, work in buckets:
            if work is not None:
                work.wait()
            numbers /= self.world_size
            for p, mean in zip(some, numbers.split([p.numel() for p in some]), strict=True):
                if p.grad is not None:
                    p.grad.copy_(mean.view_as(p))
                elif mean.any():
                    p.grad = torch.empty_like(p).copy_(mean.view_as(p))


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    found: list[list[nn.Parameter]] = []
    count = BUCKET
    for p in parameters:
        count += p.numel()
        if count > BUCKET:
            found.append([])
            count = p.numel()
        found[-1].append(p)
    return found


StrategyRegistry.register(NAME, MeanGradients, description=MeanGradients.__doc__)
