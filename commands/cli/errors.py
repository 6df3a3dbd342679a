"""A user's mistake becomes one or two lines and exit code 2, an interruption one line, both without a traceback."""

import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec

from commands.cli.paths import RUN_FOLDER

P = ParamSpec("P")
TRACEBACK = "ONE_STEP_TRACEBACK"
HELD = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows lacks the second


def user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a command: ValueError, OSError and a killed worker become a line on standard error and exit code 2.

    `UnfinishedError` has exit code 1.

    Ctrl-C, SIGTERM and SIGHUP become a line and exit code 130, 143 or 129; unfinished files are removed.  Training
    handles signals itself and saves its state.

    Set the environment variable ``ONE_STEP_TRACEBACK=1`` to see where such an error came from.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be UTF-8; standard error is so already
            sys.stdout.reconfigure(errors="backslashreplace")
        warnings.showwarning = _one_line  # not formatwarning: Lightning sets its own when it is imported
        try:
            with _ending_signals_raise():
                return main(*args, **kwargs)
        except (ValueError, OSError, RuntimeError) as error:
            line = _explained(error)
            if line is None or os.environ.get(TRACEBACK):
                raise
            print(f"error: {line}", file=sys.stderr)
            return 1 if isinstance(error, UnfinishedError) else 2
        except _EndedError as ended:
            return _interrupted(ended.number)
        except KeyboardInterrupt:
            return _interrupted(signal.SIGINT)
        except SystemExit as left:
            if isinstance(left.__context__, KeyboardInterrupt):  # Lightning's Trainer turns one into the other
                return _interrupted(signal.SIGINT)
            raise

    return guarded


class UnfinishedError(OSError):
    """Work ended when a part of it was done, which stays; exit code 1."""


class _EndedError(BaseException):
    """A signal asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _ending_signals_raise() -> Iterator[None]:
    """Context in which SIGTERM and SIGHUP raise an exception where they would end the process without cleaning up."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker
            os._exit(128 + number)
        raise _EndedError(number)

    in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
    if RUN_FOLDER in os.environ and in_main_thread and hasattr(signal, "pthread_sigmask"):
        # A rank that ends while it starts would have Lightning kill the others: its training handles what arrives.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    taken = [s for s in ENDING if in_main_thread and signal.getsignal(s) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(number: int) -> int:
    """Say so, and end at once at a further Ctrl-C; returns the exit code, as a shell reports it of such a process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(f"Interrupted by {signal.Signals(number).name}.", file=sys.stderr)
    return 128 + number


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
