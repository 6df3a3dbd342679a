"""How a benchmark was run: the command line and the device, as its JSON names them."""

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence

import torch


def typed_command(parser: argparse.ArgumentParser, args: Sequence[str] | None) -> str:
    """The command line, such as ``python -m benchmarks.scenes --size 64``; `args` None reads that of this process."""
    return f"{parser.prog} {shlex.join(sys.argv[1:] if args is None else args)}".rstrip()


def device_name(device: torch.device | None = None) -> str:
    """The name of a GPU, else the architecture of the CPU; None is the first GPU where there is one."""
    use_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return torch.cuda.get_device_name() if use_gpu else f"{platform.machine()} CPU"
