"""Progress of long commands: a bar on a terminal, and elsewhere, such as in a log file, a line every half minute."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

LOG_SECONDS = 30.0  # between two lines, at least


class Progress:
    """Shows how much is done, the time per piece, and the time left; on standard error.

    Args:
        total: pieces of work, or None where it is not known.
        unit: what a piece is, such as "image".
    """

    def __init__(self, total: int | None, unit: str = "image") -> None:
        self._total, self._unit, self._done, self._skipped = total, unit, 0, 0
        self._started = self._printed = time.monotonic()
        self._bar = tqdm(total=total, unit=unit) if sys.stderr.isatty() else None
        self._print()

    def update(self, pieces: int = 1) -> None:
        """Count pieces that are done."""
        self._done += pieces
        if self._bar is not None:
            self._bar.update(pieces)
        elif self._done == self._total or time.monotonic() - self._printed >= LOG_SECONDS:
            self._print()

    def skip(self, pieces: int) -> None:
        """Count pieces that were done before, in no time."""
        self._done += pieces
        self._skipped += pieces
        if self._bar is not None:
            self._bar.initial += pieces
            self._bar.update(pieces)
        elif pieces:
            self._print()

    def __enter__(self) -> "Progress":
        """The clock runs since the progress was made."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the bar as it is; in a log, say how far an interrupted work came."""
        if self._bar is not None:
            self._bar.close()
        elif error is not None and 0 < self._done != self._total:
            self._print()

    def _print(self) -> None:
        if self._bar is not None:
            return
        self._printed = time.monotonic()
        line = f"{self._done}{'' if self._total is None else f'/{self._total}'} {self._unit}s"
        if timed := self._done - self._skipped:
            each = (self._printed - self._started) / timed
            line += f", {each:.2g} s per {self._unit}"
            if self._total is not None and (left := self._total - self._done) > 0:
                line += f", {tqdm.format_interval(each * left)} left"
        print(line, file=sys.stderr, flush=True)
