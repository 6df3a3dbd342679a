"""Adapters written as the authors' released checkpoints (.pkl)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from networks.checkpoints.diffusers import check_unmerged, float_copy, unet_lora
from networks.checkpoints.released import ALPHA
from networks.one_step.generator import OneStepGenerator

Content = dict[str, Any]


def to_released(generator: OneStepGenerator, stochastic: bool = False) -> tuple[Content, list[str]]:
    """The content of a released file: paired where the generator has one direction, unpaired where it has two.

    LoRA scales that the format fixes (8 / rank; 1 in the unpaired UNet) are folded into `lora_B`.  The unpaired format
    holds `conv_in` as a LoRA only: its change is factored at the UNet's rank, exactly from rank 36 on for a 4-channel
    latent, as the best approximation below.

    Args:
        generator: trained, not merged.
        stochastic: write the paired file with `conv_in`'s pretrained twin, for use with a strength below 1.

    Returns:
        What to `torch.save`, and what of this generator the format cannot hold, a phrase each.

    Raises:
        ValueError: the format fixes another input range, has no such directions, or no place for a branch; or LoRA is
            merged.
    """
    check_unmerged(generator)
    settings = generator.settings
    paired = len(generator.directions) == 1
    wanted = "[0, 1]" if paired else "[-1, 1]"
    if generator.directions[0] != "a2b":
        raise ValueError(f"A released file of one direction holds a2b; this generator has {generator.directions}.")
    if settings["input_range"] != wanted:
        raise ValueError(
            f"A released {'paired' if paired else 'unpaired'} file is fed with images in {wanted}; this generator was "
            f"trained with input_range {settings['input_range']}."
        )
    if settings["conditioning"] != "direct":
        raise ValueError(f"No released format holds a branch: this generator has {settings['conditioning']}.")
    if stochastic and not paired:
        raise ValueError("Only the paired format has a stochastic kind; this generator has two directions.")
    lost = [f"the prompts ({'; '.join(generator.prompts.values())})"] if generator.prompts else []
    if settings["frozen_dtype"] != "float32":
        lost.append(f"that the base's weights were rounded to {settings['frozen_dtype']} in training")
    autoencoder: Any = generator.autoencoders["a2b"]
    skips = [f"skip_conv_{k}" for k in range(1, len(autoencoder.vae.decoder.up_blocks) + 1)]
    common = {
        "rank_unet": settings["rank_unet"],
        "rank_vae": settings["rank_vae"],
        "vae_lora_target_modules": [*settings["vae_targets"], *skips],
    }
    if paired:
        return {**common, **_paired(generator, stochastic)}, lost
    return {**common, **_unpaired(generator, lost)}, lost


def _paired(generator: OneStepGenerator, stochastic: bool) -> Content:
    conv_in = generator.unet.conv_in
    kinds = {"conv_in_pretrained.": conv_in.pretrained, "conv_in_curr.": conv_in.trained}
    if not stochastic:
        kinds = {"": conv_in.trained}
    unet = {f"conv_in.{kind}{k}": float_copy(t) for kind, conv in kinds.items() for k, t in conv.state_dict().items()}
    settings = generator.settings
    for module, half, tensor in unet_lora(generator, settings["alpha_unet"] / ALPHA):
        unet[f"{module}.{half}.default.weight"] = tensor
    vae = {k: t for k, t in _vae(generator, "a2b").items() if "lora" in k or "skip" in k}
    return {
        "unet_lora_target_modules": settings["unet_targets"],
        "state_dict_unet": unet,
        "state_dict_vae": vae,
    }


def _unpaired(generator: OneStepGenerator, lost: list[str]) -> Content:
    settings = generator.settings
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}, "other": {}}
    conv_in = [("conv_in", half, tensor) for half, tensor in _conv_in_lora(generator, lost).items()]
    for module, half, tensor in [*conv_in, *unet_lora(generator, settings["alpha_unet"] / settings["rank_unet"])]:
        first = module.partition(".")[0]
        part = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder"}.get(first, "other")
        parts[part][f"{module}.{half}.weight"] = tensor
    modules = {part: list(dict.fromkeys(k.partition(".lora_")[0] for k in held)) for part, held in parts.items()}
    both = {
        f"{prefix}.{name}": tensor
        for prefix, direction in (("vae", "a2b"), ("vae_b2a", "b2a"))
        for name, tensor in _vae(generator, direction).items()
    }
    return {
        "l_target_modules_encoder": modules["encoder"],
        "l_target_modules_decoder": modules["decoder"],
        "l_modules_others": modules["other"],
        **{f"sd_{part}": held for part, held in parts.items()},
        # Both wrappers hold both whole VAEs; torch.save writes a tensor once however often it is named.
        "sd_vae_enc": both,
        "sd_vae_dec": dict(both),
    }


def _conv_in_lora(generator: OneStepGenerator, lost: list[str]) -> dict[str, Tensor]:
    """The change of `conv_in`'s weight as ``B A`` of the UNet's rank."""
    conv, rank = generator.unet.conv_in, generator.settings["rank_unet"]
    change = float_copy(conv.trained.weight) - float_copy(conv.pretrained.weight)
    u, s, v = torch.linalg.svd(change.flatten(1).double(), full_matrices=False)
    keep = min(rank, len(s))
    down, up = change.new_zeros(rank, change[0].numel()), change.new_zeros(len(change), rank)
    down[:keep], up[:, :keep] = (s[:keep].sqrt()[:, None] * v[:keep]).float(), (u[:, :keep] * s[:keep].sqrt()).float()
    rest = float(s[keep:].norm() / s.norm()) if s.norm() else 0.0
    if rest > 1e-6:
        lost.append(f"{rest:.1%} of the change of conv_in's weight (rank {rank} is too low for it)")
    bias = float((float_copy(conv.trained.bias) - float_copy(conv.pretrained.bias)).abs().max())
    if bias:
        lost.append(f"the change of conv_in's bias (up to {bias:.2g})")
    return {"lora_A": down.view(rank, *change.shape[1:]), "lora_B": up.view(len(change), rank, 1, 1)}


def _vae(generator: OneStepGenerator, direction: str) -> dict[str, Tensor]:
    """A direction's whole VAE under the released names, its skip convolutions with a LoRA, idle if there was none."""
    settings = generator.settings
    autoencoder: Any = generator.autoencoders[direction]
    factor = settings["alpha_vae"] / ALPHA

    def renamed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        return name.replace(".default.", ".vae_skip."), float_copy(tensor) * (factor if ".lora_B." in f".{name}" else 1)

    held = dict(renamed(name, tensor) for name, tensor in autoencoder.vae.state_dict().items())
    for k, (weight, down, up) in enumerate(_skips(autoencoder, settings["rank_vae"], renamed), start=1):
        held[f"decoder.skip_conv_{k}.base_layer.weight"] = weight
        held[f"decoder.skip_conv_{k}.lora_A.vae_skip.weight"] = down
        held[f"decoder.skip_conv_{k}.lora_B.vae_skip.weight"] = up
    return held


def _skips(
    autoencoder: Any, rank: int, renamed: Callable[[str, Tensor], tuple[str, Tensor]]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(weight, lora_A, lora_B) of every skip convolution, coarsest first; weights of zero where there are no skips."""
    draw = torch.Generator().manual_seed(0)
    sources = [block.resnets[0].in_channels for block in reversed(autoencoder.vae.encoder.down_blocks)]
    targets = [block.resnets[0].in_channels for block in autoencoder.vae.decoder.up_blocks]
    for k, (c_in, c_out) in enumerate(zip(sources, targets, strict=True)):
        conv = autoencoder.skip_convs[k].state_dict() if len(autoencoder.skip_convs) else {}
        own = dict(renamed(name, tensor) for name, tensor in conv.items())
        weight = own.get("base_layer.weight", own.get("weight"))
        # B = 0 says nothing; A at zero too would never learn again.
        idle = torch.randn(rank, c_in, 1, 1, generator=draw) / rank, torch.zeros(c_out, rank, 1, 1)
        yield (
            torch.zeros(c_out, c_in, 1, 1) if weight is None else weight,
            own.get("lora_A.vae_skip.weight", idle[0]),
            own.get("lora_B.vae_skip.weight", idle[1]),
        )
