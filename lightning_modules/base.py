"""What both models share: optimisers, one `optimise` step, counting, and what a checkpoint holds.

Progress is counted in `images_seen`: training samples over all ranks (an unpaired sample is one image of each domain).
Lightning's `global_step` counts every optimiser step, so nothing here reads it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.random_states import random_states, set_random_states
from networks import ImageTranslator
from networks.checkpoints.adapter import load_trained, trained_state
from networks.checkpoints.card import AdapterCard, RunFacts
from networks.features import FeatureNetwork
from networks.one_step.diffusion import noise_map


class NonFiniteLossError(FloatingPointError):
    """A loss or a gradient became NaN or infinite; raised before the step: weights and last checkpoint are good."""


class TranslationModule(LightningModule):
    """Base of `CycleGANTurbo` and `Pix2PixTurbo`.

    Args:
        generator: the one-step generator, or a plain network to compare it with.
        discriminators: by name; only their heads train.
        optimizer_g: builds the generator's optimiser from its parameters.
        optimizer_d: builds the discriminators' optimiser.
        warmup_images: the learning rate rises linearly over this many images, then stays; 0 for none.
        clip_norm: gradient norm above which gradients are scaled down, generator and discriminators each.
        accumulate: batches per optimiser step.
        max_images: training stops when this many images were seen; None leaves stopping to the trainer.
        skip_lr_factor: learning rate of the generator's skip convolutions, as a multiple of its own.
        cooldown: last share of `max_images`, in [0, 1], over which the learning rate falls linearly towards 0; without
            `max_images` there is no end to count back from, and the rate stays.
        prompts: target prompt by direction, from the data.
        run: what the adapter's card says of the run beside the generator: task, experiment, data ...
    """

    def __init__(
        self,
        generator: ImageTranslator,
        discriminators: nn.ModuleDict,
        optimizer_g: OptimizerCallable,
        optimizer_d: OptimizerCallable,
        warmup_images: int,
        clip_norm: float,
        accumulate: int,
        max_images: int | None,
        skip_lr_factor: float,
        cooldown: float,
        prompts: dict[str, str],
        run: RunFacts,
    ) -> None:
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1 batch, got {accumulate}.")
        if not 0 <= cooldown <= 1:
            raise ValueError(f"cooldown is a share of max_images in [0, 1], got {cooldown}.")
        self.automatic_optimization = False
        self.strict_loading = (
            False  # frozen weights are not in a checkpoint; on_load_checkpoint checks the rest exactly
        )
        self.generator = generator
        self.discriminators = discriminators
        generator.prompts = dict(prompts)
        self.optimizer_g, self.optimizer_d = optimizer_g, optimizer_d
        self.warmup_images, self.clip_norm, self.accumulate, self.max_images = (
            warmup_images,
            clip_norm,
            accumulate,
            max_images,
        )
        self.skip_lr_factor, self.cooldown = skip_lr_factor, cooldown
        self.run = run
        self.images_seen = 0
        self.batches_seen = 0
        self._rng: list[dict[str, Any]] | None = None
        self._gradients: dict[str, Tensor] = {}

    def configure_optimizers(self) -> list[Optimizer]:
        """Generator's optimiser, its skip convolutions in a group of their own; then the discriminators'."""
        skips = self.generator.skip_parameters()
        apart = {id(p) for p in skips}
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trained if id(p) not in apart]}]
        optimizers = [
            self.optimizer_g([*groups, {"params": skips}] if skips else groups),
            self.optimizer_d(p for p in self.discriminators.parameters() if p.requires_grad),
        ]
        if skips:
            optimizers[0].param_groups[1]["lr"] *= self.skip_lr_factor
        # The recipe's rates: a resumed optimiser holds warmed-up ones.
        self._full_lrs = [[group["lr"] for group in o.param_groups] for o in optimizers]
        return optimizers

    def on_fit_start(self) -> None:
        """Refuse what would silently ruin training; one that was resumed after its last batch has none to add."""
        if self.max_images is not None and self.images_seen >= self.max_images:
            self.trainer.should_stop = True
            rank_zero_info(
                f"nothing left to train: {self.images_seen} images are seen and max_images is {self.max_images}; "
                f"more of them extend the run (--model.init_args.max_images={2 * self.images_seen})"
            )
        if self.trainer.precision in ("16-mixed", "16-true", "bf16-true"):
            raise ValueError(
                f"precision {self.trainer.precision} is refused: trained weights stay float32 and "
                "the one-step estimate "
                "multiplies float16 errors by 14.6. Use bf16-mixed or 32-true."
            )

    def _optimizers(self) -> list[Any]:
        return self.optimizers()  # type: ignore[return-value]

    @property
    def lr_factor(self) -> float:
        """Share of the full learning rate at the current count of images: linear rise, constant, linear fall."""
        rise = (self.images_seen + 1) / self.warmup_images if self.warmup_images else 1.0
        fall = 1.0
        if self.max_images and self.cooldown:
            fall = max(0.0, (1 - self.images_seen / self.max_images) / self.cooldown)
        return min(1.0, rise, fall)

    def optimise(self, which: int, loss: Tensor) -> None:
        """Backward, and every `accumulate` batches clip, step and clear.

        Args:
            which: 0 for the generator, 1 for the discriminators.
            loss: scalar.
        """
        self.backward_part(loss)
        self.step(which)

    def backward_part(self, loss: Tensor) -> None:
        """Add a scalar loss's gradient to what the next `step` takes."""
        self.manual_backward(loss / self.accumulate)

    def step(self, which: int) -> None:
        """Every `accumulate` batches clip, step and clear; see `optimise`."""
        if (self.batches_seen + 1) % self.accumulate:
            return
        optimizer = self._optimizers()[which]
        for group, lr in zip(optimizer.param_groups, self._full_lrs[which], strict=True):
            group["lr"] = lr * self.lr_factor
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.check_gradient(nn.utils.clip_grad_norm_(parameters, self.clip_norm), which)
        optimizer.step()
        optimizer.zero_grad()

    def noise_of(self, image: Tensor, seed: Tensor) -> Tensor:
        """Noise maps ``(B, C, h, w)`` for images of this size, one from each sample's seed ``(B,)``."""
        shape = self.generator.noise_shape(image)
        return torch.cat([noise_map(s, shape) for s in seed.tolist()]).to(image.device)

    @contextmanager
    def frozen_discriminators(self) -> Iterator[None]:
        """The generator's backward reaches the discriminators' inputs, never their weights."""
        heads = [p for p in self.discriminators.parameters() if p.requires_grad]
        for p in heads:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in heads:
                p.requires_grad_(True)

    def check_finite(self, loss: Tensor, terms: dict[str, Tensor], names: list[str]) -> None:
        """Stop on every rank together, naming the files of the batch.

        Raises:
            NonFiniteLossError: this rank's loss, or another's, is NaN or infinite.
        """
        bad = (~torch.isfinite(loss.detach())).float()
        anywhere = self._over_ranks(bad).max() if self.trainer.world_size > 1 else bad
        if anywhere:
            values = ", ".join(f"{k}={float(v.detach()):.3g}" for k, v in terms.items() if not torch.isfinite(v))
            raise NonFiniteLossError(
                f"Loss is not finite after {self.images_seen} images ({values or 'on another rank'}), in the batch of "
                f"{', '.join(names)}. Nothing of this step was kept; the last checkpoint is good."
            )

    def check_gradient(self, norm: Tensor, which: int) -> None:
        """Stop before a step that clipping would spoil: an infinite norm makes every gradient 0 or NaN.

        Gradients are the mean over ranks, so all of them stop.

        Raises:
            NonFiniteLossError: the gradients' norm is NaN or infinite.
        """
        if not torch.isfinite(norm):
            raise NonFiniteLossError(
                f"A gradient of the {('generator', 'discriminators')[which]} is not finite after {self.images_seen} "
                "images, though the loss is. Nothing of this step was kept; the last checkpoint is good."
            )

    def _over_ranks(self, value: Tensor) -> Tensor:
        """``(...)`` => ``(ranks, ...)``."""
        gathered: Any = self.all_gather(value)
        return gathered

    def count(self, batch_size: int) -> None:
        """Book one batch of this size on every rank, and stop when `max_images` is reached."""
        self.images_seen += batch_size * self.trainer.world_size
        self.batches_seen += 1
        if self.max_images is not None and self.images_seen >= self.max_images:
            self.trainer.should_stop = True

    def log_terms(self, terms: dict[str, Tensor]) -> None:
        """Write loss terms and learning rates, x axis `images_seen`, every `log_every_n_steps` batches."""
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps  # 0 is Lightning's never
        if not every or (self.batches_seen % every and self.batches_seen != 1):
            return
        stacked = torch.stack([t.detach().float() for t in terms.values()])
        if self.trainer.world_size > 1:
            stacked = self._over_ranks(stacked).mean(0)
        scalars = {f"train/{name}": value for name, value in zip(terms, stacked.tolist(), strict=True)}
        for name, optimizer in zip(("g", "d"), self._optimizers(), strict=True):
            scalars[f"lr/{name}"] = optimizer.param_groups[0]["lr"]
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars, step=self.images_seen)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """The first batch after a resume starts from the random states and gradients that the checkpoint held."""
        if self._rng is not None:
            set_random_states(self._rng, self.trainer.global_rank)
            self._rng = None
        for name, gradient in self._gradients.items():
            parameter = self.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._gradients = {}

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients that batches before a validation left for the next step; Lightning would drop them."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Trained tensors, the adapter's card, counters and every rank's random states; plain types only."""
        checkpoint["state_dict"] = trained_state(self)
        checkpoint["adapter"] = AdapterCard.of(self.generator, self.run_facts).to_json()
        checkpoint["progress"] = {"images_seen": self.images_seen, "batches_seen": self.batches_seen}
        checkpoint["rng"] = random_states()
        # Between two steps of `accumulate` batches: what the next step already has.
        checkpoint["gradients"] = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names and shapes must be exactly this module's.

        Raises:
            ValueError: they are not, or the base is another one.
        """
        card = AdapterCard.from_json(checkpoint["adapter"], "The checkpoint")
        if card.base_fingerprint != self.generator.base_fingerprint:
            raise ValueError(
                f"The checkpoint was trained on the base {card.base_description} ({card.base_fingerprint}), "
                f"this run uses {self.generator.base_description} ({self.generator.base_fingerprint})."
            )
        load_trained(self, checkpoint["state_dict"], "The checkpoint")
        self.images_seen = checkpoint["progress"]["images_seen"]
        self.batches_seen = checkpoint["progress"]["batches_seen"]
        self._rng = checkpoint["rng"]
        self._gradients = checkpoint.get("gradients", {})  # older checkpoints hold none

    @property
    def training_features(self) -> list[str]:
        """Names of the frozen networks that training looks at: a metric on one of them would flatter."""
        return sorted({m.name for m in self.modules() if isinstance(m, FeatureNetwork)})

    @property
    def run_facts(self) -> RunFacts:
        """What an adapter written now says of this run."""
        return replace(self.run, training_features=tuple(self.training_features), images_seen=self.images_seen)
