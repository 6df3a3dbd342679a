"""Files of ``torch.save``, read without running anything that they hold."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch


def read_pickle(path: Path) -> Any:  # noqa: ANN401  # callers check what they got
    """Read a file of ``torch.save`` that holds tensors, numbers, strings, lists and dicts; nothing in it is run.

    Raises:
        ValueError: it holds anything else, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean that the file cannot be trusted or read
        # torch's own text advises to load it unsafely; only the name of what it would run is of use.
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would run {found[1]}" if found else "it is damaged, or no file of torch.save"
        raise ValueError(
            f"{path} was not read: {reason}. Of a pickle only tensors, numbers, strings, lists and dicts are accepted."
        ) from error
