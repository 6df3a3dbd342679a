"""Ranges of the numeric settings, by name: checked where a class is built, and by commands before torch is imported.

Every package may import this module.
"""

import math
import sys
from dataclasses import dataclass

from storage import shortened


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have.

    Attributes:
        low: the smallest.
        high: the largest.
        whole: whether it must be an integer.
        above: whether it must be larger than `low`.
        infinite: whether infinity is meant by it: no limit.
        optional: whether it may be None.
        but_zero: whether 0 is left out.
    """

    low: float
    high: float = math.inf
    whole: bool = False
    above: bool = False
    infinite: bool = False
    optional: bool = False
    but_zero: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is within the range.

        Examples:
            >>> Range(1, 8, whole=True).holds(8), Range(1, 8, whole=True).holds(2.5)
            (True, False)
        """
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        enough = value > self.low if self.above else value >= self.low  # NaN compares false
        largest = math.inf if self.whole or self.infinite else sys.float_info.max  # an integer may exceed every float
        return enough and value <= self.high and abs(value) <= largest and not (self.but_zero and value == 0)

    def __str__(self) -> str:
        if not self.whole and not self.above and self.high < math.inf:
            return f"a number in [{self.low}, {self.high}]"
        words = "an integer" if self.whole else "a number" if self.infinite else "a finite number"
        if self.low > -math.inf:
            words += f" above {self.low}" if self.above else f" of at least {self.low}"
        words += f" and at most {self.high}" if self.high < math.inf else ""
        return words + (", but not 0" if self.but_zero else "") + (", or null" if self.optional else "")


SIDE = 8192  # pixels; an image of this size takes 800 MB
WEIGHT = Range(0)
ANY_NUMBER = Range(-math.inf)
ABOVE_ZERO = Range(0, above=True)

LIMITS = {
    # training
    "max_images": Range(1, whole=True, optional=True),
    "warmup_images": Range(0, whole=True),
    "accumulate": Range(1, 65536, whole=True),
    "clip_norm": Range(0, above=True, infinite=True),
    "skip_lr_factor": WEIGHT,
    "cooldown": Range(0, 1),
    "real_label": Range(0, 1),
    "lr": Range(0),
    "seed_everything": Range(0, 2**32 - 1, whole=True),
    # data
    "resize": Range(1, SIDE, whole=True),
    "crop": Range(1, SIDE, whole=True),
    "eval_size": Range(1, SIDE, whole=True),
    "batch_size": Range(1, 65536, whole=True),
    "eval_batch_size": Range(1, 65536, whole=True),
    "num_workers": Range(0, 1024, whole=True),
    "seed": Range(0, 2**63 - 1, whole=True),
    "train_scenes": Range(1, 10**7, whole=True),
    "val_scenes": Range(1, 10**7, whole=True),
    "test_scenes": Range(1, 10**7, whole=True),
    "noops": Range(0, 1),
    "train_limit": Range(1, whole=True, optional=True),
    # networks
    "rank_unet": Range(1, 4096, whole=True),
    "rank_vae": Range(1, 4096, whole=True),
    "prompt_gates": Range(0, 4096, whole=True),
    "alpha_unet": Range(0, above=True, optional=True),
    "alpha_vae": ABOVE_ZERO,
    "width": Range(1, 4096, whole=True),
    "blocks": Range(0, 64, whole=True),
    "layers": Range(0, 16, whole=True),
    # callbacks
    "images": Range(1, 64, whole=True),
    "patience": Range(1, 10**6, whole=True),
    "quiet_until": Range(0, whole=True),
    "truth_floor": Range(0, 1),
    "shift_floor": Range(0, 1),
    "identity_floor": Range(0),
    "diversity_floor": Range(0),
}
"""The range of a setting by its name, which is the name of a constructor's argument."""

OF_TRAINER = {
    "accumulate_grad_batches": Range(1, whole=True),
    "check_val_every_n_epoch": Range(1, whole=True, optional=True),
    "limit_train_batches": Range(0, above=True, optional=True),
    "log_every_n_steps": Range(0, whole=True, optional=True),
    "max_epochs": Range(-1, whole=True, optional=True, but_zero=True),
    "max_steps": Range(-1, whole=True, but_zero=True),
    "num_nodes": Range(1, whole=True),
    "num_sanity_val_steps": Range(-1, whole=True, optional=True),
    "val_check_interval": Range(0, above=True, optional=True),
}
"""The same of Lightning's Trainer, which takes some of the others without a word."""


def check_settings(**values: object) -> None:
    """Check numeric settings by their names in `LIMITS`.

    Raises:
        ValueError: one is out of its range; names it, the range and the value.

    Examples:
        >>> check_settings(batch_size=0)
        Traceback (most recent call last):
        ValueError: batch_size must be an integer of at least 1 and at most 65536, got 0.
    """
    for name, value in values.items():
        check_range(name, value, LIMITS[name])


def check_range(name: str, value: object, wanted: Range) -> None:
    """Refuse a value out of its range.

    Raises:
        ValueError: names the setting, the range and the value.
    """
    if not wanted.holds(value):
        raise ValueError(f"{name} must be {wanted}, got {shortened(value)}.")
