"""The queue before the network: first come, first served; images of one shape and settings are translated together."""

import logging
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

from images.ranges import Array
from inference.computing import Compute, auto_batch
from inference.jobs import Settings
from inference.translator import Prepared, Translator

log = logging.getLogger(__name__)


class PromptError(ValueError):
    """The model cannot embed a prompt."""


class AbandonedError(Exception):
    """Nobody waits for an output any more."""


@dataclass(eq=False)
class Item:
    """An image that waits for the network.

    Attributes:
        translator: of its model.
        settings: of the translation.
        prepared: the image.
        output: becomes what `Translator.compute` returns for it, or raises `PromptError`, a `MemoryError` where the
            image alone does not fit into the device's memory, or whatever else the model failed with.
        queued: when it came, seconds of `time.perf_counter`.
        started: when the network got it, likewise.
        abandoned: whether nobody waits for the output any more.
    """

    translator: Translator
    settings: Settings
    prepared: Prepared
    output: Future[Array] = field(default_factory=Future)
    queued: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    abandoned: bool = False

    def fits(self, other: "Item") -> bool:
        """Whether both can be translated in one batch."""
        return (
            self.translator is other.translator
            and self.settings == other.settings
            and self.prepared.layout.mode == other.prepared.layout.mode
            and self.prepared.layout.network_shape == other.prepared.layout.network_shape
        )


class Batcher:
    """One thread that computes; `Server` bounds the queue before it.

    Args:
        batch: images translated together, at most; None is `auto_batch`.  Nothing waits for a batch to fill: it holds
            what came while the one before was computed.
    """

    def __init__(self, batch: int | None = None) -> None:
        self._batch = batch
        self._waiting: deque[Item] = deque()
        self._changed = Condition()
        self._stopped = False
        # Of the latest model alone: another one, which is not used any more, should leave the memory.
        self._compute_of: Translator | None = None
        self._run: Compute | None = None
        self._thread = Thread(target=self._work, name="compute", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch that it computes."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        """Number of images that wait."""
        return len(self._waiting)

    def submit(self, item: Item) -> None:
        """Append to the queue."""
        with self._changed:
            self._waiting.append(item)
            self._changed.notify()

    def discard(self, item: Item) -> None:
        """Nobody waits for an item any more: it leaves the queue, or is computed no further than the present pass."""
        item.abandoned = True
        with self._changed:
            if item in self._waiting:
                self._waiting.remove(item)

    def _work(self) -> None:
        while items := self._next():
            # Outputs that nobody waits for any more are cancelled.
            wanted = [item for item in items if item.output.set_running_or_notify_cancel()]
            if wanted:
                self._compute(wanted)
            del items, wanted  # or their images would stay in memory until the next ones come

    def _next(self) -> list[Item]:
        """The oldest item, and those behind it that fit to it; empty once stopped."""
        with self._changed:
            while not self._waiting and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return []
            first = self._waiting.popleft()
            layout = first.prepared.layout
            most = self._batch or auto_batch(layout, first.translator.backend.device)
            some = [first, *(item for item in self._waiting if layout.mode != "tiles" and first.fits(item))][:most]
            for item in some[1:]:
                self._waiting.remove(item)
            return some

    def _compute(self, items: list[Item]) -> None:
        first = items[0]
        for item in items:
            item.started = time.perf_counter()
        try:
            outputs = self._outputs(items)
        except Exception as error:
            if len(items) > 1:
                log.warning("A batch of %d failed (%s): its images are translated one by one.", len(items), error)
                for item in items:
                    self._compute([item])
                return
            if not isinstance(error, PromptError | AbandonedError):
                log.exception("The network failed")
            first.output.set_exception(error)
            return
        for item, output in zip(items, outputs, strict=True):
            if isinstance(output, str):
                item.output.set_exception(MemoryError(output))
            else:
                item.output.set_result(output)

    def _outputs(self, items: list[Item]) -> list[Array | str]:
        translator, settings = items[0].translator, items[0].settings

        def before_pass() -> None:
            if all(item.abandoned for item in items):
                raise AbandonedError

        try:
            translator.backend.embed([settings.prompt])
        except (ValueError, FileNotFoundError) as error:
            raise PromptError(str(error)) from error
        if self._compute_of is not translator:
            self._compute_of, self._run = translator, Compute(translator, self._batch)
        assert self._run is not None
        return self._run([item.prepared for item in items], settings, before_pass)
