"""The device that inference runs on."""

import torch


def pick_device(name: str) -> torch.device:
    """The device to run on; "auto" is the accelerator that torch sees, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(
            f"No device {name!r} here ({reason}). Use cpu, or auto for the accelerator if there is one."
        ) from error
    return device
