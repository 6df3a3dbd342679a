"""A discriminator of latents on the features of a frozen diffusion UNet (LADD; Sauer et al. 2024, Sec. 3)."""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class LatentDiscriminator(nn.Module):
    """Convolutional heads on the outputs of every block of a frozen UNet, conditioned on prompt and noise level.

    Args:
        unet: the teacher's UNet; frozen here.
        text_width: length of the pooled prompt embedding.
        width: hidden channels of every head.
    """

    def __init__(self, unet: UNet2DConditionModel, text_width: int, width: int = 64) -> None:
        super().__init__()
        unet.requires_grad_(False).eval()
        self.unet = unet
        channels = [*unet.config["block_out_channels"]]
        self.heads = nn.ModuleList(
            _Head(count, text_width + 1, width) for count in [*channels, channels[-1], *reversed(channels)]
        )
        self._features: list[Tensor] = []
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            block.register_forward_hook(self._append)

    def _append(self, block: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self._features.append(output[0] if isinstance(output, tuple) else output)

    def train(self, mode: bool = True) -> "LatentDiscriminator":
        """Set the mode of the heads; the UNet stays in evaluation mode."""
        super().train(mode)
        self.unet.eval()
        return self

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor) -> list[Tensor]:
        """Score noised latents; higher logits mean "real".

        Args:
            noisy: noised latents `(B, 4, h, w)`.
            timestep: `(B,)` int64 in [0, 1000).
            context: embeddings of the prompts, `(B, L, D)`.
            pooled: pooled embeddings of the prompts, `(B, text_width)`.

        Returns:
            One map of logits `(B, 1, h_k, w_k)` per block.
        """
        self._features.clear()
        self.unet(noisy, timestep, context)
        condition = torch.cat([pooled, timestep[:, None] / 1000], dim=1)
        logits = [head(features, condition) for head, features in zip(self.heads, self._features, strict=True)]
        self._features.clear()
        return logits


class _Head(nn.Module):
    """Two spectrally normalised convolutions and a projection of the condition (Miyato and Koyama 2018)."""

    def __init__(self, channels: int, condition: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            # the UNet's activations can have any scale
            nn.GroupNorm(1, channels, affine=False),
            spectral_norm(nn.Conv2d(channels, width, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
        )
        self.logit = spectral_norm(nn.Conv2d(width, 1, 1))
        self.projection = spectral_norm(nn.Linear(condition, width))

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        hidden = self.features(features)
        projected = (hidden * self.projection(condition)[:, :, None, None]).sum(dim=1, keepdim=True)
        return self.logit(hidden) + projected / hidden.shape[1] ** 0.5
