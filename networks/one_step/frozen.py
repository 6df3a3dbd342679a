"""Frozen weights in half of the memory."""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def store_in_bfloat16(module: nn.Module, keep: nn.Module | None = None) -> None:
    """Keep the frozen weights of convolutions and linear layers as bfloat16; in place.

    Under bfloat16 autocast they are used as they lie.  Elsewhere each call makes a float32 copy, which a backward pass
    keeps from forward to backward: float32 training saves memory only with checkpointing.  Norms and biases, a
    thousandth of the weights, stay float32.

    Args:
        module: network whose trained weights require a gradient and whose frozen ones do not.
        keep: a layer of it that stays as it is.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.requires_grad and layer is not keep:
            layer.weight.data = layer.weight.data.to(torch.bfloat16)  # the parameter may be shared: it stays the same
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: Any, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x)
    weight = layer.weight.to(x.dtype)
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(x, weight, layer.bias)
    return F.linear(x, weight, layer.bias)
