"""Warns when translations stay too close to their inputs (identity collapse) or to each other (mode collapse)."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from evaluation.collapse import QUIET_UNTIL, Floors
from lightning_modules.callbacks.access import Split, module_of, split_of, tensorboards
from limits import check_settings
from metrics.scores import SCORES, log_key

IDENTITY, MODE = "identity_collapse", "mode_collapse"


class CollapseAlarm(Callback):
    """Compares the scores of `Evaluation` with floors, per direction, after every validation and on the test split.

    See `evaluation.collapse` for what is compared.

    A warning goes to the log and, as text, to TensorBoard; ``val_alarm/<name>_<direction>`` is logged as 0 or 1 each
    time.

    Args:
        truth_floor: share of the distance to the ground truth below which translations count as copies.
        shift_floor: share of the distance to the target domain below which they do.
        identity_floor: perceptual distance to the input below which they do, where nothing else is known.
        diversity_floor: distance to the nearest other output, relative to the inputs', below which outputs are alike.
        patience: validations in a row below a floor before the warning; on the test split, one result is enough.
        quiet_until: images seen in training before the first warning: an untrained model has moved nothing yet.
    """

    def __init__(
        self,
        truth_floor: float = 0.45,
        shift_floor: float = 0.3,
        identity_floor: float = 0.01,
        diversity_floor: float = 0.3,
        patience: int = 2,
        quiet_until: int = QUIET_UNTIL,
    ) -> None:
        check_settings(truth_floor=truth_floor, shift_floor=shift_floor, identity_floor=identity_floor)
        check_settings(diversity_floor=diversity_floor, patience=patience, quiet_until=quiet_until)
        self.floors = Floors(truth_floor, shift_floor, identity_floor, diversity_floor)
        self.patience, self.quiet_until = patience, quiet_until
        self.below: dict[str, int] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count for how many validations each direction was below a floor; warn from `patience` on."""
        if trainer.sanity_checking:
            return
        scalars: dict[str, float] = {}
        for name, direction, finding in self._findings(trainer, pl_module, "val"):
            key = f"{name}_{direction}"
            scalars[f"val_alarm/{key}"] = float(bool(finding))
            self.below[key] = self.below.get(key, 0) + 1 if finding else 0
            if finding and self.below[key] >= self.patience:
                self._warn(trainer, pl_module, f"{finding}, {self.below[key]} validations in a row.")
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=module_of(pl_module).images_seen)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn at once: a short run has too few validations for patience, and the test scores are reported."""
        split = split_of(trainer)
        for _, _, finding in self._findings(trainer, pl_module, split):
            if finding:
                state = f"with {Path(str(trainer.ckpt_path)).name}" if split == "best" else "at the end of the run"
                self._warn(trainer, pl_module, f"{finding}, on the test split {state}.")

    def _findings(self, trainer: Trainer, pl_module: LightningModule, split: Split) -> list[tuple[str, str, str]]:
        """Name of the alarm, direction, and what was found, empty where all is well."""
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        findings = []
        for direction in module_of(pl_module).generator.directions:
            known = {name: logged[key] for name in SCORES if (key := log_key(split, name, direction)) in logged}
            findings.append((IDENTITY, direction, self.floors.identity_collapse(direction, known)))
            findings.append((MODE, direction, self.floors.mode_collapse(direction, known)))
        return findings

    def _warn(self, trainer: Trainer, pl_module: LightningModule, message: str) -> None:
        if module_of(pl_module).images_seen < self.quiet_until:
            return
        rank_zero_warn(message)
        for writer in tensorboards(trainer):
            writer.add_text("val_alarm", message, module_of(pl_module).images_seen)

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Counts continue over a resume."""
        return {"below": self.below}

    def load_state_dict(self, state_dict: dict[str, dict[str, int]]) -> None:
        """Take the counts of the interrupted run."""
        self.below = dict(state_dict["below"])
