"""Translate image files: one thread computes while others read the next images and write the last ones."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Any

from images.ranges import Array
from images.reading import is_grey
from images.writing import BYTES_PER_PIXEL, DEEPER, WRITTEN, encode_image
from inference.computing import Compute, auto_batch
from inference.high_resolution import Layout
from inference.jobs import Entry, Job, Record, Settings
from inference.translator import Prepared, Translator
from storage import atomic_write, cores, yield_to_computation

IN_MEMORY = 64 * 1024 * 1024
"""Pixels of all images between reading and writing; a pixel takes about 40 bytes.  A larger image goes alone."""
THREADS = 8  # that read, and as many that write, at most


@dataclass(frozen=True)
class Task:
    """One image to translate.

    Attributes:
        source: file to read.
        target: file to write.
        layout: how it is translated.
        pixels: of the file or of the result, whichever has more.
        entry: line of the record, if there is one.
    """

    source: Path
    target: Path
    layout: Layout
    pixels: int
    entry: Entry | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: the task.
        error: why there is no output, or None where it was written.
    """

    task: Task
    error: str | None = None


def choose(
    jobs: Iterable[Job], shapes: Mapping[Path, tuple[int, int]], translator: Translator, settings: Settings
) -> tuple[list[Task], dict[Path, str]]:
    """Choose how each image is translated.

    Args:
        jobs: see `plan`.
        shapes: height and width of each input that can be used; see `images.headers.read_headers`.
        translator: of an adapter or an exported model.
        settings: of the translation.

    Returns:
        The tasks, and why other images cannot be translated.
    """
    tasks: list[Task] = []
    unusable: dict[Path, str] = {}
    for source, target in jobs:
        if source not in shapes:
            continue
        height, width = shapes[source]
        try:
            layout = translator.layout(source, (height, width), settings.size, settings.preprocess, settings.resolution)
        except (ValueError, OSError) as error:
            unusable[source] = str(error)
        else:
            pixels = max(height * width, layout.shape[0] * layout.shape[1])
            tasks.append(Task(source, target, layout, pixels))
    return tasks, unusable


def remaining(some: Iterable[Task], record: Record) -> list[Task]:
    """The tasks whose outputs are not finished, each with its line of the record.

    Args:
        some: see `choose`.
        record: of finished outputs.
    """
    left = []
    for task in some:
        try:
            entry = record.entry((task.source, task.target), str(task.layout))
        except OSError:  # reading it says why
            left.append(task)
        else:
            if not record.holds(entry):
                left.append(replace(task, entry=entry))
    return left


def bytes_needed(some: Iterable[Task], depth: int) -> float:
    """About the bytes that the outputs take.

    Args:
        some: what to do.
        depth: bits per channel.
    """
    deeper = 1.0 if depth == 8 else DEEPER
    return deeper * sum(
        math.prod(task.layout.shape) * BYTES_PER_PIXEL[WRITTEN[task.target.suffix.lower()]] for task in some
    )


def batches(some: Iterable[Task], size: int | None, device: str) -> Iterator[list[Task]]:
    """Tasks in groups of one mode and network shape.

    Args:
        some: tasks, which are sorted by network shape.
        size: images in a group, at most; None is `auto_batch`.
        device: name of the backend's device.

    Yields:
        Groups that hold a third of `IN_MEMORY` at most, so that one can be read and one written beside; or one image.
    """

    def alike(task: Task) -> tuple[str, tuple[int, int]]:
        return task.layout.mode, task.layout.network_shape

    for (mode, _), group in groupby(sorted(some, key=alike), key=alike):
        batch: list[Task] = []
        for task in group:
            most = 1 if mode == "tiles" else size or auto_batch(task.layout, device)
            if batch and (len(batch) >= most or sum(t.pixels for t in batch) + task.pixels > IN_MEMORY // 3):
                yield batch
                batch = []
            batch.append(task)
        if batch:
            yield batch


def translate_folder(
    translator: Translator,
    some: Iterable[Task],
    settings: Settings,
    batch: int | None = None,
    record: Record | None = None,
) -> Iterator[Outcome]:
    """Translate image files; reading, computing and writing overlap.

    An image that cannot be read, that alone does not fit into the device's memory, or whose output's format cannot hold
    it, is reported and the others are done.
    However the loop over the outcomes ends, the threads have ended then, and no file is half-written.

    Args:
        translator: of an adapter or an exported model; it computes in the calling thread.
        some: what to do.
        settings: of the translation.
        batch: images or tiles translated together, at most; None chooses by their size and the device.  Where the
            device's memory does not suffice, it is halved.
        record: gets the entry of every output.

    Yields:
        An outcome per task, in the order in which they end.

    Raises:
        OSError: an output cannot be written, for example because the disk is full.
        ValueError: the model cannot translate.
    """
    waiting = deque(batches(some, batch, translator.backend.device))
    reading: deque[tuple[list[Task], list[Future[_Image | str]]]] = deque()
    writing: dict[Future[Outcome], Task] = {}
    compute = Compute(translator, batch)
    files = _Files(translator, settings, record)
    held = 0  # pixels between reading and writing
    threads = min(THREADS, cores())
    with (
        ThreadPoolExecutor(threads, "read", yield_to_computation) as readers,
        ThreadPoolExecutor(threads, "write", yield_to_computation) as writers,
    ):
        try:
            while waiting or reading or writing:
                while waiting and (not held or held + _pixels(waiting[0]) <= IN_MEMORY):
                    next_batch = waiting.popleft()
                    held += _pixels(next_batch)
                    reading.append((next_batch, [readers.submit(files.read, task) for task in next_batch]))
                pending = [future for future in reading[0][1] if not future.done()] if reading else []
                if reading and not pending:
                    now, futures = reading.popleft()
                    images = [future.result() for future in futures]
                    outputs = compute(
                        [image if isinstance(image, str) else image.prepared for image in images], settings
                    )
                    for task, image, output in zip(now, images, outputs, strict=True):
                        if isinstance(image, str) or isinstance(output, str):
                            held -= task.pixels
                            yield Outcome(task, image if isinstance(image, str) else str(output))
                        else:
                            writing[writers.submit(files.write, task, image, output)] = task
                    del futures, images, outputs, image, output  # the writing threads alone hold them now
                else:
                    awaited: list[Future[Any]] = [*pending, *writing]
                    wait(awaited, return_when=FIRST_COMPLETED)
                for future in [future for future in writing if future.done()]:
                    held -= writing.pop(future).pixels
                    yield future.result()
        finally:
            files.stop()
            for pool in (readers, writers):
                pool.shutdown(wait=False, cancel_futures=True)


def _pixels(some: Iterable[Task]) -> int:
    return sum(task.pixels for task in some)


@dataclass(frozen=True)
class _Image:
    """An image that was read, and whether its file is grey."""

    prepared: Prepared
    is_grey: bool


class _Files:
    """What the reading and the writing threads do.

    Args:
        translator: see `translate_folder`.
        settings: likewise.
        record: likewise.
    """

    def __init__(self, translator: Translator, settings: Settings, record: Record | None) -> None:
        self._translator, self._settings, self._record = translator, settings, record
        self._stopped = Event()

    def stop(self) -> None:
        """Begin no file any more."""
        self._stopped.set()

    def read(self, task: Task) -> _Image | str:
        """The image, or why it cannot be read."""
        how = self._settings
        self._check()
        try:
            prepared = self._translator.prepare(task.source, how.size, how.preprocess, how.resolution)
            return _Image(prepared, how.keep_grey and is_grey(task.source))
        except (ValueError, OSError) as error:
            return str(error)

    def write(self, task: Task, image: _Image, output: Array) -> Outcome:
        """Write the output and its line in the record.

        Raises:
            OSError: it cannot be written.
        """
        self._check()
        result = self._translator.finish(image.prepared, output)
        self._check()
        try:
            content = encode_image(
                result, task.target.suffix, image.prepared.alpha, self._settings.depth, image.is_grey
            )
        except ValueError as error:
            return Outcome(task, str(error))
        self._check()
        with atomic_write(task.target) as part:
            part.write_bytes(content)
        if self._record is not None and task.entry is not None:
            self._record.add(task.entry)
        return Outcome(task)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The loop over the outcomes has ended."""
