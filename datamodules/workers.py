"""Data workers leave signals to the training: it needs them until its batch is done and its state saved."""

import atexit
import multiprocessing.util
import signal
from types import FrameType

IGNORED = [getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def leave_signals_to_parent(worker: int) -> None:
    """Ignore the signals that a terminal or SLURM sends to every process; for ``DataLoader(worker_init_fn=)``.

    SIGTERM ends a worker at the second time: torch sends one to a worker that does not end by itself.

    Args:
        worker: its number.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_next_time)


def _end_next_time(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


# After multiprocessing has registered its own function, and so called before it.
@atexit.register
def _end_workers_that_are_left() -> None:
    """Kill workers whose loader nothing has closed, as when an error or a signal ends a validation within training.

    Python sends each one SIGTERM, which `leave_signals_to_parent` passes over, and would wait for it forever.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
