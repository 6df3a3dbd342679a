"""Base class of the stages of the pocket base: learning rates, random draws, averages, checkpoints by step.

A batch is a dict that holds its own `step`, and every random number of a training step comes from a generator seeded
with (seed, step).  Weights, optimisers and the step are therefore all that a resumed run needs to be bit-equal.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import PARAM_LIST, AveragedModel
from torchvision.utils import make_grid

from lightning_modules.runtime import clip_gradients
from lightning_modules.schedule import warm_up
from losses.terms import weighted_total
from pretraining.batches import StepBatch
from storage import atomic_write

LOG_EVERY = 10  # steps

Decoder = Callable[[Tensor], Tensor]
"""Scaled latents `(N, 4, h, w)` to images `(N, 3, H, W)` in [-1, 1]."""


BatchT = TypeVar("BatchT", bound=StepBatch)


@dataclass(frozen=True)
class StageOptions:
    """Options of every stage.

    Attributes:
        steps: training steps (batches) of the whole stage.
        warmup: steps over which the learning rates rise linearly.
        seed: seed of every draw.
        grid_every: steps between two image grids in TensorBoard; 0 for none.
    """

    steps: int
    warmup: int
    seed: int
    grid_every: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"A stage needs at least 1 step, got {self.steps}.")


class Stage(LightningModule, Generic[BatchT]):
    """Base of the stages.

    Args:
        options: length, warm-up, seed and image grids.
    """

    def __init__(self, options: StageOptions) -> None:
        super().__init__()
        self.options = options
        self.steps = options.steps
        self.steps_done = 0
        self._seconds_before, self._started = 0.0, 0.0

    def lr_factor(self, step: int) -> float:
        """Share of the full learning rate: linear warm-up, then a cosine that ends at 0 with the stage."""
        return warm_up(step, self.options.warmup) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def discriminator_lr_factor(self, step: int) -> float:
        """Share of the discriminator's full learning rate; here the same as of the model's."""
        return self.lr_factor(step)

    def generator(self, step: int) -> torch.Generator:
        """The generator of one step's random numbers; on the CPU, so that they are the same on every device."""
        state = np.random.SeedSequence([self.options.seed, step]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def normal(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Standard normal numbers on this module's device."""
        return torch.randn(tuple(shape), generator=generator).to(self.device)

    @property
    def seconds(self) -> float:
        """Time spent in training, including that before interruptions."""
        return self._seconds_before + time.monotonic() - self._started

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Add the time spent."""
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, float]) -> None:
        """Continue counting the time."""
        self._seconds_before = checkpoint["seconds"]

    def on_train_batch_start(self, batch: BatchT, batch_idx: int) -> None:
        """Set the learning rates of this step from the full ones, which each group holds as `initial_lr`."""
        found = self.optimizers(use_pl_optimizer=False)
        step = batch["step"]
        factors = (self.lr_factor(step), self.discriminator_lr_factor(step))
        for optimizer, factor in zip(found if isinstance(found, list) else [found], factors, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def both_optimizers(self) -> list[LightningOptimizer]:
        """The optimisers of the model and of the discriminator."""
        found = self.optimizers()
        assert isinstance(found, list)
        return found

    def descend(self, optimizer: LightningOptimizer, loss: Tensor, clip_norm: float) -> None:
        """Take one step of manual optimisation: backward, clip, step, clear."""
        self.manual_backward(loss)
        clip_gradients(optimizer, clip_norm)
        optimizer.step()
        optimizer.optimizer.zero_grad()

    def log_terms(self, terms: dict[str, Tensor], step: int) -> None:
        """Log loss terms and learning rate every `LOG_EVERY` steps; the first term also goes to the progress bar.

        Raises:
            ValueError: a term is not finite; the last checkpoint is still good.
        """
        if step % LOG_EVERY and step != self.steps - 1:
            return
        values = {f"train/{name}": float(term.detach()) for name, term in terms.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"{', '.join(bad)} not finite at step {step}: start again from the last checkpoint.")
        for logger in self.loggers:
            logger.log_metrics({**values, "train/lr_factor": self.lr_factor(step)}, step=step)
        first = next(iter(terms))
        self.log(first, terms[first].detach(), prog_bar=True, logger=False)

    def on_train_batch_end(self, outputs: object, batch: BatchT, batch_idx: int) -> None:
        """Log `preview_images` to TensorBoard every `grid_every` steps, and at the end."""
        step = self.steps_done = batch["step"] + 1
        every = self.options.grid_every
        if every and (step % every == 0 or step == self.steps):
            columns, images = self.preview_images(batch)
            grid = make_grid((images.float().cpu().clamp(-1, 1) + 1) / 2, nrow=columns)
            for logger in self.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("pictures", grid, step)

    def preview_images(self, batch: BatchT) -> tuple[int, Tensor]:
        """The image grid of the stage: images per row, and the images `(N, 3, H, W)` in [-1, 1]."""
        raise NotImplementedError


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The sum of the loss terms at hand, each with its weight; `weights` may have more names than `terms`."""
    return weighted_total(terms, {name: weights[name] for name in terms})


def optimizer(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """AdamW that holds its full learning rate, which `Stage.on_train_batch_start` scales."""
    group = {"params": list(parameters), "initial_lr": lr}
    return AdamW([group], lr=lr, betas=betas, weight_decay=weight_decay)


def average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights; the decay of update n is `min(decay, (1 + n) / (10 + n))`."""

    def update(averaged: PARAM_LIST, current: PARAM_LIST, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    averaged = AveragedModel(model, multi_avg_fn=update)
    averaged.requires_grad_(False).eval()
    return averaged


class PeriodicCheckpoint(Callback):
    """Writes the whole state of training into one file at an interval of steps.

    Not at the last step: little is left to be done then, and Lightning would take it for a finished epoch.

    Args:
        path: the file, replaced atomically.
        every: steps between two checkpoints.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: StepBatch, batch_idx: int
    ) -> None:
        """Write the checkpoint."""
        step = batch["step"] + 1
        if step % self.every == 0 and step < trainer.num_training_batches:
            with atomic_write(self.path) as part:
                trainer.save_checkpoint(part, weights_only=False)  # with the optimisers
