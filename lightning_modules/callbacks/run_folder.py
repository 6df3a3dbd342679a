"""Writes last.ckpt and adapter/ into the run folder: at every validation, every few minutes, and when asked to stop."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.base import TranslationModule
from lightning_modules.callbacks.access import module_of, tensorboards
from lightning_modules.callbacks.missing_validation import MissingValidation
from lightning_modules.runtime import NonFiniteLossError
from lightning_modules.signals import StopRequested, stop_signals
from networks.checkpoints.adapter import read_checkpoint, save_adapter
from storage import remove_unfinished

LAST = "last.ckpt"


class RunFolder(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` and ``adapter/`` into the logger's folder, the same state in both.

    It saves before and after every validation, at the end of the batch after `minutes`, at the end of training, and
    where a signal asks to stop.  All of these are states that a resumed run continues exactly.  Ranks agree on what to
    do at the end of a batch; the first rank's clock counts.

    As a `Checkpoint` of Lightning it comes after all other callbacks, and after the `ModelCheckpoint`s before it in the
    list: last.ckpt holds the choice of the best checkpoint.

    Args:
        minutes: time between two checkpoints, validations or not.

    Attributes:
        folder: of the run; set when training or testing starts.
        saved_at: images seen of the state in last.ckpt; -1 where there is none.
        adapter_of: images seen of the state that this process has last saved, in adapter/, too; -1 before the first.

    Raises:
        ValueError: `minutes` is not above 0.
    """

    def __init__(self, minutes: float = 10.0) -> None:
        if not 0 < minutes < math.inf:
            raise ValueError(f"checkpoints.minutes is the time between two checkpoints, above 0, got {minutes}.")
        self.minutes = minutes
        self.folder = Path()
        self.saved_at = -1
        self._saved_when = 0.0
        self.adapter_of = -1

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "checkpoints" / LAST

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the folder that the first rank's logger writes to."""
        self.folder = Path(trainer.log_dir or "")  # a collective

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the choice of the best checkpoint; write configuration, prompts, base and data to TensorBoard."""
        if trainer.is_global_zero:
            remove_unfinished(self.folder)
        module = module_of(pl_module)
        if module.images_seen:
            self.saved_at = module.images_seen
            self._restore_choice(trainer, module.images_seen)
        generator = module.generator
        config = self.folder / "config.yaml"
        for writer in tensorboards(trainer):
            if config.is_file():  # the command writes it
                writer.add_text("config", f"```yaml\n{config.read_text()}\n```")
            writer.add_text("prompts", "  \n".join(f"{d}: {prompt}" for d, prompt in generator.prompts.items()))
            writer.add_text("base and data", f"{generator.base_description}  \n{module.run.data}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_when = time.monotonic()
        stop_signals.install()  # Lightning has replaced that of SIGTERM by its own, which broadcasts at any moment

    on_test_start = on_train_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """From here on the state of training is not on disk, so signals wait."""
        stop_signals.deferred = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save if a signal or the clock asks for it; where a validation follows, its start does."""
        if _validation_follows(trainer):
            return
        signal, by_clock = self._requests(trainer)
        if signal or by_clock:
            self._save(trainer, module_of(pl_module))
        self._stop(signal)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before the validation: it may take long, and may then be interrupted at once."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, module_of(pl_module))
            self._stop(self._requests(trainer)[0])
            stop_signals.deferred = False
            stop_signals.act()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the validation: scores, best checkpoint and counts of callbacks are part of the state."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, module_of(pl_module), again=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state."""
        self._save(trainer, module_of(pl_module))
        self._stop(self._requests(trainer)[0])
        stop_signals.deferred = False
        stop_signals.act()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say how to resume.  The state is not saved: the batch may be half done, so resuming would not be exact."""
        stop_signals.deferred = False
        if isinstance(exception, NonFiniteLossError):
            rank_zero_info(self._after_not_finite(module_of(pl_module).images_seen))
        elif self.saved_at >= 0 and not isinstance(exception, StopRequested):
            rank_zero_info(
                f"Stopped after {module_of(pl_module).images_seen} images; the last checkpoint holds {self.saved_at}. "
                f"Resume with: make resume RUN={self.folder}"
            )

    def _after_not_finite(self, images_seen: int) -> str:
        """What to do after a loss, gradient, weight or translation that is not finite: what is saved is finite."""
        if not self.last.is_file():
            return "No checkpoint was written: start a new training with a lower learning rate."
        if self.saved_at == images_seen:
            return f"{self.last} is of this state: start a new training with a lower learning rate."
        when = f"the state after {self.saved_at} images" if self.saved_at >= 0 else "an earlier state"
        return (
            f"{self.last} holds {when}, whose weights are finite: make resume RUN={self.folder} with a lower learning "
            "rate, or start a new training."
        )

    def _requests(self, trainer: Trainer) -> tuple[int, bool]:
        """Number of the signal that asks to stop, 0 for none, and whether it is time to save; the same on all ranks."""
        by_clock = trainer.is_global_zero and time.monotonic() - self._saved_when >= 60 * self.minutes
        if trainer.world_size == 1:
            return stop_signals.received, by_clock
        asked = torch.tensor([stop_signals.received, by_clock], device=trainer.strategy.root_device)
        agreed = trainer.strategy.reduce(asked, reduce_op="max")
        assert isinstance(agreed, torch.Tensor)
        signal, by_clock = agreed.tolist()
        return signal, bool(by_clock)

    @staticmethod
    def _stop(signal: int) -> None:
        """Stop on every rank: the state is saved."""
        if signal:
            stop_signals.deferred = False
            raise StopRequested(signal)

    def _restore_choice(self, trainer: Trainer, images_seen: int) -> None:
        """After a resume, the best checkpoint is the one that the interrupted run had chosen.

        Earlier versions wrote last.ckpt before that choice; a best checkpoint of the same state holds it.  Where the
        validation is to be run again, such a checkpoint is removed instead: the choice is made again.
        """
        redone = any(isinstance(c, MissingValidation) and c.is_due for c in trainer.callbacks)  # type: ignore[attr-defined]
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint):
                continue
            state = None
            if trainer.is_global_zero and callback.monitor and callback.dirpath:
                for path, states in _checkpoints_of(Path(callback.dirpath), images_seen):
                    if redone:
                        path.unlink()
                    else:
                        state = states.get(callback.state_key)
            state = trainer.strategy.broadcast(state)
            if state is not None:
                callback.load_state_dict(dict(state))

    def _save(self, trainer: Trainer, module: TranslationModule, again: bool = False) -> None:
        """Write adapter and checkpoint; every rank takes part, the first one writes.

        Args:
            trainer: in training.
            module: in training.
            again: although the state of the module is saved: that of callbacks has changed.
        """
        if module.images_seen == self.saved_at and not again:
            return
        module.check_finite()
        if trainer.is_global_zero and not self.folder.is_dir():
            raise FileNotFoundError(
                f"The run folder {self.folder} was removed: the state after {module.images_seen} "
                "images could not be saved."
            )
        # The adapter first: a resumed run writes it again, and a checkpoint behind which it lags, maybe never.
        if trainer.is_global_zero and self.adapter_of != module.images_seen:
            # A model card that is there already describes an earlier state.
            (self.folder / "adapter" / "README.md").unlink(missing_ok=True)
            save_adapter(module.generator, self.folder / "adapter", module.run_facts)
        trainer.save_checkpoint(self.last, weights_only=False)
        self.saved_at = self.adapter_of = module.images_seen
        self._saved_when = time.monotonic()


def _validation_follows(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch that has just ended.

    A checkpoint of that moment would be resumed without the validation; the one of its start says that it is missing.
    """
    loop = trainer.fit_loop
    if getattr(trainer, "_val_check_time_interval", None) is not None or loop._data_fetcher is None:
        return False  # by each rank's own clock: a moment later the answer may be another
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def _checkpoints_of(folder: Path, images_seen: int) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The checkpoints of a number of images beside last.ckpt, and the states of callbacks in them."""
    for path in folder.glob("*.ckpt"):
        if path.name == LAST:
            continue
        try:
            content = read_checkpoint(path)
        except ValueError:  # damaged, or put there by someone else
            continue
        if content["progress"]["images_seen"] == images_seen:
            yield path, content.get("callbacks", {})
