"""Translate the frames of a video; timestamps, rotation and audio stay as they are.

Frames are encoded as H.264 in segments of some seconds, each a whole file in a hidden folder beside the result.
Interrupted work continues after the last of them; at the end they are joined with the audio, without encoding again.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from inference.computing import Compute, auto_batch
from inference.high_resolution import BEFORE, LOCAL_CHANGE, WHOLE_CHANGE, Layout
from inference.jobs import Settings
from inference.translator import Prepared, Translator
from inference.video_opening import import_av, other_streams
from inference.video_reading import Reader, Time
from inference.video_writing import ENCODER, SEGMENT_SECONDS, WRITTEN_FORMATS, Segments, Writer, join
from storage import check_writable, digest, lock_folder, size_and_mtime

T = TypeVar("T")


@dataclass(frozen=True)
class Video:
    """A video that can be translated.

    Attributes:
        source: the file that is read.
        target: the file that is written.
        shape: height and width of its frames, turned upright, pixels.
        frames: how many there are by the file's header, or None where it does not say.
        description: one line: size, frames per second, length, and what becomes of its other streams.
    """

    source: Path
    target: Path
    shape: tuple[int, int]
    frames: int | None
    description: str

    @classmethod
    def check(cls, source: Path, target: Path) -> "Video":
        """Find out before the work whether a video can be read and its translation be written.

        Args:
            source: a video that FFmpeg reads.
            target: .mp4, .m4v, .mov or .mkv.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it has no video stream or no frame that can be decoded, `target` cannot be written, or PyAV is
                missing.
        """
        if not source.exists():
            raise FileNotFoundError(f"Nothing to translate: {source} does not exist. Give a video.")
        if not source.is_file():
            raise ValueError(f"Nothing to translate: {source} is no file. Give a video.")
        if target.is_dir():
            raise ValueError(f"A video is written to one file, {target} is a folder: name {target / source.stem}.mp4.")
        if target.suffix.lower() not in WRITTEN_FORMATS:
            raise ValueError(
                f"Videos are written as {', '.join(WRITTEN_FORMATS)}: name the output {target.with_suffix('.mp4')} "
                f"instead of {target}."
            )
        if target.exists() and target.samefile(source):
            raise ValueError(f"The output {target} would overwrite the input video: give another name.")
        check_writable(target)
        av = import_av()
        with closing(Reader(av, source)) as reader:
            first = next(reader.frames(), None)
            if first is None:
                raise ValueError(f"No frame of {source} can be decoded: the file is damaged or cut off.")
            height, width = first[0].shape[:2]
            kept, dropped = other_streams(reader.container)
            length, rate = reader.seconds, reader.stream.average_rate
            frames = reader.stream.frames or (round(length * rate) if length and rate else None)
        parts = [f"{width} x {height}"]
        parts += [f"{float(rate):.4g} frames per second"] if rate else []
        parts += [f"{length:.1f} s"] if length else []
        parts += ["with audio" if kept else "without audio"]
        parts += [f"not copied: {', '.join(dropped)}"] if dropped else []
        return cls(source, target, (height, width), frames, ", ".join(parts))


def translate_video(
    translator: Translator,
    video: Video,
    settings: Settings,
    batch: int | None = None,
    progress: Callable[[int], object] = lambda frames: None,
    finished: Callable[[int], object] = lambda frames: None,
) -> list[str]:
    """Translate a video; reading, computing and writing overlap.

    Args:
        translator: of an adapter or an exported model.
        video: what is read and written.
        settings: of the translation; for a strength below 1, every frame gets the same noise.
        batch: frames, or tiles of one frame, translated together, at most; None chooses by their size and the device.
            Where the device's memory does not suffice, it is halved.
        progress: is called with the number of frames that were written since the last call.
        finished: is called at the beginning, with the number of frames that earlier work has written.

    Returns:
        What the result lacks because the input is damaged, one line each.

    Raises:
        ValueError: another process writes the same video, or `translator` refuses a frame.
        MemoryError: not even one frame or tile fits into the device's memory.
        OSError: the disk is full, read-only or gone.
    """
    av = import_av()
    layout = translator.layout(video.source, video.shape, settings.size, settings.preprocess, settings.resolution)
    facts = [str(video.source.resolve()), *size_and_mtime(video.source), translator.backend.identity]
    smoothing = BEFORE, LOCAL_CHANGE, WHOLE_CHANGE
    key = digest(json.dumps([*facts, asdict(settings), SEGMENT_SECONDS, ENCODER, av.__version__, smoothing]))
    folder = video.target.with_name(f".{video.target.name}.segments")
    with lock_folder(folder, "translation"):
        segments = Segments.of(folder, key)
        finished(segments.frames)
        try:
            with closing(Reader(av, video.source)) as reader:
                _translate(translator, reader, Writer(av, segments, reader), settings, layout, batch, progress)
                damage = reader.damage
            # In this folder, where the next call removes what a killed process leaves.
            whole = folder / video.target.name
            join(av, video.source, WRITTEN_FORMATS[video.target.suffix.lower()], segments, whole)
            os.replace(whole, video.target)
            segments.files.clear()
        finally:
            if not segments.files:
                shutil.rmtree(folder, ignore_errors=True)
    return damage


def _translate(
    translator: Translator,
    reader: "Reader",
    writer: "Writer",
    settings: Settings,
    layout: Layout,
    batch: int | None,
    progress: Callable[[int], object],
) -> None:
    """Translate the frames that no segment has yet."""

    def prepare() -> Iterator[tuple[Prepared, Time]]:
        for pixels, time in reader.frames(writer.segments.frames, writer.segments.last):
            yield translator.prepare(pixels, settings.size, settings.preprocess, settings.resolution), time

    compute = Compute(translator, batch)
    together = 1 if layout.mode == "tiles" else batch or auto_batch(layout, translator.backend.device)
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        try:
            for frames in _batches(_ahead(reading, prepare(), together + 1), together):
                outputs = compute([prepared for prepared, _ in frames], settings)
                for (prepared, time), output in zip(frames, outputs, strict=True):
                    if isinstance(output, str):
                        raise MemoryError(output)
                    waiting.append(writing.submit(writer.add, translator.finish, prepared, output, time))
                while len(waiting) > together + 1:
                    waiting.popleft().result()
                    progress(1)
            for written in waiting:
                written.result()
                progress(1)
            writing.submit(writer.close).result()
        finally:  # an error leaves at most the frames that are being read and written
            for pool in (reading, writing):
                pool.shutdown(cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, computed by another thread, at most ``count`` ahead."""
    waiting = deque(pool.submit(next, items, None) for _ in range(count))
    while (item := waiting.popleft().result()) is not None:
        waiting.append(pool.submit(next, items, None))
        yield item


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in groups of ``size``, the last one of those that are left."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
