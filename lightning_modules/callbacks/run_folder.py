"""Writes last.ckpt and adapter/ into the run folder after every validation and at the end of training."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.base import TranslationModule
from lightning_modules.callbacks.access import module_of, tensorboards
from lightning_modules.runtime import NonFiniteLossError
from networks.checkpoints.adapter import read_checkpoint, save_adapter
from storage import atomic_write, remove_unfinished

LAST = "last.ckpt"


class RunFolder(Callback):
    """Writes ``checkpoints/last.ckpt`` and ``adapter/``.

    Each file is written under another name and then renamed, so that a full disk or a crash leaves the previous one.

    Args:
        folder: ``runs/EXP/BASE/version_N``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.last = self.folder / "checkpoints" / LAST
        self._saved_at = -1  # images seen

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the choice of the best checkpoint; write configuration, prompts, base and data to TensorBoard."""
        if trainer.is_global_zero:
            remove_unfinished(self.folder / "checkpoints")
        module = module_of(pl_module)
        self._restore_choice(trainer, module.images_seen)
        generator = module.generator
        for writer in tensorboards(trainer):
            writer.add_text("config", "```yaml\n" + (self.folder / "config.yaml").read_text() + "\n```")
            writer.add_text("prompts", "  \n".join(f"{d}: {prompt}" for d, prompt in generator.prompts.items()))
            writer.add_text("base and data", f"{generator.base_description}  \n{module.run.data}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the metrics: the scores that choose best-*.ckpt are part of this state."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, module_of(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state."""
        self._save(trainer, module_of(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say how to resume.  The state is not saved: the batch may be half done, so resuming would not be exact."""
        if isinstance(exception, NonFiniteLossError):
            rank_zero_info(self._after_not_finite(module_of(pl_module).images_seen))
        elif self.last.is_file():
            rank_zero_info(
                f"Stopped after {module_of(pl_module).images_seen} images; the last checkpoint holds {self._saved_at}. "
                f"Resume with: make resume RUN={self.folder}"
            )

    def _after_not_finite(self, images_seen: int) -> str:
        """What to do after a loss, gradient, weight or translation that is not finite: what is saved is finite."""
        if not self.last.is_file():
            return "No checkpoint was written: start a new training with a lower learning rate."
        if self._saved_at == images_seen:
            return f"{self.last} is of this state: start a new training with a lower learning rate."
        when = f"the state after {self._saved_at} images" if self._saved_at >= 0 else "an earlier state"
        return (
            f"{self.last} holds {when}, whose weights are finite: make resume RUN={self.folder} with a lower learning "
            "rate, or start a new training."
        )

    def _restore_choice(self, trainer: Trainer, images_seen: int) -> None:
        """After a resume, the best checkpoint is the one that the interrupted run had chosen.

        last.ckpt is written before the choice of its validation.  A best checkpoint of the same state is newer and
        holds that choice.
        """
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint):
                continue
            state = None
            if images_seen and trainer.is_global_zero and callback.monitor and callback.dirpath:
                state = _state_of(callback.state_key, Path(callback.dirpath), images_seen)
            state = trainer.strategy.broadcast(state)
            if state is not None:
                callback.load_state_dict(dict(state))

    def _save(self, trainer: Trainer, module: TranslationModule) -> None:
        if module.images_seen == self._saved_at:
            return
        module.check_finite()
        try:
            # Every rank takes part, the first one writes.
            with atomic_write(self.last) if trainer.is_global_zero else nullcontext(self.last) as part:
                trainer.save_checkpoint(part, weights_only=False)
            if trainer.is_global_zero:
                save_adapter(module.generator, self.folder / "adapter", module.run_facts)
                # A model card that is there already describes an earlier state.
                (self.folder / "adapter" / "README.md").unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                f"{self.last} could not be written after {module.images_seen} images ({error}); the previous one is "
                f"unchanged. Free some space, then: make resume RUN={self.folder}"
            ) from error
        self._saved_at = module.images_seen


def _state_of(key: str, folder: Path, images_seen: int) -> Mapping[str, Any] | None:
    """A callback's state in the best checkpoint of a number of images; None where there is no such checkpoint."""
    for path in folder.glob("*.ckpt"):
        if path.name == LAST:
            continue
        try:
            content = read_checkpoint(path)
        except ValueError:  # damaged, or put there by someone else
            continue
        if content["progress"]["images_seen"] == images_seen:
            state: Mapping[str, Any] | None = content.get("callbacks", {}).get(key)
            return state
    return None
