"""In which precision and memory layout a network is fastest, by its size and the hardware."""

import torch
from torch import nn

LARGE = 50_000_000
"""Weights from which a network gains from bfloat16 and channels last on a CPU; a smaller one saves nothing."""


def is_large(network: nn.Module) -> bool:
    """Whether a network has so many weights that lower precision and memory layout pay."""
    return sum(weight.numel() for weight in network.parameters()) > LARGE


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 faster than in float32: recent GPUs, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # no public way in torch 2.6
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
