"""Stage 2 of the pocket base: text-conditional diffusion in latent space (Ho et al. 2020; Rombach et al. 2022)."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from pretraining.sampling import draw_many_steps, encode_tokens
from pretraining.stages.stage import Decoder, Stage, average, optimizer


class TeacherStage(Stage):
    """UNet and text encoder together, from scratch; what later stages use is the moving average of both.

    Args:
        unet: predicts the noise; trained in place.
        text_encoder: trained in place.
        schedule: config of the noise schedule.
        empty_tokens: `(1, L)`, of the empty caption.
        decoder: for the pictures in TensorBoard.
        preview: tokens `(N, L)` of the captions that these show.
        lr: of both.
        min_snr: gamma of the loss weights `min(SNR, gamma) / SNR` (Hang et al. 2023, Sec. 3.4).
        drop_caption: share of captions that are replaced by the empty one, for guidance.
        ema: decay of the moving average.
        clip_norm: gradient norm above which gradients are scaled down.
        preview_guidance: guidance of the pictures in TensorBoard.
        **stage: see `Stage`.
    """

    empty_tokens: Tensor
    preview: Tensor
    alpha_bar: Tensor

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        schedule: dict[str, Any],
        empty_tokens: Tensor,
        decoder: Decoder,
        preview: Tensor,
        lr: float = 5e-4,
        min_snr: float = 5.0,
        drop_caption: float = 0.1,
        ema: float = 0.999,
        clip_norm: float = 1.0,
        preview_guidance: float = 1.5,
        **stage: Any,
    ) -> None:
        super().__init__(**stage)
        self.model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
        self.average = average(self.model, ema)
        self.schedule, self.decoder = schedule, decoder
        self.lr, self.min_snr, self.drop_caption = lr, min_snr, drop_caption
        self.clip_norm, self.preview_guidance = clip_norm, preview_guidance
        scheduler = DDPMScheduler.from_config(schedule)
        self.register_buffer("alpha_bar", scheduler.alphas_cumprod.clone(), persistent=False)
        self.register_buffer("empty_tokens", empty_tokens, persistent=False)
        self.register_buffer("preview", preview, persistent=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One for both networks."""
        return optimizer(self.model.parameters(), self.lr, (0.9, 0.99), 1e-2)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip here, so that the trainer needs no setting of its own."""
        self.clip_gradients(optimizer, self.clip_norm, "norm")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Weighted squared error of the predicted noise, for latents `(B, 4, h, w)` and their tokens `(B, L)`."""
        latent, tokens, step = batch["latent"], batch["tokens"], batch["step"]
        draw = self.draw(step)
        noise = self.normal(latent.shape, draw)
        # Evenly spread over the schedule with one random offset: the loss of a small batch varies less.
        places = (torch.arange(len(latent)) + torch.rand(len(latent), generator=draw)) / len(latent)
        t = (places * len(self.alpha_bar)).long().to(self.device)
        dropped = torch.rand(len(latent), generator=draw) < self.drop_caption
        tokens = torch.where(dropped[:, None].to(self.device), self.empty_tokens, tokens)
        abar = self.alpha_bar[t]
        # z_t = sqrt(abar) x_0 + sqrt(1 - abar) eps (Ho et al. 2020, Eq. 4)
        noisy = abar.sqrt().view(-1, 1, 1, 1) * latent + (1 - abar).sqrt().view(-1, 1, 1, 1) * noise
        context = encode_tokens(self.model["text_encoder"], tokens)
        error = (self.model["unet"](noisy, t, context).sample - noise).square().flatten(1).mean(dim=1)
        loss = (min_snr_weights(abar, self.min_snr) * error).mean()
        terms = {"loss": loss, "mse": error.mean()}
        last = error[t >= 0.9 * len(self.alpha_bar)]
        if len(last):  # where noise must be told from signal to a few per cent, or one step shows nothing
            terms["mse_last_tenth"] = last.mean()
        self.log_terms(terms, step)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Move the average at once: a checkpoint is written before this module's own hook at the batch's end."""
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.model)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Any]) -> tuple[int, Tensor]:
        """Drawn from the same noise each time, for the captions of `preview`."""
        average: Any = self.average.module
        unet, text_encoder = average["unet"], average["text_encoder"]
        noise = self.normal((len(self.preview), *batch["latent"].shape[1:]), self.draw(0))
        context, empty = (encode_tokens(text_encoder, tokens) for tokens in (self.preview, self.empty_tokens))
        latent = draw_many_steps(unet, context, empty, noise, self.schedule, 12, self.preview_guidance)
        return 6, self.decoder(latent)


def min_snr_weights(alpha_bar: Tensor, gamma: float) -> Tensor:
    """`min(SNR, gamma) / SNR` with `SNR = abar / (1 - abar)`, for noise prediction (Hang et al. 2023, Eq. 9).

    Args:
        alpha_bar: `(B,)` in (0, 1).
        gamma: above it, every SNR weighs the same on the clean latent.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / snr
