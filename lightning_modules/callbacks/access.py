"""Typed access to what Lightning's Trainer holds untyped: the data, the module in training, TensorBoard, the split."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import to_pil_image

from evaluation.protocol import EvaluationData
from lightning_modules.base import TranslationModule
from storage import atomic_write

Split = Literal["val", "test", "best"]

_best_is_tested: ContextVar[bool] = ContextVar("best_is_tested", default=False)


@contextmanager
def scoring_best() -> Iterator[None]:
    """Context for testing the best checkpoint: scores are logged as "best" instead of "test"."""
    token = _best_is_tested.set(True)
    try:
        yield
    finally:
        _best_is_tested.reset(token)


def split_of(trainer: Trainer) -> Split:
    """Prefix under which scores are logged: "val", "test" for the last state of a run, "best" inside `scoring_best`."""
    if not trainer.testing:
        return "val"
    return "best" if _best_is_tested.get() else "test"


def data_of(trainer: Trainer) -> EvaluationData:
    """The data module of a trainer.

    Raises:
        TypeError: it lacks something that evaluation asks for.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, EvaluationData):
        wanted = [name for name in vars(EvaluationData) if not name.startswith("_")]
        missing = ", ".join(name for name in wanted if not hasattr(data, name))
        raise TypeError(f"Translations of {type(data).__name__} cannot be scored: it has no {missing}.")
    return data


def module_of(module: LightningModule) -> TranslationModule:
    """The module in training, with its own type.

    Raises:
        TypeError: it is another kind of module.
    """
    if not isinstance(module, TranslationModule):
        raise TypeError(f"These callbacks need a TranslationModule, got {type(module).__name__}.")
    return module


def tensorboards(trainer: Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers, for logs that are not scalars; none on ranks other than the first."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def log_image(trainer: Trainer, tag: str, image: Tensor, images_seen: int) -> None:
    """Give an image to every logger that takes one; nothing on ranks other than the first.

    TensorBoard and Weights & Biases show it under the tag, MLflow as an artifact of the run; the CSV logger has a PNG
    beside its table.

    Args:
        trainer: whose loggers.
        tag: such as ``val/pictures_a2b``.
        image: ``(3, H, W)`` in [0, 1].
        images_seen: position on the horizontal axis.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, images_seen)
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [to_pil_image(image)], images_seen)
        elif isinstance(logger, MLFlowLogger):
            name = f"{tag}/{images_seen}.png"
            logger.experiment.log_image(logger.run_id, to_pil_image(image), artifact_file=name)
        elif isinstance(logger, CSVLogger):
            with atomic_write(Path(logger.log_dir) / f"{tag.replace('/', '_')}_{images_seen}.png") as part:
                to_pil_image(image).save(part, format="PNG")
