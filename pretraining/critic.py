"""A discriminator of latents that sees with a diffusion UNet's own features (LADD; Sauer et al. 2024, Sec. 3)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class LatentCritic(nn.Module):
    """Convolutional heads on the outputs of every block of a frozen UNet, conditioned on prompt and noise level.

    Args:
        unet: the teacher; frozen here.
        text_width: length of the pooled prompt.
        width: hidden channels of every head.
    """

    def __init__(self, unet: Any, text_width: int, width: int = 64) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(False).eval()
        channels = [*unet.config.block_out_channels]
        self.heads = nn.ModuleList(
            _Head(count, text_width + 1, width) for count in [*channels, channels[-1], *reversed(channels)]
        )
        self._found: list[Tensor] = []
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self._found.append(output[0] if isinstance(output, tuple) else output)

    def train(self, mode: bool = True) -> "LatentCritic":
        """The UNet stays as it is."""
        super().train(mode)
        self.unet.eval()
        return self

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor) -> list[Tensor]:
        """Judge noised latents; higher logits mean "real".

        Args:
            noisy: `(B, 4, h, w)`.
            timestep: `(B,)` int64 in [0, 1000).
            context: of the prompts, `(B, L, D)`.
            pooled: one vector per prompt, `(B, text_width)`.

        Returns:
            One map of logits `(B, 1, h_k, w_k)` per block.
        """
        self._found.clear()
        self.unet(noisy, timestep, context)
        condition = torch.cat([pooled, timestep[:, None] / 1000], dim=1)
        logits = [head(found, condition) for head, found in zip(self.heads, self._found, strict=True)]
        self._found.clear()
        return logits


class _Head(nn.Module):
    """Two bounded convolutions; the condition enters by its inner product with them (Miyato and Koyama 2018)."""

    def __init__(self, channels: int, condition: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            # the UNet's activations have any scale, the bounded convolutions need one
            nn.GroupNorm(1, channels, affine=False),
            spectral_norm(nn.Conv2d(channels, width, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
        )
        self.verdict = spectral_norm(nn.Conv2d(width, 1, 1))
        self.match = spectral_norm(nn.Linear(condition, width))

    def forward(self, found: Tensor, condition: Tensor) -> Tensor:
        features = self.features(found)
        matched = (features * self.match(condition)[:, :, None, None]).sum(dim=1, keepdim=True)
        return self.verdict(features) + matched / features.shape[1] ** 0.5
