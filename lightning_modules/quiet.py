"""Silence messages of libraries that a user of this project cannot act on."""

import logging
import warnings
from pathlib import Path

import lightning

NOISE = (
    ".*does not have many workers.*",  # num_workers is the user's choice
    "LightningCLI's args parameter",  # EXP=, BASE= and DATA= became its arguments
    r"Found \d+ module\(s\) in eval mode",  # the frozen base stays in evaluation mode on purpose
    "Checkpoint directory .* exists and is not empty",  # a resumed run continues in its folder
    "`isinstance.treespec, LeafSpec",  # Lightning against a newer torch
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",  # the same
    "The number of training batches .* is smaller than the logging interval",  # the first batch is always logged
    r"It is recommended to use .self\.log\(.*sync_dist",  # metrics gather first: all ranks log one value
)


LIBRARY = Path(lightning.__file__).parent


def silence_libraries() -> None:
    """Filter the warnings in `NOISE` and Lightning's own info messages, for the rest of the process."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    # A logger's filter sees the records made there, a handler's those of every module below.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_not_of_lightning)
    for name in ("lightning.fabric", "lightning.pytorch"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_not_of_lightning)


def _not_of_lightning(record: logging.LogRecord) -> bool:
    """Whether a message is a warning, or our own through Lightning's logger (``rank_zero_info``)."""
    return record.levelno >= logging.WARNING or LIBRARY not in Path(record.pathname).parents
