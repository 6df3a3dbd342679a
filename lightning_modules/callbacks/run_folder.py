"""Keeps the run folder whole: last.ckpt and adapter/ after every validation and at the end of training."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.callbacks.access import tensorboards
from networks.checkpoints.adapter import read_checkpoint, save_adapter
from storage import atomic_write, remove_unfinished

LAST = "last.ckpt"


class RunFolder(Callback):
    """Writes ``checkpoints/last.ckpt`` and ``adapter/`` below the run folder.

    Each file is written beside its place and renamed, so that a full disk or a crash leaves the one before it.

    Args:
        folder: ``runs/EXP/BASE/version_N``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._saved_at = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write configuration, prompts, base and data to TensorBoard."""
        if trainer.is_global_zero:
            remove_unfinished(self.folder / "checkpoints")
        self._recall_choice(trainer, pl_module)
        generator: Any = pl_module.generator
        for writer in tensorboards(trainer):
            config = (self.folder / "config.yaml").read_text()
            writer.add_text("config", "```yaml\n" + config + "\n```")
            writer.add_text("prompts", "  \n".join(f"{d}: {prompt}" for d, prompt in generator.prompts.items()))
            writer.add_text("base and data", f"{generator.base_description}  \n{pl_module.run.data}")  # type: ignore[operator,union-attr]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the metrics: what best-*.ckpt is chosen by is in this state too."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last state, wherever training stopped."""
        self._save(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say how to go on.  Nothing is saved here: the batch may be half done, and resuming would not be exact."""
        if (self.folder / "checkpoints" / LAST).is_file():
            rank_zero_info(
                f"Stopped after {pl_module.images_seen} images; the last checkpoint holds {self._saved_at}. "
                f"Go on with: make resume RUN={self.folder}"
            )

    def _recall_choice(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume, the best checkpoint is the one that the interrupted run had chosen.

        last.ckpt is written before that choice (what it names may be deleted since): a checkpoint of the same state, if
        one was chosen, knows better.
        """
        for callback in trainer.checkpoint_callbacks:
            state = None
            if pl_module.images_seen and trainer.is_global_zero and getattr(callback, "monitor", None):
                state = self._state_of(callback, pl_module)
            state = trainer.strategy.broadcast(state)
            if state is not None:
                callback.load_state_dict(state)

    def _state_of(self, callback: Any, pl_module: LightningModule) -> dict[str, Any] | None:
        for path in Path(callback.dirpath).glob("*.ckpt"):
            if path.name == LAST:
                continue
            try:
                content = read_checkpoint(path)
            except ValueError:  # damaged, or put there by someone else
                continue
            if content["progress"]["images_seen"] == pl_module.images_seen:
                return content.get("callbacks", {}).get(callback.state_key)
        return None

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen: Any = pl_module.images_seen
        if seen == self._saved_at:
            return
        last = self.folder / "checkpoints" / LAST
        try:
            # every rank takes part, the first one writes
            with atomic_write(last) if trainer.is_global_zero else nullcontext(last) as part:
                trainer.save_checkpoint(part, weights_only=False)
            if trainer.is_global_zero:
                save_adapter(pl_module.generator, self.folder / "adapter", pl_module.run_facts)  # type: ignore[arg-type]
                # The card of an earlier end tells an earlier state.
                (self.folder / "adapter" / "README.md").unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                f"{last} could not be renewed after {seen} images ({error}); the one before it is kept. "
                f"Free some space, then: make resume RUN={self.folder}"
            ) from error
        self._saved_at = seen
