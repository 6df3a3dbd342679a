"""The global random states of every rank, as plain types that a checkpoint may hold."""

import random
from typing import Any

import numpy as np
import torch


def random_states() -> list[dict[str, Any]]:
    """States of torch, its CUDA devices, numpy and python, one entry per rank; every rank must call this."""
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    version, internal, gauss = random.getstate()
    own = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [name, keys.tolist(), *rest],
        "python": [version, list(internal), gauss],
    }
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, own)
    return states


def set_random_states(states: list[dict[str, Any]], rank: int) -> None:
    """Restore what `random_states` returned; with more ranks or devices than before, the first ones' are reused.

    Args:
        states: one entry per rank of the interrupted run.
        rank: this process.
    """
    state = states[rank % len(states)]
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda.cpu(), device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
