"""Says by name when translations stay too close to their inputs, or to each other."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.callbacks.evaluation import split_of

IDENTITY, MODE = "identity_collapse", "mode_collapse"
FIGURES = ("identity_gap", "lpips_truth", "domain_shift", "diversity")


class CollapseAlarm(Callback):
    """Judges the figures of `Evaluation`, per direction, after every validation and once more on the test split.

    *Identity collapse* is judged against what the two domains differ by, since an absolute distance cannot do: a lossy
    autoencoder alone moves a picture as far as clear and foggy lie apart.

    - Where the data has true counterparts: ``identity_gap / (identity_gap + lpips_truth)``.  0 is a copy, 1 the truth;
      above a half, translations are nearer to the truth than to their inputs.
    - Else ``domain_shift``, the share of the way between the domains: 0 is a copy, 1 the target's domain.  Blur alone
      moves a picture some of the way.
    - Where the pictures are too few to tell the domains apart, ``identity_gap`` as it is: finds exact copies only.

    *Mode collapse* goes by ``diversity``: 0 where a few pictures serve all inputs, 1 where outputs differ as inputs do.

    A warning goes to the log and, as text, to TensorBoard; ``alarm/<name>_<direction>`` is drawn as 0 or 1 each time.

    Args:
        truth_floor: share of the way to the true counterpart below which translations stay with their inputs.
        shift_floor: share of the way to the target's domain below which they do.
        identity_floor: perceptual distance to the input below which a translation is a copy, where nothing else tells.
        diversity_floor: distance to the nearest other output, relative to the inputs', below which they are alike.
        patience: validations in a row below a floor before the warning; the test split, the last chance, needs none.
    """

    def __init__(
        self,
        truth_floor: float = 0.45,
        shift_floor: float = 0.3,
        identity_floor: float = 0.01,
        diversity_floor: float = 0.3,
        patience: int = 2,
    ) -> None:
        self.truth_floor, self.shift_floor, self.identity_floor = truth_floor, shift_floor, identity_floor
        self.diversity_floor = diversity_floor
        self.patience = patience
        self.below: dict[str, int] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count how often each direction was below a floor, and warn once it lasts."""
        if trainer.sanity_checking:
            return
        for name, direction, finding in self._judge(trainer, pl_module, "val"):
            key = f"{name}_{direction}"
            self.below[key] = self.below.get(key, 0) + 1 if finding else 0
            if finding and self.below[key] >= self.patience:
                self._warn(trainer, pl_module, f"{finding}, {self.below[key]} validations in a row.")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A short run has too few validations for patience: the figures that it reports are judged at once."""
        split = split_of(trainer)
        for _, _, finding in self._judge(trainer, pl_module, split):
            if finding:
                state = f"with {Path(str(trainer.ckpt_path)).name}" if split == "best" else "at the end of the run"
                self._warn(trainer, pl_module, f"{finding}, on the test split {state}.")

    def _judge(self, trainer: Trainer, pl_module: Any, split: str) -> list[tuple[str, str, str]]:
        """Name, direction and what was found, empty where all is well; draws the scalars."""
        figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
        findings = []
        for direction in pl_module.generator.directions:
            known = {name: figures.get(f"{split}/{name}_{direction}") for name in FIGURES}
            stays, alike = self._identity(known), self._mode(known)
            findings.append((IDENTITY, direction, stays and f"identity collapse in {direction}: {stays}"))
            findings.append((MODE, direction, alike and f"mode collapse in {direction}: {alike}"))
        if split == "val":
            scalars = {f"alarm/{name}_{direction}": float(bool(words)) for name, direction, words in findings}
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=pl_module.images_seen)
        return findings

    def _identity(self, known: dict[str, float | None]) -> str:
        gap, truth, shift = known["identity_gap"], known["lpips_truth"], known["domain_shift"]
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

    def _mode(self, known: dict[str, float | None]) -> str:
        diversity = known["diversity"]
        if diversity is None or diversity >= self.diversity_floor:
            return ""
        return f"translations are too close to each other (diversity {diversity:.3f}, floor {self.diversity_floor})"

    def _warn(self, trainer: Trainer, pl_module: Any, message: str) -> None:
        rank_zero_warn(message)
        for logger in trainer.loggers:
            add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
            if add_text is not None and trainer.is_global_zero:
                add_text("alarm", message, pl_module.images_seen)

    def state_dict(self) -> dict[str, Any]:
        """Counts go on over a resume."""
        return {"below": self.below}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counts of the interrupted run."""
        self.below = dict(state_dict["below"])
