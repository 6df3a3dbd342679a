"""The VAE with skips from encoder to decoder (arXiv 2403.12036, Sec. 3.2)."""

from collections.abc import Iterable

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from networks.checkpoints.settings import SkipInit
from networks.one_step.diffusion import per_sample
from networks.one_step.lora import checkpoint


class SkipAutoencoder(nn.Module):
    """The VAE with skips: ``encode(image) -> (latent, skips)`` and ``decode(latent, skips, gamma) -> image``.

    Levels and channels are read from the VAE.  Skips are values that travel with their own image, never module state.

    Args:
        vae: the base's `AutoencoderKL`; the caller freezes its weights.
        skips: False leaves the 1x1 convolutions out (an ablation).
        skip_init: every weight of the 1x1 convolutions ("zero-convs", released value 1e-5), or "gaussian" for
            PyTorch's own initialisation.
        checkpointing: recompute each block's activations during backward.

    Attributes:
        skip_channels: channels into and out of every possible skip convolution, coarsest first.
    """

    def __init__(
        self, vae: AutoencoderKL, skips: bool = True, skip_init: SkipInit = 1e-5, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.vae = vae
        self.scaling: float = vae.config["scaling_factor"]
        self.factor: int = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.checkpointing = checkpointing
        # Decoder up block k meets the encoder's down block n - 1 - k.
        sources, targets = _input_channels(vae.encoder.down_blocks), _input_channels(vae.decoder.up_blocks)
        self.skip_channels = list(zip(reversed(sources), targets, strict=True))
        channels = self.skip_channels if skips else []
        self.skip_convs = nn.ModuleList(nn.Conv2d(c_in, c_out, 1, bias=False) for c_in, c_out in channels)
        if skip_init != "gaussian":
            for weight in self.skip_convs.parameters():
                nn.init.constant_(weight, float(skip_init))

    def _run(self, block: nn.Module, *args: Tensor) -> Tensor:
        return checkpoint(block, *args) if self.checkpointing and torch.is_grad_enabled() else block(*args)

    @property
    def latent_only(self) -> tuple[str, ...]:
        """Prefixes of the VAE's modules that the latent needs and the skips do not."""
        if not len(self.skip_convs):
            return ("encoder.",)
        last = len(self.vae.encoder.down_blocks) - 1
        return f"encoder.down_blocks.{last}.", "encoder.mid_block.", "encoder.conv_out"

    def skips(self, image: Tensor) -> list[Tensor]:
        """The skips alone, as `encode` returns them, without the rest of the encoder."""
        if not len(self.skip_convs):
            return []
        found = [self.vae.encoder.conv_in(image)]
        for block in self.vae.encoder.down_blocks[:-1]:
            found.append(self._run(block, found[-1]))
        return found

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Posterior mean and the activations that enter each down block.

        Args:
            image: ``(B, 3, H, W)`` in the range the VAE is fed with; H and W divisible by `factor`.

        Returns:
            Scaled latent ``(B, 4, H / factor, W / factor)`` and skips, finest first.
        """
        encoder = self.vae.encoder
        x = encoder.conv_in(image)
        skips = []
        for block in encoder.down_blocks:
            if len(self.skip_convs):
                skips.append(x)
            x = self._run(block, x)
        x = self._run(encoder.mid_block, x)
        x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(x)))
        if self.vae.quant_conv is not None:
            x = self.vae.quant_conv(x)
        mean, _ = x.chunk(2, dim=1)
        return mean.float() * self.scaling, skips

    def decode(self, latent: Tensor, skips: list[Tensor], gamma: Tensor | None = None) -> Tensor:
        """Latent and skips to an image.

        Args:
            latent: scaled, ``(B, 4, h, w)``.
            skips: as `encode` returned them for the same images, finest first.
            gamma: weight of every skip, ``(B,)``; None is 1.

        Returns:
            ``(B, 3, factor * h, factor * w)`` float32, clamped to [-1, 1].
        """
        decoder = self.vae.decoder
        x = latent / self.scaling
        if self.vae.post_quant_conv is not None:
            x = self.vae.post_quant_conv(x)
        x = self._run(decoder.mid_block, decoder.conv_in(x))
        for k, block in enumerate(decoder.up_blocks):
            if len(self.skip_convs):
                skip = skips[-1 - k]
                # Added in float32 whatever the autocast: a contribution of 1e-5 would round away in bfloat16.
                x = x.float() + self.skip_convs[k](skip if gamma is None else skip * per_sample(gamma, skip)).float()
            x = self._run(block, x)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x))).float().clamp(-1, 1)


def _input_channels(blocks: Iterable[nn.Module]) -> list[int]:
    """Channels that enter each down or up block."""
    first = (block.get_submodule("resnets.0") for block in blocks)
    return [resnet.in_channels for resnet in first if isinstance(resnet, ResnetBlock2D)]
