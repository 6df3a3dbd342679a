"""Refuses more processes than this machine has cores or GPUs for, before one of them is started."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from storage import cores, shortened

WORKERS_PER_CORE, ALWAYS_ALLOWED = 4, 16
# Set where something else than Lightning starts the processes, or says where the other machines are.
LAUNCHERS = ("LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "OMPI_COMM_WORLD_RANK", "LSB_JOBID")


def most_workers() -> int:
    """Processes that may read images on this machine: 4 per core, but 16 anywhere."""
    return max(ALWAYS_ALLOWED, WORKERS_PER_CORE * cores())


def devices_of(trainer: Mapping[str, Any]) -> int:
    """Processes that a training starts on each machine: one per device.

    Raises:
        ValueError: the setting is neither a number of devices nor the numbers of some.
    """
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    text = str(devices).strip()
    if text in ("auto", "-1"):
        return torch.cuda.device_count() if trainer["accelerator"] != "cpu" and torch.cuda.is_available() else 1
    if "," in text:  # cards by number; "3," is one
        return sum(bool(part.strip()) for part in text.split(","))
    if not text.isdecimal() or not int(text):
        raise ValueError(
            "trainer.devices must be a number of devices, numbers of cards such as 0,1 or auto, got "
            f"{shortened(devices)}."
        )
    return int(text)


def check_processes(trainer: Mapping[str, Any], workers: object) -> None:
    """Compare the processes of a training with this machine.

    Args:
        trainer: the parsed arguments of the Trainer.
        workers: ``num_workers`` of the data; None where it has none.

    Raises:
        ValueError: there are too few cores or GPUs; or other machines are asked for, and nothing says where they are.
    """
    launched = SLURMEnvironment.detect() or any(name in os.environ for name in LAUNCHERS)
    count, nodes = devices_of(trainer), trainer["num_nodes"]
    on_gpu = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
    have, what = (torch.cuda.device_count(), "GPUs") if on_gpu else (cores(), "cores")
    if not launched:
        if nodes > 1:
            raise ValueError(
                f"trainer.num_nodes is {nodes}, and nothing says where the other machines are: start the training with "
                "torchrun or SLURM, see docs/several-gpus.md."
            )
        if count > have:
            raise ValueError(
                f"trainer.devices is {count}, one process each, and there are {have} {what} to use: give at most "
                f"{have}."
            )
    if not isinstance(workers, int):
        return
    readers = workers * (1 if launched else count)
    if readers > most_workers():
        raise ValueError(
            f"data.init_args.num_workers is {workers}, which is {readers} processes that read images, for {cores()} "
            f"cores: give at most {most_workers() * workers // readers}."
        )
