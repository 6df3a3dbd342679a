"""A user's mistake becomes one or two lines and exit code 2, without a traceback."""

import errno
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")
TRACEBACK = "ONE_STEP_TRACEBACK"


def user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a command: ValueError, OSError and a killed worker become a line on standard error and exit code 2.

    Set the environment variable ``ONE_STEP_TRACEBACK=1`` to see where such an error came from.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        warnings.showwarning = _one_line  # not formatwarning: Lightning sets its own when it is imported
        try:
            return main(*args, **kwargs)
        except (ValueError, OSError, RuntimeError) as error:
            line = _explained(error)
            if line is None or os.environ.get(TRACEBACK):
                raise
            print(f"error: {line}", file=sys.stderr)
            return 2

    return guarded


def _explained(error: ValueError | OSError | RuntimeError) -> str | None:
    """The line that a user reads; None for an error that is no user's mistake."""
    message = str(error)
    if isinstance(error, RuntimeError):
        if not message.startswith("DataLoader worker"):
            return None
        ended = re.search(r"killed by signal: [\w ]+", message)
        return (
            f"A process that reads images ended ({ended[0] if ended else 'unexpectedly'}). If memory ran out, use "
            "fewer: --data.init_args.num_workers=1."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
        return f"The disk is full ({error.strerror}): free some space, then run the command again."
    # Code below the commands speaks of arguments, the user of Make variables.
    return re.sub(r"\((base|init|prompt)=\)", lambda argument: argument[0].upper(), _shortened(message))


def _shortened(message: str) -> str:
    """The message, or the last line of a traceback: a data loader puts a worker's whole traceback into its message."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition("Error: ")[2] or message


def _one_line(message: Warning | str, *args: object, **kwargs: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
