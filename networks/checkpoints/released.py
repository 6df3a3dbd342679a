"""Read and write the authors' released checkpoints (.pkl), paired and unpaired.

Their trainers (arXiv 2403.12036, code of the authors) write a pickled dict of tensors, integers and lists of str; alpha
is not in it: 8 everywhere, except for the unpaired UNet, where it equals the rank.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limits import LIMITS
from networks.checkpoints.card import Adapter, AdapterCard, RunFacts
from networks.checkpoints.pickles import read_pickle
from networks.checkpoints.settings import Direction, OneStepSettings, Range
from networks.checkpoints.weights import check_weights, readable
from networks.one_step.lora import float_copy, lora_tensors

if TYPE_CHECKING:
    from networks.one_step.autoencoder import SkipAutoencoder
    from networks.one_step.generator import OneStepGenerator

PAIRED = (
    *("state_dict_unet", "state_dict_vae", "unet_lora_target_modules", "vae_lora_target_modules"),
    *("rank_unet", "rank_vae"),
)
UNPAIRED = (
    *("sd_encoder", "sd_decoder", "sd_other", "sd_vae_enc", "sd_vae_dec"),
    *("l_target_modules_encoder", "l_target_modules_decoder", "l_modules_others", "vae_lora_target_modules"),
    *("rank_unet", "rank_vae"),
)
ALPHA = 8.0
MAX_CONV_IN = 1 << 20  # weights of the UNet's first convolution; SD-Turbo's has 11,520
BOTH: tuple[tuple[str, Direction], ...] = (("vae", "a2b"), ("vae_b2a", "b2a"))  # prefix of each direction's tensors
# The adapter's name stands between lora_A and weight, or was dropped.
_LORA = re.compile(r"(?P<module>.+)\.(?P<half>lora_[AB])(\.\w+)?\.weight")
_SKIP = re.compile(r"decoder\.skip_conv_(?P<number>\d{1,3})")


def read_released(path: Path) -> Adapter:
    """Read a released file, paired (also the stochastic one) or unpaired.

    Skip convolutions keep their LoRA apart, because strength scales it.  An unpaired file trains `conv_in` by a LoRA
    only; it becomes a change of the base's weight, which is not in the file.

    Returns:
        The adapter: tensors float32 and named as in `OneStepGenerator`, and a card that names no base and no prompts.

    Raises:
        ValueError: the file is an unsafe pickle, is damaged, or has neither format.
    """
    content = read_pickle(path)
    keys = set(content) if isinstance(content, dict) else set()
    for kind, read in ((PAIRED, _read_paired), (UNPAIRED, _read_unpaired)):
        if keys.issuperset(kind):
            _check_types(content, kind, path)
            return read(content, path)
    near, missing = min((("paired", PAIRED), ("unpaired", UNPAIRED)), key=lambda kind: len(set(kind[1]) - keys))
    raise ValueError(
        f"{path} is not a released checkpoint: looked for the keys of a paired or an unpaired one; nearest is {near}, "
        f"without {', '.join(k for k in missing if k not in keys)}. Give a released .pkl, or an adapter folder of ours."
    )


def _read_paired(content: Mapping[str, Any], path: Path) -> Adapter:
    tensors = {}
    for key, tensor in content["state_dict_unet"].items():
        # The stochastic file holds the pretrained twin too; the base has it.
        if key.startswith("conv_in.conv_in_pretrained."):
            continue
        first = re.fullmatch(r"conv_in\.(?:conv_in_curr\.)?(weight|bias)", key)
        name = f"conv_in.trained.{first[1]}" if first else _lora_name(key)
        if name is None:
            raise ValueError(
                f"{path} holds a tensor that no released trainer writes: {readable(key)} in state_dict_unet."
            )
        tensors[f"unet.{name}"] = tensor
    tensors.update(_vae_tensors(content["state_dict_vae"], "a2b"))
    card = _card(
        content,
        path,
        task="paired",
        directions=("a2b",),
        alpha_unet=ALPHA,
        input_range="[0, 1]",
        targets=content["unet_lora_target_modules"],
    )
    return Adapter(_floats(tensors, path), card, str(path))


def _read_unpaired(content: Mapping[str, Any], path: Path) -> Adapter:
    tensors, conv_in = {}, {}
    for part in ("sd_encoder", "sd_decoder", "sd_other"):
        for key, tensor in content[part].items():
            name = _lora_name(key)
            if name is None:
                raise ValueError(f"{path} holds a tensor that no released trainer writes: {readable(key)} in {part}.")
            if name.startswith("conv_in."):
                conv_in[name.split(".")[1]] = tensor
            else:
                tensors[f"unet.{name}"] = tensor
    # Both wrappers hold the whole VAE of both directions; each half is read from its own wrapper.
    for part, half in (("sd_vae_enc", "encoder."), ("sd_vae_dec", "decoder.")):
        for prefix, direction in (("vae.", "a2b"), ("vae_b2a.", "b2a")):
            own = {k.removeprefix(prefix): t for k, t in content[part].items() if k.startswith(prefix + half)}
            tensors.update(_vae_tensors(own, direction))
    targets = [*content["l_target_modules_encoder"], *content["l_target_modules_decoder"], *content["l_modules_others"]]
    card = _card(
        content,
        path,
        task="unpaired",
        directions=("a2b", "b2a"),
        alpha_unet=float(content["rank_unet"]),
        input_range="[-1, 1]",
        targets=list(dict.fromkeys(targets)),
    )
    return Adapter(_floats(tensors, path), card, str(path), _conv_delta(_floats(conv_in, path), path))


def _floats(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    check_weights(tensors, str(path))
    return {name: tensor.float() for name, tensor in tensors.items()}


def _conv_delta(lora: Mapping[str, Tensor], path: Path) -> Tensor:
    """``B A`` of a convolution's LoRA at scale 1 (alpha = rank), ``(C_out, C_in, k, k)``."""
    if not lora:
        return torch.zeros(())  # conv_in was not among the targets: the base's own
    down, up = (lora[half].shape if half in lora else () for half in ("lora_A", "lora_B"))
    if len(lora) != 2 or len(down) != 4 or len(up) != 4 or up[1:] != (down[0], 1, 1):
        raise ValueError(f"{path} is damaged: conv_in needs lora_A and lora_B of one rank.")
    if up[0] * math.prod(down[1:]) > MAX_CONV_IN:
        raise ValueError(f"{path} is refused: its conv_in has more than {MAX_CONV_IN:,} weights.")
    product = lora["lora_B"].flatten(1) @ lora["lora_A"].flatten(1)
    return product.unflatten(1, lora["lora_A"].shape[1:])


def _vae_tensors(state: Mapping[str, Tensor], direction: str) -> Iterator[tuple[str, Tensor]]:
    """LoRA and skip convolutions of a VAE; its frozen weights are left to the base."""
    for key, tensor in state.items():
        name = _lora_name(key)
        skip = _SKIP.match(key)
        if skip:
            rest = (name or key)[skip.end() :]
            yield f"autoencoders.{direction}.skip_convs.{int(skip['number']) - 1}{rest}", tensor
        elif name is not None:
            yield f"autoencoders.{direction}.vae.{name}", tensor


def _lora_name(key: str) -> str | None:
    lora = _LORA.fullmatch(key)
    return f"{lora['module']}.{lora['half']}.default.weight" if lora else None


def _without(targets: Iterable[str], last_part: str) -> tuple[str, ...]:
    return tuple(t for t in targets if not re.fullmatch(last_part, t.rpartition(".")[2]))


def _card(
    content: Mapping[str, Any],
    path: Path,
    task: str,
    directions: tuple[Direction, ...],
    alpha_unet: float,
    input_range: Range,
    targets: Sequence[str],
) -> AdapterCard:
    try:
        settings = OneStepSettings(
            directions=directions,
            rank_unet=content["rank_unet"],
            rank_vae=content["rank_vae"],
            alpha_unet=alpha_unet,
            alpha_vae=ALPHA,
            skips=True,
            skip_init=1e-5,
            input_range=input_range,
            unet_targets=_without(targets, r"conv_in"),
            vae_targets=_without(content["vae_lora_target_modules"], r"skip_conv_\d+"),
            skip_lora=True,
        )
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    # Both released paired models draw from lines.
    run = RunFacts(task=task, source="released", resolution="tiles" if task == "paired" else "lift")
    return AdapterCard(settings=settings, prompts={}, run=run)


def _check_types(content: Mapping[str, Any], keys: Iterable[str], path: Path) -> None:
    for key in keys:
        value = content[key]
        if key.startswith("rank_"):
            wanted = str(LIMITS["rank_unet"])
            fits = LIMITS["rank_unet"].holds(value)
        elif key.startswith(("sd_", "state_dict_")):
            wanted = "a dict of tensors"
            pairs = value.items() if isinstance(value, dict) else [(None, None)]
            fits = all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in pairs)
        else:
            wanted, fits = "a list of names", isinstance(value, list) and all(isinstance(name, str) for name in value)
        if not fits:
            raise ValueError(f"{path} is not a released checkpoint: {key} should be {wanted}.")


def to_released(generator: "OneStepGenerator", stochastic: bool = False) -> tuple[dict[str, Any], list[str]]:
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
        ValueError: the format fixes another input range, has no such directions, or no place for a branch or gates; or
            LoRA is merged.
    """
    generator.check_unmerged()
    settings = generator.settings
    paired = len(generator.directions) == 1
    wanted = "[0, 1]" if paired else "[-1, 1]"
    if generator.directions[0] != "a2b":
        raise ValueError(f"A released file of one direction holds a2b; this generator has {generator.directions}.")
    if settings.prompt_gates:
        raise ValueError("No released format holds gates: this generator's prompt gates its autoencoder's LoRA.")
    if settings.input_range != wanted:
        raise ValueError(
            f"A released {'paired' if paired else 'unpaired'} file is fed with images in {wanted}; this generator was "
            f"trained with input_range {settings.input_range}."
        )
    if settings.conditioning != "direct":
        raise ValueError(f"No released format holds a branch: this generator has {settings.conditioning}.")
    if stochastic and not paired:
        raise ValueError("Only the paired format has a stochastic kind; this generator has two directions.")
    lost = [f"the prompts ({'; '.join(generator.prompts.values())})"] if generator.prompts else []
    if settings.frozen_dtype != "float32":
        lost.append(f"that the base's weights were rounded to {settings.frozen_dtype} in training")
    autoencoder = generator.autoencoder("a2b")
    skips = [f"skip_conv_{k}" for k in range(1, len(autoencoder.skip_channels) + 1)]
    common = {
        "rank_unet": settings.rank_unet,
        "rank_vae": settings.rank_vae,
        "vae_lora_target_modules": [*settings.vae_targets, *skips],
    }
    if paired:
        return {**common, **_paired(generator, stochastic)}, lost
    return {**common, **_unpaired(generator, lost)}, lost


def _paired(generator: "OneStepGenerator", stochastic: bool) -> dict[str, Any]:
    conv_in = generator.conv_in
    kinds = {"conv_in_pretrained.": conv_in.pretrained, "conv_in_curr.": conv_in.trained}
    if not stochastic:
        kinds = {"": conv_in.trained}
    unet = {f"conv_in.{kind}{k}": float_copy(t) for kind, conv in kinds.items() for k, t in conv.state_dict().items()}
    settings = generator.settings
    for module, half, tensor in lora_tensors(generator.unet, settings.alpha_unet / ALPHA):
        unet[f"{module}.{half}.default.weight"] = tensor
    vae = {k: t for k, t in _vae(generator, "a2b").items() if "lora" in k or "skip" in k}
    return {
        "unet_lora_target_modules": list(settings.unet_targets),
        "state_dict_unet": unet,
        "state_dict_vae": vae,
    }


def _unpaired(generator: "OneStepGenerator", lost: list[str]) -> dict[str, Any]:
    settings = generator.settings
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}, "other": {}}
    conv_in = [("conv_in", half, tensor) for half, tensor in _conv_in_lora(generator, lost).items()]
    for module, half, tensor in [*conv_in, *lora_tensors(generator.unet, settings.alpha_unet / settings.rank_unet)]:
        first = module.partition(".")[0]
        part = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder"}.get(first, "other")
        parts[part][f"{module}.{half}.weight"] = tensor
    modules = {part: list(dict.fromkeys(k.partition(".lora_")[0] for k in held)) for part, held in parts.items()}
    both = {
        f"{prefix}.{name}": tensor for prefix, direction in BOTH for name, tensor in _vae(generator, direction).items()
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


def _conv_in_lora(generator: "OneStepGenerator", lost: list[str]) -> dict[str, Tensor]:
    """The change of `conv_in`'s weight as ``B A`` of the UNet's rank."""
    conv, rank = generator.conv_in, generator.settings.rank_unet
    change = float_copy(conv.trained.weight) - float_copy(conv.pretrained.weight)
    u, s, v = torch.linalg.svd(change.flatten(1).double(), full_matrices=False)
    keep = min(rank, len(s))
    down, up = change.new_zeros(rank, change[0].numel()), change.new_zeros(len(change), rank)
    down[:keep], up[:, :keep] = (s[:keep].sqrt()[:, None] * v[:keep]).float(), (u[:, :keep] * s[:keep].sqrt()).float()
    rest = float(s[keep:].norm() / s.norm()) if s.norm() else 0.0
    if rest > 1e-6:
        lost.append(f"{rest:.1%} of the change of conv_in's weight (rank {rank} is too low for it)")
    bias = float(
        (float_copy(conv.trained.get_parameter("bias")) - float_copy(conv.pretrained.get_parameter("bias"))).abs().max()
    )
    if bias:
        lost.append(f"the change of conv_in's bias (up to {bias:.2g})")
    return {"lora_A": down.view(rank, *change.shape[1:]), "lora_B": up.view(len(change), rank, 1, 1)}


def _vae(generator: "OneStepGenerator", direction: Direction) -> dict[str, Tensor]:
    """A direction's whole VAE under the released names, its skip convolutions with a LoRA, idle if there was none."""
    settings = generator.settings
    autoencoder = generator.autoencoder(direction)
    factor = settings.alpha_vae / ALPHA

    def renamed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        return name.replace(".default.", ".vae_skip."), float_copy(tensor) * (factor if ".lora_B." in f".{name}" else 1)

    held = dict(renamed(name, tensor) for name, tensor in autoencoder.vae.state_dict().items())
    for k, (weight, down, up) in enumerate(_skips(autoencoder, settings.rank_vae, renamed), start=1):
        held[f"decoder.skip_conv_{k}.base_layer.weight"] = weight
        held[f"decoder.skip_conv_{k}.lora_A.vae_skip.weight"] = down
        held[f"decoder.skip_conv_{k}.lora_B.vae_skip.weight"] = up
    return held


def _skips(
    autoencoder: "SkipAutoencoder", rank: int, renamed: Callable[[str, Tensor], tuple[str, Tensor]]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(weight, lora_A, lora_B) of every skip convolution, coarsest first; weights of zero where there are no skips."""
    draw = torch.Generator().manual_seed(0)
    for k, (c_in, c_out) in enumerate(autoencoder.skip_channels):
        conv = autoencoder.skip_convs[k].state_dict() if len(autoencoder.skip_convs) else {}
        own = dict(renamed(name, tensor) for name, tensor in conv.items())
        weight = own.get("base_layer.weight", own.get("weight"))
        # B = 0 is a LoRA without effect; were A zero too, it could not train.
        idle = torch.randn(rank, c_in, 1, 1, generator=draw) / rank, torch.zeros(c_out, rank, 1, 1)
        yield (
            torch.zeros(c_out, c_in, 1, 1) if weight is None else weight,
            own.get("lora_A.vae_skip.weight", idle[0]),
            own.get("lora_B.vae_skip.weight", idle[1]),
        )
