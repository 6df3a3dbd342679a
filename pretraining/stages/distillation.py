"""Stage 3 of the pocket base: distillation of the teacher's many steps into one, at the last timestep.

First, the student regresses the teacher's samples from their noise (Luhman and Luhman 2021).  Then a discriminator on
the teacher's features (Sauer et al. 2024) sharpens its samples, while the regression, at a lower weight, ties each
noise to its own image, so that samples stay as diverse as the teacher's.

The student also learns to return the latent of an image unchanged, given that image's caption.  A translation then
starts as the autoencoder's reconstruction of its input.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import CLIPTextModel

from pretraining.batches import PairBatch
from pretraining.hinge import hinge_discriminator_loss, hinge_generator_loss
from pretraining.latent_discriminator import LatentDiscriminator
from pretraining.sampling import draw_one_step
from pretraining.stages.stage import Decoder, Stage, StageOptions, average, optimizer, weighted_sum


class DistillationStage(Stage[PairBatch]):
    """Trains the student; its moving average is the base.  Teacher and text encoder are frozen.

    Args:
        options: length, warm-up, seed and image grids.
        teacher: the teacher's UNet: start of the student, and feature network of the discriminator.
        text_encoder: the teacher's text encoder.
        schedule: config of the noise schedule.
        decoder: decoder of the images in TensorBoard.
        preview: tokens `(N, L)` of the captions of these images.
        weights: weights of the terms `regression` (before the discriminator begins), `regression_late` (after),
            `identity` and `gan`.
        identity_batch: latents of images per step that are to be returned unchanged.
        gan_from: share of the steps after which the discriminator begins, in [0, 1].
        noise_range: first and last timestep that the discriminator's inputs are noised to.
        lr: learning rate of the student.
        lr_discriminator: learning rate of the discriminator's heads.
        discriminator_width: hidden channels of each head.
        ema: decay of the moving average.
        clip_norm: gradient norm above which gradients are scaled down.
    """

    preview: Tensor
    alphas: Tensor

    def __init__(
        self,
        options: StageOptions,
        teacher: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        schedule: Mapping[str, object],
        decoder: Decoder,
        preview: Tensor,
        weights: dict[str, float],
        identity_batch: int = 8,
        gan_from: float = 0.5,
        noise_range: tuple[int, int] = (50, 800),
        lr: float = 2e-4,
        lr_discriminator: float = 4e-4,
        discriminator_width: int = 64,
        ema: float = 0.998,
        clip_norm: float = 1.0,
    ) -> None:
        super().__init__(options)
        self.automatic_optimization = False
        self.student = copy.deepcopy(teacher).requires_grad_(True).train()
        self.average = average(self.student, ema)
        self.discriminator = LatentDiscriminator(teacher, text_encoder.config.hidden_size, discriminator_width)
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        scheduler = DDPMScheduler.from_config(schedule)
        self.timestep = scheduler.config.num_train_timesteps - 1
        self.alpha_bar = float(scheduler.alphas_cumprod[-1])
        self.prediction_type = scheduler.config.prediction_type
        self.register_buffer("alphas", scheduler.alphas_cumprod.clone(), persistent=False)
        self.register_buffer("preview", preview, persistent=False)
        self.decoder, self.weights, self.noise_range = decoder, dict(weights), tuple(noise_range)
        self.identity_batch = identity_batch
        self.gan_step = round(gan_from * self.steps)
        self.lr, self.lr_discriminator, self.clip_norm = lr, lr_discriminator, clip_norm

    def configure_optimizers(self) -> list[Optimizer]:
        """The optimisers of the student and of the discriminator."""
        return [
            optimizer(self.student.parameters(), self.lr, (0.9, 0.99), 1e-2),
            optimizer(self.discriminator.heads.parameters(), self.lr_discriminator, (0.0, 0.99), 0.0),
        ]

    def discriminator_lr_factor(self, step: int) -> float:
        """Always 1: the discriminator begins late, when the student's rate has nearly reached 0."""
        return 1.0

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `(B, L)` => context `(B, L, D)` and pooled embeddings `(B, D)`."""
        found = self.text_encoder(tokens)
        return found.last_hidden_state, found.pooler_output

    def one_step(self, unet: nn.Module, noise: Tensor, context: Tensor) -> Tensor:
        """Noise `(B, 4, h, w)` => latents of that shape, as the one-step generator computes them."""
        return draw_one_step(unet, context, noise, self.alpha_bar, self.timestep, self.prediction_type)

    def descend(self, optimizer: LightningOptimizer, loss: Tensor, clip_norm: float) -> None:
        """As `Stage.descend`; after a step of the student also update its average."""
        super().descend(optimizer, loss, clip_norm)
        if optimizer is self.both_optimizers()[0]:
            self.average.update_parameters(self.student)

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One step of the student, and one of the discriminator once it has begun."""
        step = batch["step"]
        for_student, for_discriminator = self.both_optimizers()
        unchanged = batch["latent"][: self.identity_batch]
        context, _ = self.embed(torch.cat([batch["pair_tokens"], batch["tokens"][: len(unchanged)]]))
        result = self.one_step(self.student, torch.cat([batch["pair_noise"], unchanged]), context)
        drawn, returned = result.split([len(batch["pair_noise"]), len(unchanged)])
        early = step < self.gan_step
        terms = {
            "regression" if early else "regression_late": F.huber_loss(drawn, batch["pair_target"]),
            "identity": F.huber_loss(returned, unchanged),
        }
        if early:
            self.descend(for_student, weighted_sum(terms, self.weights), self.clip_norm)
            self.log_terms(terms, step)
            return
        generator, real = self.generator(step), batch["latent"]
        context, pooled = self.embed(batch["tokens"])
        fake = self.one_step(self.student, self.normal(real.shape, generator), context)
        first, last = self.noise_range
        t = torch.randint(first, last + 1, (len(real),), generator=generator).to(self.device)
        real, noised = self.renoise(real, t, generator), self.renoise(fake, t, generator)
        self.discriminator.heads.requires_grad_(False)
        terms["gan"] = hinge_generator_loss(self.discriminator(noised, t, context, pooled))
        self.discriminator.heads.requires_grad_(True)
        self.descend(for_student, weighted_sum(terms, self.weights), self.clip_norm)
        logits = [self.discriminator(latent.detach(), t, context, pooled) for latent in (real, noised)]
        terms["disc"] = hinge_discriminator_loss(*logits)
        self.descend(for_discriminator, terms["disc"], self.clip_norm)
        self.log_terms(terms, step)

    def renoise(self, latent: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Noised latents `sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps`, `(B, 4, h, w)`, at timesteps `t` `(B,)`."""
        abar = self.alphas[t].view(-1, 1, 1, 1)
        return abar.sqrt() * latent + (1 - abar).sqrt() * self.normal(latent.shape, generator)

    @torch.no_grad()
    def preview_images(self, batch: PairBatch) -> tuple[int, Tensor]:
        """One-step samples from the noise of the teacher's preview images."""
        noise = self.normal((len(self.preview), *batch["latent"].shape[1:]), self.generator(0))
        return 6, self.decoder(self.one_step(self.average.module, noise, self.embed(self.preview)[0]))
