"""Warns when translations stay too close to their inputs (identity collapse) or to each other (mode collapse)."""

from collections.abc import Mapping
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.callbacks.access import Split, module_of, split_of, tensorboards
from limits import check_settings
from metrics.scores import SCORES, log_key

IDENTITY, MODE = "identity_collapse", "mode_collapse"


class CollapseAlarm(Callback):
    """Compares the scores of `Evaluation` with floors, per direction, after every validation and on the test split.

    *Identity collapse* is measured relative to the difference of the two domains, since no absolute threshold works: a
    lossy autoencoder alone changes an image as much as fog does.

    - Where the data has ground truth: ``identity_gap / (identity_gap + lpips_truth)``.  0 is a copy, 1 the ground
      truth; above a half, translations are nearer to the ground truth than to their inputs.
    - Else ``domain_shift``, the share of the distance between the domains: 0 is a copy, 1 the target domain.  Blur
      alone moves an image some of the way.
    - Where there are too few images to tell the domains apart, ``identity_gap`` itself, which finds exact copies only.

    *Mode collapse* is measured by ``diversity``: 0 where a few images serve all inputs, 1 where outputs differ as
    inputs do.

    A warning goes to the log and, as text, to TensorBoard; ``alarm/<name>_<direction>`` is logged as 0 or 1 each time.

    Args:
        truth_floor: share of the distance to the ground truth below which translations count as copies.
        shift_floor: share of the distance to the target domain below which they do.
        identity_floor: perceptual distance to the input below which they do, where nothing else is known.
        diversity_floor: distance to the nearest other output, relative to the inputs', below which outputs are alike.
        patience: validations in a row below a floor before the warning; on the test split, one result is enough.
    """

    def __init__(
        self,
        truth_floor: float = 0.45,
        shift_floor: float = 0.3,
        identity_floor: float = 0.01,
        diversity_floor: float = 0.3,
        patience: int = 2,
    ) -> None:
        check_settings(truth_floor=truth_floor, shift_floor=shift_floor, identity_floor=identity_floor)
        check_settings(diversity_floor=diversity_floor, patience=patience)
        self.truth_floor, self.shift_floor, self.identity_floor = truth_floor, shift_floor, identity_floor
        self.diversity_floor = diversity_floor
        self.patience = patience
        self.below: dict[str, int] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count for how many validations each direction was below a floor; warn from `patience` on."""
        if trainer.sanity_checking:
            return
        scalars: dict[str, float] = {}
        for name, direction, finding in self._findings(trainer, pl_module, "val"):
            key = f"{name}_{direction}"
            scalars[f"alarm/{key}"] = float(bool(finding))
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
            stays, alike = self._identity(known), self._mode(known)
            findings.append((IDENTITY, direction, stays and f"identity collapse in {direction}: {stays}"))
            findings.append((MODE, direction, alike and f"mode collapse in {direction}: {alike}"))
        return findings

    def _identity(self, known: Mapping[str, float]) -> str:
        gap, truth, shift = (known.get(name) for name in ("identity_gap", "lpips_truth", "domain_shift"))
        too_close = "translations stay too close to their inputs"
        if gap is not None and truth is not None and gap + truth > 0:
            share = gap / (gap + truth)
            measured = f"identity_gap {gap:.3f}, lpips_truth {truth:.3f}: share {share:.2f}, floor {self.truth_floor}"
            return f"{too_close} ({measured})" if share < self.truth_floor else ""
        if shift is not None:
            measured = f"domain_shift {shift:.2f}, floor {self.shift_floor}"
            return f"{too_close} ({measured})" if shift < self.shift_floor else ""
        if gap is not None and gap < self.identity_floor:
            return f"{too_close} (identity_gap {gap:.4f}, floor {self.identity_floor})"
        return ""

    def _mode(self, known: Mapping[str, float]) -> str:
        diversity = known.get("diversity")
        if diversity is None or diversity >= self.diversity_floor:
            return ""
        return f"translations are too close to each other (diversity {diversity:.3f}, floor {self.diversity_floor})"

    def _warn(self, trainer: Trainer, pl_module: LightningModule, message: str) -> None:
        rank_zero_warn(message)
        for writer in tensorboards(trainer):
            writer.add_text("alarm", message, module_of(pl_module).images_seen)

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Counts continue over a resume."""
        return {"below": self.below}

    def load_state_dict(self, state_dict: dict[str, dict[str, int]]) -> None:
        """Take the counts of the interrupted run."""
        self.below = dict(state_dict["below"])
