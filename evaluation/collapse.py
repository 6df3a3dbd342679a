"""Tells from scores whether translations stay near their inputs, or are alike; the collapse alarm and the report ask.

*Identity collapse* is measured relative to the difference of the two domains, since no absolute threshold works: a
lossy autoencoder alone changes an image as much as fog does.

- Where the data has ground truth: ``identity_gap / (identity_gap + lpips_truth)``.  0 is a copy, 1 the ground truth;
  above a half, translations are nearer to the ground truth than to their inputs.
- Else ``domain_shift``, the share of the distance between the domains: 0 is a copy, 1 the target domain.  Blur alone
  moves an image some of the way.
- Where there are too few images to tell the domains apart, ``identity_gap`` itself, which finds exact copies only.

*Mode collapse* is measured by ``diversity``: 0 where a few images serve all inputs, 1 where outputs differ as inputs
do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUIET_UNTIL = 200  # images seen in training


@dataclass(frozen=True)
class Floors:
    """Scores below which translations have collapsed.

    Attributes:
        truth: share of the distance to the ground truth.
        shift: share of the distance to the target domain.
        identity: perceptual distance to the input; below it, translations count as copies.
        diversity: distance to the nearest other output, relative to the inputs'.
        success: share of the images that show what their captions ask for, where that is known; decides alone.
    """

    truth: float = 0.45
    shift: float = 0.3
    identity: float = 0.01
    diversity: float = 0.3
    success: float = 0.15

    def identity_collapse(self, direction: str, scores: Mapping[str, Any]) -> str:
        """What was found, "" where all is well or nothing is known.

        Args:
            direction: "a2b" or "b2a".
            scores: by name.
        """
        success = scores.get("edit_success")
        if success is not None:
            measured = f"edit_success {success:.2f}, floor {self.success}"
            return "" if success >= self.success else f"{direction} does not follow the captions ({measured})"
        gap, truth, shift = (scores.get(name) for name in ("identity_gap", "lpips_truth", "domain_shift"))
        found = ""
        if gap is not None and truth is not None and gap + truth > 0:
            share = gap / (gap + truth)
            if share < self.truth:
                found = f"identity_gap {gap:.3f}, lpips_truth {truth:.3f}: share {share:.2f}, floor {self.truth}"
        elif shift is not None:
            if shift < self.shift:
                found = f"domain_shift {shift:.2f}, floor {self.shift}"
        elif gap is not None and gap < self.identity:
            found = f"identity_gap {gap:.4f}, floor {self.identity}"
        if not found:
            return ""
        if gap is None or gap < self.identity:
            return f"identity collapse in {direction}: translations stay too close to their inputs ({found})"
        target = direction[-1].upper()
        return f"identity collapse in {direction}: images changed, but did not move towards {target} ({found})"

    def mode_collapse(self, direction: str, scores: Mapping[str, Any]) -> str:
        """What was found, "" where all is well or nothing is known; arguments as for `identity_collapse`."""
        diversity = scores.get("diversity")
        if diversity is None or diversity >= self.diversity:
            return ""
        measured = f"diversity {diversity:.3f}, floor {self.diversity}"
        return f"mode collapse in {direction}: translations are too close to each other ({measured})"
