"""Resuming: a checkpoint holds the whole state of a training, and optimisers take the settings of the configuration."""

import random
from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.random_states import set_random_states
from storage import shortened

# Entries that Lightning and `TranslationModule` write, and their types.
ENTRIES: dict[str, type] = {
    "progress": dict,
    "rng": list,
    "gradients": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
}


def check_resumable(checkpoint: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint that lacks part of a training's state, or holds it in another form.

    Args:
        checkpoint: as `read_checkpoint` returned it.
        where: the file, for the message.

    Raises:
        ValueError: names the entry.
    """
    for name, kind in ENTRIES.items():
        if not isinstance(checkpoint.get(name), kind):
            found = f"holds {shortened(checkpoint[name])}" if name in checkpoint else "is missing"
            raise _refused(where, f"its entry {name!r} {found}")
    for name in ("images_seen", "batches_seen"):
        count = checkpoint["progress"].get(name)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise _refused(where, f"progress.{name} is {shortened(count)}")
    if not all(isinstance(gradient, Tensor) for gradient in checkpoint["gradients"].values()):
        raise _refused(where, "'gradients' must hold tensors")
    for state in checkpoint["optimizer_states"]:
        if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
            raise _refused(where, f"an optimiser's state is {shortened(state)}")
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        for rank in range(len(checkpoint["rng"])):
            set_random_states([{**state, "cuda": []} for state in checkpoint["rng"]], rank)
        if not checkpoint["rng"]:
            raise ValueError("none is there")
    except Exception as error:  # each generator raises in its own way
        raise _refused(where, f"its random states are damaged ({shortened(str(error))})") from error
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def configured(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state to restore, with the optimiser's own settings in place of the saved ones; a hook of torch.

    The arguments of its class are settings; whatever else is in its groups is state.  The learning rate stays the saved
    one until the next step sets it by the schedule.
    """
    settings = signature(type(optimizer)).parameters.keys() - {"params", "lr"}
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return state | {"param_groups": [saved | {k: own[k] for k in settings & own.keys()} for saved, own in groups]}


def _refused(where: str, reason: str) -> ValueError:
    return ValueError(
        f"{where} cannot be resumed: {reason}. Its adapter may still translate, and a new training may start from it "
        "(init=)."
    )
