"""Typed access to what Lightning's Trainer holds untyped: the data, the module in training, TensorBoard, the split."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from evaluation.protocol import EvaluationData
from lightning_modules.base import TranslationModule

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
