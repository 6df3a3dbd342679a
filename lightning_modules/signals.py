"""Signals that ask a training to stop: recorded, and acted on where its exact state is on disk."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# SLURM sends the last one before a job's time is up.  Windows lacks the last two.
STOP_SIGNALS = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, n)]
SAME_REQUEST = 1.0  # seconds: torchrun and make pass on a Ctrl-C that the terminal has sent to every process already
PARENT_ENDS_IT = 10.0  # seconds that a rank gives the rank that started it


class StopRequested(BaseException):
    """A signal asked this process to stop; no Exception, so that nothing that handles errors swallows it.

    Args:
        number: of the signal.

    Attributes:
        name: of the signal.
        exit_code: what a shell reports of a process that the signal ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


class StopSignals:
    """Turns the first signal into `StopRequested`, at once or, while `deferred`, where the caller asks for it.

    A second signal ends the process at once.  There is one object of this class: handlers belong to the process.

    Attributes:
        received: number of the signal that arrived first; 0 for none.
        deferred: training is between two states that can be saved, so signals are only recorded.
        started_by_rank: another rank of this machine started this process, decides when to stop and ends it.
        on_quit: called before the process ends at a second signal.
    """

    def __init__(self) -> None:
        self.received = 0
        self.deferred = False
        self.started_by_rank = False
        self.on_quit: Callable[[], object] | None = None
        self._owner = 0  # process that handles signals; its forked data workers leave that to it
        self._handled: list[signal.Signals] = []
        self._since = 0.0

    @contextmanager
    def handled(self, started_by_rank: bool = False) -> Iterator[None]:
        """Context that handles signals; those that are ignored, as by ``nohup``, stay ignored.

        Args:
            started_by_rank: another rank of this machine started this process.
        """
        # The ranks that wait for this one to join them cannot be told yet.
        self.received, self.deferred, self.on_quit = 0, started_by_rank, None
        self.started_by_rank, self._owner = started_by_rank, os.getpid()
        in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        before = {s: signal.getsignal(s) for s in STOP_SIGNALS} if in_main_thread else {}
        self._handled = [s for s, handler in before.items() if handler is not signal.SIG_IGN]
        self.install()
        if in_main_thread and hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a rank blocks them until here
        try:
            yield
        finally:
            for number in self._handled:
                signal.signal(number, before[number] or signal.SIG_DFL)
            self._handled = []

    def install(self) -> None:
        """Set the handlers again, which a library has replaced; does nothing outside `handled`."""
        for number in self._handled:
            signal.signal(number, self._handle)

    def act(self) -> None:
        """Stop now if a signal has arrived: the state on disk is complete.

        Raises:
            StopRequested: a signal has arrived.
        """
        if self.received and self.started_by_rank:
            os.kill(os.getppid(), self.received)
            time.sleep(PARENT_ENDS_IT)
            os._exit(128 + self.received)
        if self.received:
            raise StopRequested(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        now = time.monotonic()
        if not self.received:
            self.received, self._since = number, now
            if not self.deferred:
                self.act()
        elif now - self._since > SAME_REQUEST:
            if self.on_quit is not None:
                self.on_quit()
            os._exit(128 + number)


stop_signals = StopSignals()
