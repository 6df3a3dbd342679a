"""Warns when a model returns its input, or the same picture for every input."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn


class CollapseAlarm(Callback):
    """Reads ``val/identity_gap_*`` and ``val/diversity_*`` after every validation.

    Args:
        identity_floor: perceptual distance from output to input below which the model only copies.
        diversity_floor: spread of the outputs relative to the inputs' below which they are all alike.
        patience: validations in a row below a floor before the warning.
    """

    def __init__(self, identity_floor: float = 0.01, diversity_floor: float = 0.1, patience: int = 2) -> None:
        self.floors = {"identity_gap": identity_floor, "diversity": diversity_floor}
        self.patience = patience
        self.below: dict[str, int] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count how often each figure was below its floor."""
        if trainer.sanity_checking:
            return
        names = {
            "identity_gap": "identity collapse: outputs equal their inputs",
            "diversity": "mode collapse: outputs are all alike",
        }
        for key, value in trainer.callback_metrics.items():
            kind, _, direction = key.removeprefix("val/").rpartition("_")
            if kind not in self.floors:
                continue
            self.below[key] = self.below.get(key, 0) + 1 if float(value) < self.floors[kind] else 0
            if self.below[key] >= self.patience:
                rank_zero_warn(
                    f"{names[kind]} in {direction} ({key} = {float(value):.4f}, floor {self.floors[kind]}, "
                    f"{self.below[key]} validations in a row)."
                )

    def state_dict(self) -> dict[str, Any]:
        """Counts go on over a resume."""
        return {"below": self.below}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts of the interrupted run."""
        self.below = dict(state_dict["below"])
