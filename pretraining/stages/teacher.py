"""Stage 2 of the pocket base: text-conditional diffusion in latent space (Ho et al. 2020; Rombach et al. 2022)."""

from collections.abc import Callable, Mapping

import torch
from diffusers import DDPMScheduler
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from pretraining.batches import LatentBatch
from pretraining.sampling import draw_many_steps, encode_tokens
from pretraining.stages.stage import Decoder, Stage, StageOptions, average, optimizer


class TeacherStage(Stage[LatentBatch]):
    """Trains UNet and text encoder together from scratch; later stages use the moving average of both.

    Args:
        options: length, warm-up, seed and image grids.
        unet: the UNet, which predicts the noise; trained in place.
        text_encoder: the text encoder; trained in place.
        schedule: config of the noise schedule.
        empty_tokens: tokens `(1, L)` of the empty caption.
        decoder: decoder of the images in TensorBoard.
        preview: tokens `(N, L)` of the captions of these images.
        lr: learning rate of both networks.
        min_snr: gamma of the loss weights `min(SNR, gamma) / SNR` (Hang et al. 2023, Sec. 3.4).
        drop_caption: share of captions that are replaced by the empty one, for classifier-free guidance.
        ema: decay of the moving average.
        clip_norm: gradient norm above which gradients are scaled down.
        preview_guidance: guidance of the images in TensorBoard.
    """

    empty_tokens: Tensor
    preview: Tensor
    alpha_bar: Tensor

    def __init__(
        self,
        options: StageOptions,
        unet: nn.Module,
        text_encoder: nn.Module,
        schedule: Mapping[str, object],
        empty_tokens: Tensor,
        decoder: Decoder,
        preview: Tensor,
        lr: float = 5e-4,
        min_snr: float = 5.0,
        drop_caption: float = 0.1,
        ema: float = 0.999,
        clip_norm: float = 1.0,
        preview_guidance: float = 1.5,
    ) -> None:
        super().__init__(options)
        self.model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
        self.average = average(self.model, ema)
        self.schedule, self.decoder = schedule, decoder
        self.lr, self.min_snr, self.drop_caption = lr, min_snr, drop_caption
        self.clip_norm, self.preview_guidance = clip_norm, preview_guidance
        scheduler = DDPMScheduler.from_config(schedule)
        self.register_buffer("alpha_bar", scheduler.alphas_cumprod.clone(), persistent=False)
        self.register_buffer("empty_tokens", empty_tokens, persistent=False)
        self.register_buffer("preview", preview, persistent=False)

    def configure_optimizers(self) -> Optimizer:
        """One optimiser for both networks."""
        return optimizer(self.model.parameters(), self.lr, (0.9, 0.99), 1e-2)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to this stage's own norm, whatever the trainer's is."""
        self.clip_gradients(optimizer, self.clip_norm, "norm")

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Tensor:
        """The weighted squared error of the predicted noise."""
        latent, tokens, step = batch["latent"], batch["tokens"], batch["step"]
        generator = self.generator(step)
        noise = self.normal(latent.shape, generator)
        # Evenly spread over the schedule with one random offset: the loss of a small batch varies less.
        places = (torch.arange(len(latent)) + torch.rand(len(latent), generator=generator)) / len(latent)
        t = (places * len(self.alpha_bar)).long().to(self.device)
        dropped = torch.rand(len(latent), generator=generator) < self.drop_caption
        tokens = torch.where(dropped[:, None].to(self.device), self.empty_tokens, tokens)
        abar = self.alpha_bar[t]
        # z_t = sqrt(abar) x_0 + sqrt(1 - abar) eps (Ho et al. 2020, Eq. 4)
        noisy = abar.sqrt().view(-1, 1, 1, 1) * latent + (1 - abar).sqrt().view(-1, 1, 1, 1) * noise
        context = encode_tokens(self.model["text_encoder"], tokens)
        error = (self.model["unet"](noisy, t, context).sample - noise).square().flatten(1).mean(dim=1)
        loss = (min_snr_weights(abar, self.min_snr) * error).mean()
        terms = {"loss": loss, "mse": error.mean()}
        last = error[t >= 0.9 * len(self.alpha_bar)]
        if len(last):  # one-step generation needs errors of a few per cent here
            terms["mse_last_tenth"] = last.mean()
        self.log_terms(terms, step)
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], object] | None = None,
    ) -> None:
        """Update the average in the same step: a checkpoint is written before this module's hook at the batch's end."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.average.update_parameters(self.model)

    @torch.no_grad()
    def preview_images(self, batch: LatentBatch) -> tuple[int, Tensor]:
        """Samples for the captions of `preview`, from the same noise each time."""
        average = self.average.module
        assert isinstance(average, nn.ModuleDict)
        unet, text_encoder = average["unet"], average["text_encoder"]
        noise = self.normal((len(self.preview), *batch["latent"].shape[1:]), self.generator(0))
        context, empty = (encode_tokens(text_encoder, tokens) for tokens in (self.preview, self.empty_tokens))
        latent = draw_many_steps(unet, context, empty, noise, self.schedule, 12, self.preview_guidance)
        return 6, self.decoder(latent)


def min_snr_weights(alpha_bar: Tensor, gamma: float) -> Tensor:
    """Loss weights `min(SNR, gamma) / SNR`, `SNR = abar / (1 - abar)`, of predicted noise (Hang et al. 2023, Eq. 9).

    Args:
        alpha_bar: `(B,)` in (0, 1).
        gamma: SNR above which errors of the clean latent all have the same weight.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / snr
