"""The UNet's LoRA in diffusers' format."""

from collections.abc import Iterator

from torch import Tensor

from networks.one_step.generator import OneStepGenerator


def to_diffusers(generator: OneStepGenerator) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """The UNet's LoRA as diffusers' `save_lora_weights` takes it, scale folded in, and `conv_in` beside it.

    Returns:
        LoRA tensors named ``<module>.lora_A.weight`` and ``.lora_B.weight``; ``weight`` and ``bias`` of `conv_in`; what
        is left out, a phrase each.

    Raises:
        ValueError: LoRA is merged.
    """
    check_unmerged(generator)
    settings = generator.settings
    lora = {
        f"{module}.{half}.weight": tensor
        for module, half, tensor in unet_lora(generator, settings["alpha_unet"] / settings["rank_unet"])
    }
    conv_in = {k: t.detach().cpu().clone() for k, t in generator.unet.conv_in.trained.state_dict().items()}
    lost = ["the VAE's LoRA and the skip convolutions (diffusers has no place for skips)"]
    return lora, conv_in, lost if generator.branch is None else [*lost, f"the {settings['conditioning']} branch"]


def check_unmerged(generator: OneStepGenerator) -> None:
    """Refuse a generator that cannot be exported.

    Raises:
        ValueError: its LoRA is merged.
    """
    if generator.merged:
        raise ValueError("This generator's LoRA is merged into its base and cannot be exported: load it unmerged.")


def unet_lora(generator: OneStepGenerator, factor: float) -> Iterator[tuple[str, str, Tensor]]:
    """(module, "lora_A" or "lora_B", tensor), `lora_B` times a factor."""
    for name, tensor in generator.unet.state_dict().items():
        module, found, half = name.removesuffix(".default.weight").rpartition(".lora_")
        if found:
            yield module, f"lora_{half}", float_copy(tensor) * (factor if half == "B" else 1)


def float_copy(tensor: Tensor) -> Tensor:
    """A detached, contiguous float32 copy on the CPU."""
    return tensor.detach().float().cpu().contiguous()
