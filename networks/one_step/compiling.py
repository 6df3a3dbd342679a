"""`torch.compile` of the generator's repeated blocks, for training on CUDA.

Whole networks take minutes to compile.  Of these blocks each kind is compiled once for every shape of its inputs and
weights, and the code serves all blocks of that kind, of both directions and of every pass.
"""

from collections.abc import Callable
from functools import cache

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from networks.one_step.lora import call_modulated, current_modulation, replace_forward

BLOCKS = (ResnetBlock2D, BasicTransformerBlock)  # the smallest that repeat: without checkpointing inside
VARIANTS = 256
"""Compiled variants of one function, which torch limits to 8: kinds of blocks, their channels and resolutions, and the
batches that UNet and VAE see (on SD-Turbo 67 with CycleGAN-Turbo, 34 with pix2pix-Turbo)."""


def compile_repeated_blocks(network: nn.Module) -> int:
    """Compile the forward of every repeated block where gradients are recorded, at its first call; in place.

    Names of modules and tensors stay.  Without gradients (validation: images of any size) blocks run as they are.

    Returns:
        The number of blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        replace_forward(block, _forward)
    return len(blocks)


def _forward(block: nn.Module, *args: Tensor | None, **kwargs: object) -> Tensor:
    if not torch.is_grad_enabled():
        return _class_forward(block, *args, **kwargs)
    # At each call: torch keeps settings by thread, and backward, which recomputes blocks, may have its own.
    torch._dynamo.config.cache_size_limit = VARIANTS
    return _compiled()(current_modulation(), _class_forward, block, *args, **kwargs)


def _class_forward(block: nn.Module, *args: Tensor | None, **kwargs: object) -> Tensor:
    output: Tensor = type(block).forward(block, *args, **kwargs)
    return output


@cache
def _compiled(backend: str | Callable[..., object] = "inductor") -> Callable[..., Tensor]:
    # fullgraph: what cannot be traced is an error, not a slow step.  Training crops have one size: no dynamic shapes.
    return torch.compile(call_modulated, fullgraph=True, dynamic=False, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Compile a line for a device, which takes some seconds.

    Raises:
        ValueError: it fails, mostly since a compiler is missing.
    """
    try:
        torch.compile(_line, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # of whatever kind: compilers fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        needed = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler (g++) and Python's headers"
        raise ValueError(
            f"compile_blocks=true: torch.compile does not work here for {device.type} ({reason}). "
            f"Install what it needs, {needed}, or leave compile_blocks out."
        ) from error


def _line(x: Tensor) -> Tensor:
    return x.sigmoid() + x
