"""Stage 3 of the pocket base: the teacher's many steps become one, at the last timestep.

First the student learns the teacher's own draws by heart (regression on noise and result, as Luhman and Luhman 2021);
then a discriminator on the teacher's features (Sauer et al. 2024) makes it sharp, while the regression, at a lower
weight, keeps every noise at its own picture, so that pictures stay as different as the teacher's.

What the base is for enters too: where the input is no noise but a picture's latent, under that picture's caption, the
student hands it on.  A translation then starts as what the autoencoder makes of its input and need not learn that.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from losses.terms import weighted_total
from pretraining.critic import LatentCritic
from pretraining.hinge import hinge_discriminator_loss, hinge_generator_loss
from pretraining.sampling import draw_one_step
from pretraining.stages.stage import Decoder, Stage, average, optimizer


class DistillationStage(Stage):
    """The student, its moving average, and the discriminator; teacher and text encoder are frozen.

    Args:
        teacher: the UNet that the student starts as and that the discriminator sees with.
        text_encoder: the teacher's.
        schedule: config of the noise schedule.
        decoder: for the pictures in TensorBoard.
        preview: tokens `(N, L)` of the captions that these show.
        weights: of the terms `regression` (alone), `regression_late` (beside the discriminator), `identity` and `gan`.
        identity_batch: real latents per step that are to be handed on.
        gan_from: share of the steps after which the discriminator begins, in [0, 1].
        noise_range: timesteps that latents are noised to before they are judged, first and last.
        lr: of the student.
        lr_discriminator: of the discriminator's heads.
        discriminator_width: hidden channels of each head.
        ema: decay of the moving average.
        clip_norm: gradient norm above which gradients are scaled down.
        **stage: see `Stage`.
    """

    preview: Tensor
    alphas: Tensor

    def __init__(
        self,
        teacher: Any,
        text_encoder: Any,
        schedule: dict[str, Any],
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
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        self.automatic_optimization = False
        self.student = copy.deepcopy(teacher).requires_grad_(True).train()
        self.average = average(self.student, ema)
        self.critic = LatentCritic(teacher, text_encoder.config.hidden_size, discriminator_width)
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        scheduler = DDPMScheduler.from_config(schedule)
        self.timestep = scheduler.config.num_train_timesteps - 1
        self.alpha_bar = float(scheduler.alphas_cumprod[-1])
        self.kind = scheduler.config.prediction_type
        self.register_buffer("alphas", scheduler.alphas_cumprod.clone(), persistent=False)
        self.register_buffer("preview", preview, persistent=False)
        self.decoder, self.weights, self.noise_range = decoder, dict(weights), tuple(noise_range)
        self.identity_batch = identity_batch
        self.gan_step = round(gan_from * self.steps)
        self.lr, self.lr_discriminator, self.clip_norm = lr, lr_discriminator, clip_norm

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The student's, then the discriminator's."""
        return [
            optimizer(self.student.parameters(), self.lr, (0.9, 0.99), 1e-2),
            optimizer(self.critic.heads.parameters(), self.lr_discriminator, (0.0, 0.99), 0.0),
        ]

    def discriminator_lr_factor(self, step: int) -> float:
        """Full: it begins late, and at the student's falling rate it would hardly learn."""
        return 1.0

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `(B, L)` => context `(B, L, D)` and pooled prompt `(B, D)`."""
        found = self.text_encoder(tokens)
        return found.last_hidden_state, found.pooler_output

    def one_step(self, unet: Any, noise: Tensor, context: Tensor) -> Tensor:
        """Latents `(B, 4, h, w)` from noise of that shape, as the generator will use the UNet."""
        return draw_one_step(unet, context, noise, self.alpha_bar, self.timestep, self.kind)

    def descend(self, optimizer: Any, loss: Tensor, clip_norm: float) -> None:
        """As `Stage.descend`; the student's average moves with the student."""
        super().descend(optimizer, loss, clip_norm)
        if optimizer is self.both_optimizers()[0]:
            self.average.update_parameters(self.student)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """One step on pairs and real latents `(B, 4, h, w)` with their tokens `(B, L)`, later with a discriminator."""
        step = batch["step"]
        own, judge = self.both_optimizers()
        kept = batch["latent"][: self.identity_batch]
        context, _ = self.embed(torch.cat([batch["pair_tokens"], batch["tokens"][: len(kept)]]))
        result = self.one_step(self.student, torch.cat([batch["pair_noise"], kept]), context)
        drawn, handed_on = result.split([len(batch["pair_noise"]), len(kept)])
        early = step < self.gan_step
        terms = {
            "regression" if early else "regression_late": F.huber_loss(drawn, batch["pair_target"]),
            "identity": F.huber_loss(handed_on, kept),
        }
        if early:
            self.descend(own, weighted_total(terms, {name: self.weights[name] for name in terms}), self.clip_norm)
            self.log_terms(terms, step)
            return
        draw, real = self.draw(step), batch["latent"]
        context, pooled = self.embed(batch["tokens"])
        fake = self.one_step(self.student, self.normal(real.shape, draw), context)
        first, last = self.noise_range
        t = torch.randint(first, last + 1, (len(real),), generator=draw).to(self.device)
        real, noised = self.renoise(real, t, draw), self.renoise(fake, t, draw)
        self.critic.heads.requires_grad_(False)
        terms["gan"] = hinge_generator_loss(self.critic(noised, t, context, pooled))
        self.critic.heads.requires_grad_(True)
        self.descend(own, weighted_total(terms, {name: self.weights[name] for name in terms}), self.clip_norm)
        verdicts = [self.critic(latent.detach(), t, context, pooled) for latent in (real, noised)]
        terms["disc"] = hinge_discriminator_loss(*verdicts)
        self.descend(judge, terms["disc"], self.clip_norm)
        self.log_terms(terms, step)

    def renoise(self, latent: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """`sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` of latents `(B, 4, h, w)` at timesteps `(B,)`."""
        abar = self.alphas[t].view(-1, 1, 1, 1)
        return abar.sqrt() * latent + (1 - abar).sqrt() * self.normal(latent.shape, generator)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Any]) -> tuple[int, Tensor]:
        """Drawn in one step from the noise that the teacher's pictures were drawn from."""
        noise = self.normal((len(self.preview), *batch["latent"].shape[1:]), self.draw(0))
        return 6, self.decoder(self.one_step(self.average.module, noise, self.embed(self.preview)[0]))
