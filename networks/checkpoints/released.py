"""The authors' released checkpoints (.pkl), paired and unpaired, under the names of this project.

Their trainers (arXiv 2403.12036, code of the authors) write a pickled dict of tensors, integers and lists of str; alpha
is not in it: 8 everywhere, except for the unpaired UNet, where it equals the rank.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
# The adapter's name stands between lora_A and weight, or was dropped.
_LORA = re.compile(r"(?P<module>.+)\.(?P<half>lora_[AB])(\.\w+)?\.weight")
_SKIP = re.compile(r"decoder\.skip_conv_(?P<number>\d+)")


def read_pickle(path: Path) -> Any:
    """Read a file of ``torch.save`` that holds tensors, numbers, strings, lists and dicts; nothing in it is run.

    Raises:
        ValueError: it holds anything else, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the pickle's protocol; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean that the file cannot be trusted or read
        # torch's own text advises to load it unsafely; only the name of what it would run is of use.
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would run {found[1]}" if found else "it is damaged, or no file of torch.save"
        raise ValueError(
            f"{path} was not read: {reason}. Of a pickle only tensors, numbers, strings, lists and dicts are accepted."
        ) from error


def read_released(path: Path) -> dict[str, Any]:
    """Read a released file, paired (also the stochastic one) or unpaired.

    Skip convolutions keep their LoRA apart, because strength scales it.  An unpaired file trains `conv_in` by a LoRA
    only; it becomes a change of the base's weight, which is not in the file.

    Returns:
        The fields of `Adapter`: ``tensors`` (float32, named as in `OneStepGenerator`), ``card`` and ``conv_in_delta``
        (None, or what to add to the base's ``conv_in.weight``).

    Raises:
        ValueError: the file is an unsafe pickle, is damaged, or has neither format.
    """
    content = read_pickle(path)
    keys = set(content) if isinstance(content, dict) else set()
    if keys.issuperset(PAIRED):
        _check_types(content, PAIRED, path)
        return _read_paired(content, path)
    if keys.issuperset(UNPAIRED):
        _check_types(content, UNPAIRED, path)
        return _read_unpaired(content, path)
    near, missing = min((("paired", PAIRED), ("unpaired", UNPAIRED)), key=lambda kind: len(set(kind[1]) - keys))
    raise ValueError(
        f"{path} is not a released checkpoint: looked for the keys of a paired or an unpaired one; nearest is {near}, "
        f"without {', '.join(k for k in missing if k not in keys)}. Give a released .pkl, or an adapter folder of ours."
    )


def _read_paired(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    tensors = {}
    for key, tensor in content["state_dict_unet"].items():
        # The stochastic file holds the pretrained twin too; the base has it.
        if key.startswith("conv_in.conv_in_pretrained."):
            continue
        first = re.fullmatch(r"conv_in\.(?:conv_in_curr\.)?(weight|bias)", key)
        name = f"conv_in.trained.{first[1]}" if first else _lora_name(key)
        if name is None:
            raise ValueError(f"{path} holds a tensor that no released trainer writes: {key} in state_dict_unet.")
        tensors[f"unet.{name}"] = tensor.float()
    tensors.update(_vae_tensors(content["state_dict_vae"], "a2b"))
    settings = {
        "directions": ["a2b"],
        "alpha_unet": ALPHA,
        "input_range": "[0, 1]",
        "unet_targets": _without(content["unet_lora_target_modules"], r"conv_in"),
    }
    return {"tensors": tensors, "card": _card("paired", settings, content), "conv_in_delta": None}


def _read_unpaired(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    tensors, conv_in = {}, {}
    for part in ("sd_encoder", "sd_decoder", "sd_other"):
        for key, tensor in content[part].items():
            name = _lora_name(key)
            if name is None:
                raise ValueError(f"{path} holds a tensor that no released trainer writes: {key} in {part}.")
            if name.startswith("conv_in."):
                conv_in[name.split(".")[1]] = tensor.float()
            else:
                tensors[f"unet.{name}"] = tensor.float()
    # Both wrappers hold the whole VAE of both directions; each is asked for its own half.
    for part, half in (("sd_vae_enc", "encoder."), ("sd_vae_dec", "decoder.")):
        for prefix, direction in (("vae.", "a2b"), ("vae_b2a.", "b2a")):
            own = {k.removeprefix(prefix): t for k, t in content[part].items() if k.startswith(prefix + half)}
            tensors.update(_vae_tensors(own, direction))
    targets = [*content["l_target_modules_encoder"], *content["l_target_modules_decoder"], *content["l_modules_others"]]
    settings = {
        "directions": ["a2b", "b2a"],
        "alpha_unet": float(content["rank_unet"]),
        "input_range": "[-1, 1]",
        "unet_targets": _without(dict.fromkeys(targets), r"conv_in"),
    }
    card = _card("unpaired", settings, content)
    return {"tensors": tensors, "card": card, "conv_in_delta": _conv_delta(conv_in, path)}


def _conv_delta(lora: Mapping[str, Tensor], path: Path) -> Tensor:
    """``B A`` of a convolution's LoRA at scale 1 (alpha = rank), ``(C_out, C_in, k, k)``."""
    if not lora:
        return torch.zeros(())  # conv_in was not among the targets: the base's own
    if lora.keys() != {"lora_A", "lora_B"} or lora["lora_A"].shape[0] != lora["lora_B"].shape[1]:
        raise ValueError(f"{path} is damaged: conv_in needs lora_A and lora_B of one rank.")
    product = lora["lora_B"].flatten(1) @ lora["lora_A"].flatten(1)
    return product.unflatten(1, lora["lora_A"].shape[1:])


def _vae_tensors(state: Mapping[str, Tensor], direction: str) -> Iterator[tuple[str, Tensor]]:
    """LoRA and skip convolutions of a VAE; its frozen weights are left to the base."""
    for key, tensor in state.items():
        name = _lora_name(key)
        skip = _SKIP.match(key)
        if skip:
            rest = (name or key)[skip.end() :]
            yield f"autoencoders.{direction}.skip_convs.{int(skip['number']) - 1}{rest}", tensor.float()
        elif name is not None:
            yield f"autoencoders.{direction}.vae.{name}", tensor.float()


def _lora_name(key: str) -> str | None:
    lora = _LORA.fullmatch(key)
    return f"{lora['module']}.{lora['half']}.default.weight" if lora else None


def _without(targets: Iterable[str], last_part: str) -> list[str]:
    return [t for t in targets if not re.fullmatch(last_part, t.rpartition(".")[2])]


def _card(task: str, settings: dict[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    common = {
        "rank_unet": content["rank_unet"],
        "rank_vae": content["rank_vae"],
        "alpha_vae": ALPHA,
        "skips": True,
        "skip_init": 1e-5,
        "vae_targets": _without(content["vae_lora_target_modules"], r"skip_conv_\d+"),
        "skip_lora": True,
    }
    return {"task": task, "source": "released", "settings": {**common, **settings}, "prompts": {}}


def _check_types(content: Mapping[str, Any], keys: Iterable[str], path: Path) -> None:
    for key in keys:
        value = content[key]
        if key.startswith("rank_"):
            wanted, fits = "a positive integer", isinstance(value, int) and value > 0
        elif key.startswith(("sd_", "state_dict_")):
            wanted = "a dict of tensors"
            fits = isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())
        else:
            wanted, fits = "a list of names", isinstance(value, list) and all(isinstance(name, str) for name in value)
        if not fits:
            raise ValueError(f"{path} is not a released checkpoint: {key} should be {wanted}.")
