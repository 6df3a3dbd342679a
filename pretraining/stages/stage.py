"""What the stages of the pocket base share: learning rates, draws, averages and checkpoints as functions of the step.

A batch is a dict that carries its own `step`, and every random number of a training step comes from a generator seeded
with (seed, step).  So weights, optimisers and the step are all that a resumed run needs to go on bit for bit.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.utils import make_grid

from storage import atomic_write


class Stage(LightningModule):
    """Base of the stages.

    Args:
        steps: training steps (batches) of the whole stage.
        warmup: steps over which the learning rates rise linearly.
        seed: of every draw.
        grid_every: steps between two picture grids in TensorBoard; 0 for none.
    """

    def __init__(self, steps: int, warmup: int, seed: int, grid_every: int = 0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"A stage needs at least 1 step, got {steps}.")
        self.steps, self.warmup, self.seed, self.grid_every = steps, warmup, seed, grid_every
        self.steps_done = 0
        self._seconds_before, self._began = 0.0, 0.0

    def lr_factor(self, step: int) -> float:
        """Share of the full learning rate: linear warm-up, then a cosine that ends at 0 with the stage."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        return min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def discriminator_lr_factor(self, step: int) -> float:
        """The discriminator's; as the model's."""
        return self.lr_factor(step)

    def draw(self, step: int) -> torch.Generator:
        """The generator of one step's random numbers; on the CPU, so that they are the same on every device."""
        state = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def normal(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Standard normal numbers on this module's device."""
        return torch.randn(tuple(shape), generator=generator).to(self.device)

    @property
    def seconds(self) -> float:
        """Time spent in training, over all interruptions."""
        return self._seconds_before + time.monotonic() - self._began

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the time spent."""
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the time."""
        self._seconds_before = checkpoint["seconds"]

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set the learning rates of this step; the full ones are kept in each group as `initial_lr`."""
        found: Any = self.optimizers()
        step = batch["step"]
        factors = (self.lr_factor(step), self.discriminator_lr_factor(step))
        for optimizer, factor in zip(found if isinstance(found, list) else [found], factors, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def both_optimizers(self) -> tuple[Any, Any]:
        """The model's and, after it, the discriminator's."""
        found: Any = self.optimizers()
        return found[0], found[1]

    def descend(self, optimizer: Any, loss: Tensor, clip_norm: float) -> None:
        """One step of manual optimisation: backward, clip, step, clear."""
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    def log_terms(self, terms: dict[str, Tensor], step: int) -> None:
        """Write loss terms and the rate to the logger, every `log_every_n_steps`, and the first to the progress bar.

        Raises:
            ValueError: a term is not finite; the last checkpoint is still good.
        """
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps  # 0 is Lightning's never
        if (not every or step % every) and step != self.steps - 1:
            return
        values = {f"train/{name}": float(term.detach()) for name, term in terms.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"{', '.join(bad)} not finite at step {step}: start again from the last checkpoint.")
        for logger in self.loggers:
            logger.log_metrics({**values, "train/lr_factor": self.lr_factor(step)}, step=step)
        first = next(iter(terms))
        self.log(first, terms[first].detach(), prog_bar=True, logger=False)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Show `pictures` in TensorBoard every `grid_every` steps, and at the end."""
        step = self.steps_done = batch["step"] + 1
        if self.grid_every and (step % self.grid_every == 0 or step == self.steps):
            rows, images = self.pictures(batch)
            grid = make_grid((images.float().cpu().clamp(-1, 1) + 1) / 2, nrow=rows)
            loggers: Any = self.loggers
            for logger in loggers:
                logger.experiment.add_image("pictures", grid, step)

    def pictures(self, batch: dict[str, Any]) -> tuple[int, Tensor]:
        """What the stage can show: pictures per row, and the pictures `(N, 3, H, W)` in [-1, 1]."""
        raise NotImplementedError


def optimizer(parameters: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW that remembers its full rate, which `Stage.on_train_batch_start` scales."""
    group = {"params": list(parameters), "initial_lr": lr}
    return torch.optim.AdamW([group], lr=lr, betas=betas, weight_decay=weight_decay)


def average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights; early on over fewer steps: `min(decay, (1 + n) / (10 + n))`."""

    def update(averaged: Any, current: Any, count: Any) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    averaged = AveragedModel(model, multi_avg_fn=update)
    return averaged.requires_grad_(False).eval()


class KeepCheckpoint(Callback):
    """Write the whole state every so many steps into one file, replaced as a whole.

    Not at the last step: what remains to be done there is quick, and Lightning would take it for a finished epoch.

    Args:
        path: the file.
        every: steps.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Called by Lightning after each step."""
        step = batch["step"] + 1
        if step % self.every == 0 and step < trainer.num_training_batches:
            with atomic_write(self.path) as part:
                trainer.save_checkpoint(part, weights_only=False)  # optimisers too


Decoder = Callable[[Tensor], Tensor]
"""Scaled latents `(N, 4, h, w)` to pictures `(N, 3, H, W)` in [-1, 1]."""
