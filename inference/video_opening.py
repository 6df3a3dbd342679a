"""Open a video and choose what to read of it."""

import contextlib
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an extra, imported where it is used
    from av.container import InputContainer
    from av.video.stream import VideoStream

_LOGGING = threading.Lock()  # PyAV has one log level for the process


def import_av() -> ModuleType:
    """PyAV.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import av
        import av.error
        import av.logging
        import av.video.reformatter
    except ImportError as error:
        raise ValueError("PyAV, which reads videos, is not installed: pip install -e '.[video]' adds it.") from error
    return av


def address(path: Path) -> str:
    """A file as FFmpeg takes it: of a name with a colon, it would take the beginning for a protocol."""
    return f"file:{path}"


def open_video(av: ModuleType, path: Path) -> "InputContainer":
    """Open a video for reading.

    Raises:
        ValueError: FFmpeg cannot read it.
    """
    try:
        return av.open(address(path))  # type: ignore[no-any-return]
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video: {error.strerror}. Is it whole?") from error


def video_stream(container: "InputContainer", path: Path) -> "VideoStream":
    """The stream to translate; a cover picture is none.

    Raises:
        ValueError: there is none.
    """
    streams = [s for s in container.streams.video if not int(s.disposition) & 0x400 and s.codec_context is not None]
    if not streams:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise ValueError(f"{path} has no video stream that can be decoded, only {kinds}.")
    best = container.streams.best("video")
    return next((stream for stream in streams if stream is best), streams[0])


def other_streams(container: "InputContainer") -> tuple[int, list[str]]:
    """How many audio streams there are, and what else there is beside one video stream."""
    audio = sum(stream.codec_context is not None for stream in container.streams.audio)
    other: list[str] = [stream.type for stream in container.streams if stream.type not in ("audio", "video")]
    other += ["video"] * (len(container.streams.video) - 1) + ["audio"] * (len(container.streams.audio) - audio)
    return audio, [f"{other.count(kind)} {kind}" for kind in sorted(set(other))]


def time_base_of(stream: "VideoStream") -> Fraction:
    """Unit of its timestamps, seconds; where none is named, that of broadcasts."""
    return stream.time_base or Fraction(1, 90000)


@contextlib.contextmanager
def logged_errors(av: ModuleType) -> Iterator[list[str]]:
    """Names of the parts of FFmpeg that log an error meanwhile.

    Where a Matroska file is damaged, its packets up to the next cluster are skipped; only the log says so.
    """
    log, names = av.logging, list[str]()
    with _LOGGING:
        level, skips = log.get_level(), log.get_skip_repeated()
        log.set_level(log.ERROR)
        log.set_skip_repeated(False)
        try:
            with log.Capture(local=False) as entries:
                yield names
        finally:
            log.set_level(level)
            log.set_skip_repeated(skips)
            names += [name for _, name, _ in entries]
