"""Run validations that Lightning would leave out: of the last state, and one that an interruption cut short."""

from lightning import Callback, LightningModule, Trainer

from lightning_modules.callbacks.access import module_of


class MissingValidation(Callback):
    """Validates states that Lightning would not.

    - The last state of a training whose validation interval does not end with it: Lightning validates at an early stop
      (``max_images``, ``max_time``), but not at the end of ``max_epochs`` or ``max_steps``.  A run shorter than its
      interval would have no images of validation in TensorBoard and no best checkpoint.
    - The state that a resumed run starts from, where its validation was interrupted: scores, best checkpoint and the
      counts of other callbacks are then those of a run without interruption.

    Must come before the callbacks that save states.

    Attributes:
        is_due: the validation of the present state has started and not ended.
        validated_at: images seen at the last validation; -1 before the first.
    """

    def __init__(self) -> None:
        self.is_due = False
        self.validated_at = -1
        self._restored = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checkpoints of earlier versions, without this callback's state, were written after a validation."""
        if not self._restored:
            self.validated_at = module_of(pl_module).images_seen or -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the validation that was interrupted."""
        if self.is_due and trainer.enable_validation:
            _validate(trainer)
            # At the end of an epoch Lightning would take this for the end of that epoch's loop, and never enter it.
            trainer.fit_loop.epoch_loop.val_loop._has_run = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A checkpoint written from here on says that the validation is to be run again."""
        self.is_due = _in_training(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record which state was validated."""
        if _in_training(trainer):
            self.is_due, self.validated_at = False, module_of(pl_module).images_seen

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run a validation of the last state, unless it had one."""
        if trainer.enable_validation and self.validated_at != module_of(pl_module).images_seen:
            _validate(trainer)

    def state_dict(self) -> dict[str, bool | int]:
        """What a resumed run must know."""
        return {"is_due": self.is_due, "validated_at": self.validated_at}

    def load_state_dict(self, state_dict: dict[str, bool | int]) -> None:
        """Take the state of the interrupted run."""
        self.is_due, self.validated_at = bool(state_dict["is_due"]), int(state_dict["validated_at"])
        self._restored = True


def _in_training(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _validate(trainer: Trainer) -> None:
    """Run Lightning's validation loop as it runs between two training batches."""
    trainer.validating = True  # the stage that loops, hooks and loggers go by
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
