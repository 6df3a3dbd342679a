"""Branches that feed the input image to a UNet which reads noise: the baselines of direct conditioning.

In the method the encoded image is the UNet's input.  In these baselines of the paper's ablation (arXiv 2403.12036,
Sec. 4.2) the UNet keeps reading noise, as it was pretrained to, and a network beside it takes the image and adds to the
UNet's activations.
"""

import math
from abc import ABC, abstractmethod

from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from networks.checkpoints.settings import ConditioningName
from networks.one_step.bases import Base
from networks.one_step.text_conditioning import UNetKwargs

EMBEDDING_CHANNELS = (16, 32, 96, 256)  # of ControlNet's image embedding, each level after the first halves the sides
ADAPTER_RESNETS = 2  # per level, as published


class Branch(nn.Module, ABC):
    """A trained network that takes the image while the UNet takes noise; shared by all directions."""

    @abstractmethod
    def forward(self, image: Tensor, noise: Tensor, timestep: int, kwargs: UNetKwargs) -> UNetKwargs:
        """Residuals that the UNet adds to its activations.

        Args:
            image: ``(B, 3, H, W)`` as the VAE is fed with, sides divisible by its factor.
            noise: the UNet's input, ``(B, C, H / factor, W / factor)``.
            timestep: the UNet's.
            kwargs: the UNet's other keyword arguments: prompts, sizes.

        Returns:
            Further keyword arguments of diffusers' ``UNet2DConditionModel``.
        """


class ControlNetBranch(Branch):
    """A trained copy of the UNet's encoder, joined by zero-convolutions (Zhang et al. 2023): a no-op at the start.

    Args:
        unet: the base's, before LoRA.
        factor: image pixels per latent pixel.
        checkpointing: recompute its blocks during backward.
    """

    def __init__(self, unet: UNet2DConditionModel, factor: int, checkpointing: bool = False) -> None:
        super().__init__()
        levels = int(math.log2(factor)) + 1
        channels = [EMBEDDING_CHANNELS[min(k, len(EMBEDDING_CHANNELS) - 1)] for k in range(levels)]
        self.controlnet: ControlNetModel = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=tuple(channels)
        )
        self.controlnet.float().requires_grad_(True)
        if checkpointing:
            self.controlnet.enable_gradient_checkpointing()

    def forward(self, image: Tensor, noise: Tensor, timestep: int, kwargs: UNetKwargs) -> UNetKwargs:
        """See `Branch`."""
        down, mid = self.controlnet(noise, timestep, controlnet_cond=image, return_dict=False, **kwargs)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


class T2IAdapterBranch(Branch):
    """A small separate network whose features are added level by level (Mou et al. 2023); it reads no prompt.

    Args:
        unet: the base's; gives the channels of each level.
        factor: image pixels per latent pixel.

    Raises:
        ValueError: the UNet's levels are not those that the adapter was published for (SDXL).
    """

    def __init__(self, unet: UNet2DConditionModel, factor: int) -> None:
        super().__init__()
        levels = list(unet.down_blocks)
        if any(not hasattr(block, "attentions") and block.downsamplers for block in levels):
            raise ValueError(
                "conditioning=t2i_adapter fits UNets whose levels down to the last have attention (Stable Diffusion 1 "
                "and 2, pocket), not this base's (SDXL): use controlnet or direct."
            )
        channels = list(unet.config["block_out_channels"])
        self.adapter = T2IAdapter(3, channels, ADAPTER_RESNETS, factor)

    def forward(self, image: Tensor, noise: Tensor, timestep: int, kwargs: UNetKwargs) -> UNetKwargs:
        """See `Branch`."""
        return {"down_intrablock_additional_residuals": self.adapter(image)}


def build_branch(name: ConditioningName, base: Base, checkpointing: bool) -> Branch | None:
    """Build the branch of that name, beside a base whose UNet has no LoRA yet; None for "direct".

    Raises:
        ValueError: there is none of that name, or it does not fit the base.
    """
    if name == "direct":
        return None
    factor = 2 ** (len(base.vae.config["block_out_channels"]) - 1)
    if name == "controlnet":
        return ControlNetBranch(base.unet, factor, checkpointing)
    return T2IAdapterBranch(base.unet, factor)
