"""Checks of weights that were read from a file, before a network takes them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from storage import shortened

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_weights(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that no training writes.

    Args:
        tensors: weights by name.
        where: the file, for the message.

    Raises:
        ValueError: a tensor holds integers, booleans or complex numbers, is sparse, or has a NaN or infinite value.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS or tensor.layout != torch.strided:
            raise ValueError(f"{where} is refused: its weight {readable(name)} holds {_kind(tensor)}, not floats.")
        if not is_finite(tensor):
            raise ValueError(
                f"{where} is refused: its weight {readable(name)} holds NaN or infinite values. Give the checkpoint "
                "of an earlier state."
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity; as float32, which networks compute in."""
    tensor = tensor.detach().float()
    # The sum of finite values may overflow, else it tells the same in a fraction of the time.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, network: str, reason: str) -> None:
    """Refuse tensors whose names, shapes or kinds of numbers are not those of a network's own.

    Args:
        found: tensors that were read.
        wanted: the network's own; may be on the meta device.
        where: the file, for the message.
        network: what they should fit, in words.
        reason: the usual reason, a sentence.

    Raises:
        ValueError: gives the first difference.
    """
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise ValueError(
            f"{where} does not fit {network}: {len(missing)} tensors missing{_first(missing)}, "
            f"{len(unknown)} unknown{_first(unknown)}. {reason}"
        )
    other = [name for name, tensor in found.items() if tensor.shape != wanted[name].shape]
    if other:
        name = min(other)
        raise ValueError(
            f"{where} does not fit {network}: {len(other)} tensors of another shape, first {name} "
            f"{tuple(found[name].shape)} where {tuple(wanted[name].shape)} is wanted. {reason}"
        )
    for name, tensor in found.items():
        # Floats of one width may stand for those of another; a counter is an integer in both.
        if tensor.dtype != wanted[name].dtype and not {tensor.dtype, wanted[name].dtype} <= set(FLOATS):
            kinds = [str(t.dtype).removeprefix("torch.") for t in (tensor, wanted[name])]
            raise ValueError(
                f"{where} does not fit {network}: {name} is of type {kinds[0]} where {kinds[1]} is wanted."
            )


def _first(names: list[str]) -> str:
    return f" (first {readable(names[0])})" if names else ""


def readable(name: str) -> str:
    """A tensor's name as it is; where it is none that a network has, quoted and cut."""
    return name if name.isprintable() and len(name) <= 200 else shortened(name)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
