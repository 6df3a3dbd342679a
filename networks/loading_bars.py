"""Reads weights without transformers' "Loading weights" bar; downloads keep theirs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from transformers.utils import logging

Made = TypeVar("Made")


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Context without progress bars for reading weights from disk."""
    previous = logging.set_tqdm_hook(_hidden_while_loading)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def _hidden_while_loading(factory: Callable[..., Made], args: tuple[object, ...], kwargs: dict[str, object]) -> Made:
    hidden = {"disable": True} if kwargs.get("desc") == "Loading weights" else {}
    return factory(*args, **{**kwargs, **hidden})
