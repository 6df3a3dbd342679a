"""A user's mistake becomes one or two lines and exit code 2, without a traceback."""

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")
TRACEBACK = "ONE_STEP_TRACEBACK"


def user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a command: ValueError and OSError become a line on standard error and exit code 2.

    Set the environment variable ``ONE_STEP_TRACEBACK=1`` to see where such an error came from.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        warnings.showwarning = _one_line  # not formatwarning: Lightning sets its own when it is imported
        try:
            return main(*args, **kwargs)
        except (ValueError, OSError) as error:
            if os.environ.get(TRACEBACK):
                raise
            print(f"error: {_shortened(str(error))}", file=sys.stderr)
            return 2

    return guarded


def _shortened(message: str) -> str:
    """The message, or the last line of a traceback: a data loader puts a worker's whole traceback into its message."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition("Error: ")[2] or message


def _one_line(message: Warning | str, *args: object, **kwargs: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
