"""Encode the frames of a video as H.264 in segments, and join them with the audio.

Each segment is a whole file; with the last one lies the state of `SmoothedModels` behind it, so that interrupted work
ends as if it had not been.
"""

import contextlib
import heapq
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from images.ranges import to_pixels
from inference.high_resolution import SmoothedModels
from inference.translator import Prepared
from inference.video_opening import address, open_video, time_base_of, video_stream
from inference.video_reading import (
    AREA,
    EXACT,
    FULL,
    LIMITED,
    Place,
    Reader,
    Time,
)
from storage import atomic_write, read_json, write_json

if TYPE_CHECKING:  # an extra, imported where it is used
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

WRITTEN_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
SEGMENT_SECONDS = 4  # of video that an interruption costs at most
# Without B-frames, packets are in the order of their timestamps, so that segments can be joined as they are.
# With its macroblock tree, x264 gives one video other bits in every third call.
ENCODER = {"crf": "14", "preset": "medium", "bf": "0", "mbtree": "0"}
# Of audio, by the number of channels: raw formats do not say which these are.
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
KEY = "segments.json"


@dataclass(frozen=True)
class Segment:
    """A file with the frames of some seconds; its timestamps count from `start`.

    Attributes:
        path: its name holds the rest: number, start, end, frames, and the last frame's place if it is known.
        start: of its first frame, in units of the stream's time base.
        end: of its last one, likewise.
        frames: how many it has.
        last: place of the last one in the input.
    """

    path: Path
    start: int
    end: int
    frames: int
    last: Place | None

    @property
    def state(self) -> Path:
        """File of the models behind it, where lift smooths them; that of the last segment is kept."""
        return self.path.with_suffix(".npz")


class Segments:
    """The segments that are whole, in a folder of their own.

    Attributes:
        folder: where they lie.
        files: in the order of time.
        smoothed: lift's models behind the last one.
    """

    def __init__(self, folder: Path, files: list[Segment]) -> None:
        self.folder, self.files = folder, files
        self.smoothed = SmoothedModels.read(files[-1].state) if files else SmoothedModels()

    @classmethod
    def of(cls, folder: Path, key: str) -> "Segments":
        """Those that are there for the same input and settings; others are removed."""
        files: list[Segment] = []
        note = folder / KEY
        if note.is_file() and read_json(note).get("key") == key:
            for path in sorted(folder.glob("*.nut")):
                if re.fullmatch(r"\d+_-?\d+_-?\d+_\d+(_-?\d+_\d+_\d+)?", path.stem) is None:
                    break
                number, start, end, frames, *place = map(int, path.stem.split("_"))
                if number != len(files):
                    break
                files.append(Segment(path, start, end, frames, Place(*place) if place else None))
        kept = {note, *(segment.path for segment in files), files[-1].state} if files else set()
        for path in folder.iterdir():
            if path not in kept:
                path.unlink()
        if not files:
            write_json(note, {"key": key})
        return cls(folder, files)

    @property
    def frames(self) -> int:
        """How many frames they have together."""
        return sum(segment.frames for segment in self.files)

    @property
    def last(self) -> Place | None:
        """Place of the last frame in the input, if it is known."""
        return self.files[-1].last if self.files else None

    def add(self, content: bytes, start: int, end: int, frames: int, last: Place | None) -> None:
        """Write a segment, which then counts as done.

        Args:
            content: of its file.
            start: see `Segment`.
            end: likewise.
            frames: likewise.
            last: likewise.

        Raises:
            OSError: the disk is full, read-only or gone.
        """
        place = [] if last is None else [last.start, last.position, last.checksum]
        name = "_".join([f"{len(self.files):06d}", *map(str, [start, end, frames, *place])])
        segment = Segment(self.folder / f"{name}.nut", start, end, frames, last)
        self.smoothed.write(segment.state)  # before it: a segment that is there can be continued
        with atomic_write(segment.path) as part:
            part.write_bytes(content)
        if self.files:
            self.files[-1].state.unlink(missing_ok=True)
        self.files.append(segment)


class Writer:
    """Encodes frames into segments."""

    def __init__(self, av: ModuleType, segments: Segments, reader: Reader) -> None:
        self._av, self.segments, self._reader = av, segments, reader
        self._buffer = io.BytesIO()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._start = self._end = self._frames = 0
        self._last: Place | None = None

    def add(
        self,
        finish: Callable[[Prepared, NDArray[np.float32], SmoothedModels], NDArray[np.float32]],
        prepared: Prepared,
        output: NDArray[np.float32],
        time: Time,
    ) -> None:
        """Finish and encode one frame; call it in the order of time."""
        if self._container is not None and (time.start - self._start) * self._reader.time_base >= SEGMENT_SECONDS:
            self.close()  # before the frame changes the smoothed models
        pixels = to_pixels(finish(prepared, output, self.segments.smoothed))
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")  # chroma has half the pixels
        if self._container is None or self._stream is None:
            self._open(pixels.shape, time)
        assert self._container is not None and self._stream is not None
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.colorspace = self._reader.matrix
        frame = frame.reformat(
            format="yuv420p", src_color_range=FULL, dst_color_range=LIMITED, interpolation=AREA | EXACT
        )
        frame.pts, frame.time_base = time.start - self._start, self._reader.time_base
        self._container.mux(self._stream.encode(frame))
        self._frames += 1
        self._end, self._last = time.end, time.place

    def close(self) -> None:
        """Write the last segment."""
        if self._container is None or self._stream is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        self.segments.add(self._buffer.getvalue(), self._start, self._end, self._frames, self._last)

    def _open(self, shape: tuple[int, ...], time: Time) -> None:
        self._buffer = io.BytesIO()
        self._container = self._av.open(self._buffer, "w", format="nut")
        stream = self._container.add_stream("libx264", rate=self._reader.rate, options=dict(ENCODER))
        stream.height, stream.width = shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = self._reader.time_base
        context.colorspace, context.color_range = self._reader.matrix, LIMITED
        context.color_primaries, context.color_trc = self._reader.primaries, self._reader.transfer
        if self._reader.aspect:
            context.sample_aspect_ratio = self._reader.aspect
        self._stream = stream
        self._start, self._end, self._frames = time.start, time.end, 0


def join(av: ModuleType, video: Path, form: str, segments: Segments, path: Path) -> None:
    """Join the segments and the input's audio, packet by packet, so that the first of them starts at zero.

    Args:
        av: PyAV.
        video: the input.
        form: the container, one of the values of `WRITTEN_FORMATS`.
        segments: of all frames.
        path: the file to write.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    with (
        atomic_write(path) as part,
        open_video(av, video) as source,
        av.open(address(segments.files[0].path)) as first,
        contextlib.ExitStack() as opened,
    ):
        given = video_stream(source, video)
        base = time_base_of(given)
        # The movie's own unit, milliseconds by default, is that of the time at which a stream starts.
        options = {"movflags": "faststart", "movie_timescale": str(base.denominator)} if form != "matroska" else {}
        out = opened.enter_context(av.open(address(part), "w", format=form, options=options))
        stream = out.add_stream_from_template(first.streams.video[0])
        stream.time_base = base
        if given.average_rate:
            stream.codec_context.framerate = given.average_rate
        audio = _Audio(av, source, out)
        begin = Fraction(max(source.start_time or 0, 0), 1_000_000)
        for packet in heapq.merge(_joined(av, segments, stream, base), _increasing(audio.packets()), key=_seconds):
            shift = round(begin / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            out.mux(packet)


def _joined(av: ModuleType, segments: Segments, stream: "VideoStream", base: Fraction) -> Iterator["Packet"]:
    """Packets of all segments; each frame is shown until the next one."""
    last: Packet | None = None
    start = end = 0
    for segment in segments.files:
        with av.open(address(segment.path)) as container:
            for packet in container.demux(video=0):
                if packet.pts is None:  # the one that ends the stream
                    continue
                before, start = start, round(packet.pts * packet.time_base / base) + segment.start
                packet.stream, packet.time_base = stream, base
                packet.pts = packet.dts = start
                if last is not None:
                    last.duration = start - before
                    yield last
                last = packet
        end = segment.end
    if last is not None:
        last.duration = end - start
        yield last


class _Audio:
    """The audio of a video: copied where the container can hold it, else encoded as AAC."""

    def __init__(self, av: ModuleType, source: "InputContainer", out: "OutputContainer") -> None:
        self._errors, self._source = av.error.FFmpegError, source
        self._copied: dict[int, AudioStream] = {}
        self._encoded: dict[int, tuple[AudioCodecContext, AudioStream]] = {}
        for stream in source.streams.audio:
            context = stream.codec_context
            if context is None:  # of a codec that FFmpeg does not know
                continue
            channels = context.layout.nb_channels
            if out.supported_codecs & {context.name, context.codec.canonical_name}:
                copy = self._copied[stream.index] = out.add_stream_from_template(stream)
                if context.layout.name == f"{channels} channels" and channels in LAYOUTS:  # which .mp4 does not take
                    copy.codec_context.layout = LAYOUTS[channels]
            else:
                known = av.Codec("aac", "w").audio_rates
                rate = context.sample_rate if context.sample_rate in known else 48000
                layout = LAYOUTS.get(channels, "stereo")
                encoder = out.add_stream("aac", rate=rate, layout=layout, bit_rate=96_000 * channels)
                self._encoded[stream.index] = context, encoder

    def packets(self) -> Iterator["Packet"]:
        """Packets for the output, in the order of their times but for streams that are encoded."""
        if not self._copied and not self._encoded:
            return
        packets = self._source.demux([s for s in self._source.streams.audio if s.codec_context is not None])
        while True:
            try:
                packet = next(packets)
            except (StopIteration, self._errors):  # the video's reader reports damage
                break
            index = packet.stream.index
            if index in self._copied:
                if packet.dts is not None:
                    packet.stream = self._copied[index]
                    yield packet
                continue
            decoder, encoder = self._encoded[index]
            frames: list[AudioFrame] = []
            with contextlib.suppress(self._errors):
                frames = decoder.decode(packet)
            for frame in frames:
                yield from encoder.encode(frame)
        for _, encoder in self._encoded.values():
            yield from encoder.encode(None)


def _increasing(packets: Iterable["Packet"]) -> Iterator["Packet"]:
    """Packets with the time added by which the clock of their stream started again, which no container takes."""
    reached: dict[int, int] = {}
    moved: dict[int, int] = {}
    for packet in packets:
        index = packet.stream.index
        if packet.dts is not None and packet.pts is not None:
            lead = packet.pts - packet.dts
            time = packet.dts + moved.get(index, 0)
            if index in reached and time < reached[index]:
                moved[index] = reached[index] - packet.dts
                time = reached[index]
            packet.dts, packet.pts = time, time + lead
            reached[index] = time + 1
        yield packet


def _seconds(packet: "Packet") -> float:
    stamp = packet.dts if packet.dts is not None else packet.pts or 0
    return float(stamp * packet.time_base)
