"""Base class of the two models: optimisers, the optimiser step, counting, logging, checkpoints.

Progress is counted in `images_seen`: training samples over all ranks (an unpaired sample is one image of each domain).
Lightning's `global_step` counts every optimiser step, so nothing here reads it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.batches import EvaluationBatch, PairedBatch, Translation, UnpairedBatch
from lightning_modules.random_states import random_states, set_random_states
from lightning_modules.resuming import configured
from lightning_modules.runtime import NonFiniteLossError, Runtime, clip_gradients
from lightning_modules.schedule import cool_down, warm_up
from limits import check_settings
from losses.terms import LossTerm, check_names, weighted_total
from networks import ImageTranslator
from networks.checkpoints.adapter import load_trained, trained_state
from networks.checkpoints.card import AdapterCard, RunFacts
from networks.contract import Direction, Discriminator
from networks.features import FeatureNetwork
from networks.one_step.compiling import check_compiler
from networks.one_step.diffusion import noise_map
from networks.precision import is_large

Images = dict[Direction, Tensor]
Terms = dict[str, Tensor]
Player = Literal["generator", "discriminators"]
PLAYERS: tuple[Player, ...] = ("generator", "discriminators")  # in the order of their optimisers
# Both: config.yaml, which a run is resumed from, holds the discriminators' rate as a number of its own.
LIKELY_CAUSE = (
    "Mostly the learning rate is too high: lower model.init_args.optimizer_g.init_args.lr and "
    "model.init_args.optimizer_d.init_args.lr."
)
PRECISIONS = ("32", "32-true", "bf16", "bf16-mixed", "auto", "None")  # of the Trainer, as texts


def check_precision(name: object) -> None:
    """Refuse a precision of the Trainer that would silently ruin training, or cannot work.

    Raises:
        ValueError: it is float16, or has weights that are not float32.
    """
    if str(name) not in PRECISIONS:
        raise ValueError(
            f"precision {name} is refused: weights stay float32 and the one-step estimate multiplies float16 errors by "
            "14.6. Use bf16-mixed or 32-true."
        )


class TranslationModule(LightningModule):
    """Base of `CycleGANTurbo` and `Pix2PixTurbo`.

    Args:
        generator: the one-step generator, or a plain network to compare it with.
        discriminators: by direction; only their heads train.
        optimizer_g: builds the generator's optimiser from its parameters.
        optimizer_d: builds the discriminators' optimiser.
        weights: by the name of each loss term, those of weight 0 left out.
        extra_terms: the user's own loss terms.
        prompts: target prompt by direction, from the data.
        run: the run's entries in the adapter's card: task, experiment, data ...
        warmup_images: the learning rate rises linearly over this many images, then stays; 0 for none.
        clip_norm: gradient norm above which gradients are scaled down, generator and discriminators each.
        accumulate: batches per optimiser step.
        max_images: training stops when this many images were seen; None leaves stopping to the trainer.
        skip_lr_factor: learning rate of the generator's skip convolutions, as a multiple of its own.
        cooldown: last share of `max_images`, in [0, 1], over which the learning rate falls linearly towards 0; without
            `max_images` there is no end to count back from, and the rate stays.

    Attributes:
        images_seen: training samples so far, over all ranks.
        batches_seen: batches so far, of each rank.
        full_rates: learning rates of the parameter groups of each optimiser, before warm-up and cool-down.
        runtime: the Trainer's operations that training steps use.
    """

    def __init__(
        self,
        generator: ImageTranslator,
        discriminators: nn.ModuleDict,
        optimizer_g: OptimizerCallable,
        optimizer_d: OptimizerCallable,
        *,
        weights: Mapping[str, float],
        extra_terms: Sequence[LossTerm],
        prompts: Mapping[str, str],
        run: RunFacts,
        warmup_images: int = 0,
        clip_norm: float = 1.0,
        accumulate: int = 1,
        max_images: int | None = None,
        skip_lr_factor: float = 1.0,
        cooldown: float = 0.0,
    ) -> None:
        super().__init__()
        if weights.keys() <= {"disc", "disc_a2b", "disc_b2a"}:
            raise ValueError("Every weight of the generator's loss is 0: give one of model.init_args.weights a value.")
        check_settings(
            warmup_images=warmup_images,
            clip_norm=clip_norm,
            accumulate=accumulate,
            max_images=max_images,
            skip_lr_factor=skip_lr_factor,
            cooldown=cooldown,
        )
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; on_load_checkpoint checks the rest exactly
        if is_large(generator):  # activations follow the weights
            for network in (generator, discriminators):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.generator = generator
        self.discriminators = discriminators
        generator.prompts = dict(prompts)
        self.optimizer_g, self.optimizer_d = optimizer_g, optimizer_d
        self.weights, self.extra_terms = dict(weights), list(extra_terms)
        # Registered, so that they follow the module to its device.
        self.term_modules = nn.ModuleList(t.function for t in extra_terms if isinstance(t.function, nn.Module))
        self.warmup_images, self.max_images, self.cooldown = warmup_images, max_images, cooldown
        self.clip_norm, self.accumulate, self.skip_lr_factor = clip_norm, accumulate, skip_lr_factor
        self.run = run
        self.images_seen = 0
        self.batches_seen = 0
        self.full_rates: dict[Player, list[float]] = {}
        self.runtime = Runtime(self)
        self._rng: list[dict[str, Any]] | None = None
        self._gradients: dict[str, Tensor] = {}

    # --- optimisation ---

    def configure_optimizers(self) -> list[Optimizer]:
        """Generator's optimiser, with a separate group for its skip convolutions; then the discriminators'.

        Raises:
            ValueError: a learning rate is negative or not finite.
        """
        skips = self.generator.skip_parameters()
        apart = {id(p) for p in skips}
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trained if id(p) not in apart]}]
        optimizers = [
            self.optimizer_g([*groups, {"params": skips}] if skips else groups),
            self.optimizer_d(p for p in self.discriminators.parameters() if p.requires_grad),
        ]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            check_settings(lr=group["lr"])
        if skips:
            optimizers[0].param_groups[1]["lr"] *= self.skip_lr_factor
        for optimizer in optimizers:
            optimizer.register_load_state_dict_pre_hook(configured)
        # From the configuration: those in a resumed optimiser are already scaled by the schedule.
        self.full_rates = {
            player: [group["lr"] for group in optimizer.param_groups]
            for player, optimizer in zip(PLAYERS, optimizers, strict=True)
        }
        return optimizers

    @property
    def lr_factor(self) -> float:
        """Share of the full learning rate at the current count of images: linear rise, constant, linear fall."""
        rise = warm_up(self.images_seen, self.warmup_images)
        return min(rise, cool_down(self.images_seen, self.max_images, self.cooldown))

    def optimise(self, player: Player, terms: Terms, names: Sequence[str]) -> None:
        """Backward, and every `accumulate` batches an optimiser step; see `add_gradient` and `step`."""
        self.add_gradient(terms, names)
        self.step(player)

    def add_gradient(self, terms: Terms, names: Sequence[str]) -> None:
        """Backpropagate the weighted sum of loss terms; gradients accumulate until the next `step`.

        Args:
            terms: scalars by name.
            names: files of the batch, for the error message.

        Raises:
            NonFiniteLossError: the sum is NaN or infinite, on this rank or on another; every rank raises.
        """
        total = weighted_total(terms, {name: w for name, w in self.weights.items() if name in terms})
        if not self.runtime.is_finite(total, on_every_rank=True):
            values = ", ".join(f"{k}={float(v.detach()):.3g}" for k, v in terms.items() if not torch.isfinite(v))
            raise NonFiniteLossError(
                f"Loss is not finite after {self.images_seen} images ({values or 'on another rank'}), in the batch of "
                f"{', '.join(names)}, which has changed no weights. {LIKELY_CAUSE}"
            )
        self.runtime.backward(total / self.accumulate)

    def step(self, player: Player) -> None:
        """Set the learning rate and, every `accumulate` batches, take an optimiser step: clip, step, clear gradients.

        Raises:
            NonFiniteLossError: the norm of the gradients is not finite, and clipping would make each of them 0 or NaN.
                Gradients are means over ranks, so every rank raises.
        """
        optimizer = self.runtime.optimizers()[PLAYERS.index(player)]
        for group, rate in zip(optimizer.param_groups, self.full_rates[player], strict=True):
            group["lr"] = rate * self.lr_factor  # before any step, too: it is logged
        if (self.batches_seen + 1) % self.accumulate:
            return
        self.runtime.average_gradients(optimizer)
        if not self.runtime.is_finite(clip_gradients(optimizer, self.clip_norm)):
            raise NonFiniteLossError(
                f"A gradient of the {player} is not finite after {self.images_seen} images, though the loss is. "
                f"This batch has changed no weights of it. {LIKELY_CAUSE}"
            )
        optimizer.step()
        optimizer.zero_grad()

    def check_finite(self) -> None:
        """Require finite trained weights; called before they are saved, so that a checkpoint never holds a NaN.

        Raises:
            NonFiniteLossError: some are NaN or infinite; they are equal on every rank, so every rank raises.
        """
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise NonFiniteLossError(
                    f"The weights are not finite after {self.images_seen} images ({name}); they are not saved. "
                    f"{LIKELY_CAUSE}"
                )

    @contextmanager
    def frozen_discriminators(self) -> Iterator[None]:
        """Context in which the discriminators' weights get no gradient, while their inputs do."""
        heads = [p for p in self.discriminators.parameters() if p.requires_grad]
        for p in heads:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in heads:
                p.requires_grad_(True)

    # --- parts of a training step ---

    def logits(self, direction: Direction, image: Tensor, seed: Tensor) -> list[Tensor]:
        """Logits of a direction's discriminator for images ``(B, 3, H, W)`` in [-1, 1].

        Raises:
            ValueError: the discriminator returns something else than a list of tensors.
        """
        discriminator: Discriminator = self.discriminators[direction]
        found = discriminator(image, seed)
        if not isinstance(found, list | tuple):
            raise ValueError(
                f"Discriminator {type(discriminator).__name__} must return a list of logits, got a "
                f"{type(found).__name__}."
            )
        return found

    def noise_of(self, image: Tensor, seed: Tensor) -> Tensor:
        """Noise maps ``(B, C, h, w)`` for images of this size, one from each sample's seed ``(B,)``."""
        shape = self.generator.noise_shape(image)
        return torch.cat([noise_map(s, shape) for s in seed.tolist()]).to(image.device)

    def finish_batch(self, terms: Terms, batch_size: int) -> Terms:
        """Count one batch of this size on every rank, stop when `max_images` is reached, and log.

        Returns:
            The terms without their graph, for the progress display.

        Raises:
            ValueError: a term has no weight, or a weight no term.
        """
        check_names(terms, self.weights)
        self.images_seen += batch_size * self.runtime.world_size
        self.batches_seen += 1
        if self.max_images is not None and self.images_seen >= self.max_images:
            self.runtime.stop()
        self.log_terms(terms)
        return {name: term.detach() for name, term in terms.items()}

    def log_terms(self, terms: Terms) -> None:
        """Write loss terms and learning rates, x axis `images_seen`, every `log_every_n_steps` batches."""
        every = self.runtime.log_every
        if not every or (self.batches_seen % every and self.batches_seen != 1):
            return
        stacked = torch.stack([t.detach().float() for t in terms.values()])
        means = zip(terms, self.runtime.mean_over_ranks(stacked), strict=True)
        rates = zip("gd", self.runtime.optimizers(), strict=True)
        scalars = {f"train/{name}": value for name, value in means}
        scalars |= {f"lr/{letter}": optimizer.param_groups[0]["lr"] for letter, optimizer in rates}
        self.runtime.log(scalars, self.images_seen)

    # --- validation ---

    def translate_for_evaluation(self, batch: EvaluationBatch, with_extras: bool) -> Translation:
        """Translate a batch deterministically, in float32; `with_extras` adds further images for the grid."""
        raise NotImplementedError

    # Lightning expects tensors or dicts of a step; callbacks here read one typed object.
    def validation_step(  # type: ignore[override]
        self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Translation:
        """Translate a batch of one direction.

        Raises:
            NonFiniteLossError: a translation is not finite.
        """
        # Float32 whatever the training precision: the image must be the exported adapter's.
        with torch.autocast(batch.real.device.type, enabled=False):
            done = self.translate_for_evaluation(batch, with_extras=False)
        if not self.runtime.is_finite(done.fake.sum()):
            raise NonFiniteLossError(
                f"The generator's output is not finite after {self.images_seen} images ({batch.direction} of "
                f"{', '.join(batch.names)}): its weights have grown too large. {LIKELY_CAUSE}"
            )
        return done

    test_step = validation_step  # type: ignore[assignment]

    # --- Lightning's hooks ---

    def on_fit_start(self) -> None:
        """Refuse settings that would silently ruin training, or end it once it has begun."""
        check_precision(self.trainer.precision)
        if self.generator.compiled_blocks:
            check_compiler(self.device)

    def on_train_start(self) -> None:
        """Stop at once where `max_images` is already reached; a validation that is missing has run by then."""
        if self.max_images is not None and self.images_seen >= self.max_images:
            self.runtime.stop()

    def on_train_batch_start(self, batch: UnpairedBatch | PairedBatch, batch_idx: int) -> None:
        """The first batch after a resume starts from the random states and gradients that the checkpoint held."""
        if self._rng is not None:
            set_random_states(self._rng, self.trainer.global_rank)
            self._rng = None
        for name, gradient in self._gradients.items():
            parameter = self.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._gradients = {}

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients that are accumulated when a validation starts; Lightning would set them to zero."""

    # --- checkpoints ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Trained tensors, the adapter's card, counters and every rank's random states; plain types only."""
        checkpoint["state_dict"] = trained_state(self)
        checkpoint["adapter"] = AdapterCard.of(self.generator, self.run_facts).to_json()
        checkpoint["progress"] = {"images_seen": self.images_seen, "batches_seen": self.batches_seen}
        # Before the first batch after a resume, those that it will start from.
        checkpoint["rng"] = random_states() if self._rng is None else self._rng
        if self.batches_seen % self.accumulate:
            # One process's gradients are saved: the mean, to which every process adds what follows.
            for optimizer in self.runtime.optimizers():
                self.runtime.average_gradients(optimizer)
        found = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        checkpoint["gradients"] = found | self._gradients

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` wrote.

        Raises:
            ValueError: names or shapes are not exactly this module's, or the base is another one.
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
        self._gradients = checkpoint["gradients"]

    @property
    def training_features(self) -> list[str]:
        """Names of the frozen feature networks that training uses: scores based on them would be too good.

        Without an adversarial weight, those of discriminators are loaded and not used.
        """
        adversarial = any(name.startswith(("gan", "disc")) for name in self.weights)
        parts = [part for part in self.children() if adversarial or part is not self.discriminators]
        return sorted({network.name for part in parts for network in feature_networks(part)})

    @property
    def run_facts(self) -> RunFacts:
        """The run's entries in the adapter's card, as of now."""
        return replace(self.run, training_features=tuple(self.training_features), images_seen=self.images_seen)


def feature_networks(module: nn.Module) -> Iterable[FeatureNetwork]:
    """Every frozen feature network within a module, once, in the order of its submodules."""
    return [m for m in module.modules() if isinstance(m, FeatureNetwork)]
