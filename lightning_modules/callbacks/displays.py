"""Progress displays: a bar on a terminal or plain lines in a file, with the rate and the time left."""

from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from tqdm import tqdm

Clock = Callable[[], float]
FAST = 15.0  # seconds between two lines at first


class Display(Protocol):
    """Shows progress somewhere."""

    def due(self) -> bool:
        """Whether it is time to show the progress again."""

    def show(self, phase: str, images: int, total: int | None, facts: Sequence[str]) -> None:
        """Show the progress of a phase.

        Args:
            phase: "training", "validating" or "testing".
            images: done.
            total: of how many; None where it is not known.
            facts: what else to show, the most important first.
        """

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """End the phase and clear the display."""


class Bar:
    """A bar on a terminal, removed when its phase ends.

    Args:
        stream: the terminal.
        clock: seconds.
        every: seconds between two updates.
    """

    def __init__(self, stream: TextIO, clock: Clock, every: float = 0.2) -> None:
        self._stream, self._clock, self._every = stream, clock, every
        self._bar: tqdm[None] | None = None
        self._drawn = 0.0

    def due(self) -> bool:
        """Whether the bar is new or due for an update."""
        return self._bar is None or self._clock() - self._drawn >= self._every

    def show(self, phase: str, images: int, total: int | None, facts: Sequence[str]) -> None:
        """Redraw the bar."""
        if self._bar is None:
            counted = "{n:,} images" if total is None else "{percentage:3.0f}%|{bar:20}| {n:,} of {total:,} images"
            self._bar = tqdm(
                total=total,
                initial=images,
                desc=phase,
                bar_format=f"{{desc}} {counted}{{postfix}}",
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
                delay=1e-9,  # no drawing before the line below
            )
        self._bar.n, self._bar.total = images, total
        self._bar.set_postfix_str(", ".join(facts), refresh=False)
        self._bar.refresh()
        self._drawn = self._clock()

    def say(self, line: str) -> None:
        """Print above the bar."""
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """Plain lines in a file: one after the first batch, then every 15 seconds, after three minutes one per minute.

    Args:
        stream: the file.
        clock: seconds.
    """

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream, self._clock = stream, clock
        self._first: float | None = None
        self._last = 0.0

    def due(self) -> bool:
        """Whether a new line is due: 15 seconds after the last one, or 60 once three minutes have passed."""
        if self._first is None:
            return True
        now = self._clock()
        return now - self._last >= (FAST if now - self._first < 180 else 60.0)

    def show(self, phase: str, images: int, total: int | None, facts: Sequence[str]) -> None:
        """Print one line."""
        counted = f"{images:,} images" if total is None else f"{images:,} of {total:,} images"
        share = [f"{images / total:.0%}"] if total else []
        self.say(f"{phase}: {', '.join([counted, *share, *facts])}")
        self._last = self._clock()
        self._first = self._last if self._first is None else self._first

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: a file needs no clearing."""


class Pace:
    """Rate and time left, measured from the end of the first batch: its start-up is not typical.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None  # seconds and images at the end of the first batch

    def count(self, images: int) -> None:
        """Record the number of images done."""
        if self._first is None:
            self._first = (self._clock(), images)

    def facts(self, images: int, goal: int | None, allowed: float | None = None) -> list[str]:
        """Time left and rate in words, as far as they are known.

        Args:
            images: done.
            goal: images at the end; None where it is not known.
            allowed: seconds after which the trainer stops; None for no limit.
        """
        if self._first is None or images <= self._first[1]:
            return []
        rate = (images - self._first[1]) / max(self._clock() - self._first[0], 1e-9)
        limits = [] if goal is None else [(goal - images) / rate]
        limits += [] if allowed is None else [allowed]
        left = [f"{duration(max(0.0, min(limits)))} left"] if limits else []
        return [*left, f"{rate:.3g} images/s"]


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: "01:36", "2:01:36"."""
    return tqdm.format_interval(round(seconds))
