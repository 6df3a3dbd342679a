"""Write the UNet's LoRA in diffusers' format."""

from typing import TYPE_CHECKING

from torch import Tensor

from networks.one_step.lora import lora_tensors

if TYPE_CHECKING:
    from networks.one_step.generator import OneStepGenerator


def to_diffusers(generator: "OneStepGenerator") -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """The UNet's LoRA as diffusers' `save_lora_weights` takes it, scale folded in, and `conv_in` beside it.

    Returns:
        LoRA tensors named ``<module>.lora_A.weight`` and ``.lora_B.weight``; ``weight`` and ``bias`` of `conv_in`; what
        is left out, a phrase each.

    Raises:
        ValueError: LoRA is merged.
    """
    generator.check_unmerged()
    settings = generator.settings
    lora = {
        f"{module}.{half}.weight": tensor
        for module, half, tensor in lora_tensors(generator.unet, settings.alpha_unet / settings.rank_unet)
    }
    conv_in = {k: t.detach().cpu().clone() for k, t in generator.conv_in.trained.state_dict().items()}
    lost = ["the VAE's LoRA and the skip convolutions (diffusers has no place for skips)"]
    return lora, conv_in, lost if generator.branch is None else [*lost, f"the {settings.conditioning} branch"]
