"""Silence messages of libraries that a user of this project cannot act on."""

import logging
import warnings

NOISE = (
    ".*does not have many workers.*",  # two cores are two cores
    "LightningCLI's args parameter",  # EXP=, BASE= and DATA= became its arguments
    r"Found \d+ module\(s\) in eval mode",  # the frozen base stays there on purpose
    "`isinstance.treespec, LeafSpec",  # Lightning against a newer torch
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",  # the same
    "The number of training batches .* is smaller than the logging interval",  # the first batch is always logged
    r"It is recommended to use .self\.log\(.*sync_dist",  # metrics gather first: all ranks log one value
)


def silence_libraries() -> None:
    """Filter the warnings in `NOISE`, and Lightning's advertisement, for the rest of the process."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
