"""Validate the last state of a training that ends between two validations."""

from lightning import Callback, LightningModule, Trainer

from lightning_modules.callbacks.access import module_of


class FinalValidation(Callback):
    """Validates the last state of a training whose validation interval does not end with it.

    Lightning validates at an early stop (``max_images``, ``max_time``), but not at the end of ``max_epochs`` or
    ``max_steps``: a run shorter than its interval would have no images of validation in TensorBoard and no best
    checkpoint.  A state that was validated already is not validated again.

    Must come before the callbacks that save the last state.
    """

    def __init__(self) -> None:
        self._validated_at = -1  # images seen

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record which state was validated."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated_at = module_of(pl_module).images_seen

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run Lightning's validation loop once more, as it runs between two training batches."""
        if not trainer.enable_validation or self._validated_at == module_of(pl_module).images_seen:
            return
        trainer.validating = True  # the stage that loops, hooks and loggers go by
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
