"""Translate the frames of a video; timestamps, rotation and audio stay as they are.

Frames are encoded as H.264 in segments of some seconds, each a whole file in a hidden folder beside the result.
Interrupted work continues after the last of them; at the end they are joined with the audio, without encoding again.
With the last one lies the state of `SmoothedModels` behind it, so that interrupted work ends as if it had not been.
"""

import contextlib
import heapq
import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from images.ranges import to_pixels
from inference.computing import Compute
from inference.high_resolution import BEFORE, LOCAL_CHANGE, WHOLE_CHANGE, SmoothedModels
from inference.jobs import Settings
from inference.translator import Prepared, Translator
from storage import atomic_write, check_writable, digest, lock_folder, read_json, size_and_mtime, write_json

if TYPE_CHECKING:  # an extra, imported where it is used
    import av
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

T = TypeVar("T")
Frame = NDArray[np.uint8]

WRITTEN_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
SEGMENT_SECONDS = 4  # of video that an interruption costs at most
# Without B-frames, packets are in the order of their timestamps, so that segments can be joined as they are.
# With its macroblock tree, x264 gives one video other bits in every third call.
ENCODER = {"crf": "14", "preset": "medium", "bf": "0", "mbtree": "0"}
# Of audio, by the number of channels: raw formats do not say which these are.
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
BT709, BT601 = 1, 6  # colour matrices as ITU-T H.273 table 4 numbers them
MATRICES = {BT709, 4, 5, BT601, 7, 9}  # that swscale knows
LIMITED, FULL = 1, 2  # ranges, as `av.video.reformatter.ColorRange` numbers them
# Flags of swscale; PyAV names them all from 18 on.
BICUBIC, POINT, AREA = 4, 16, 32
EXACT = 0x40000 | 0x80000 | 0x2000  # accurate rounding, the same on every processor, chroma at every pixel
KEY = "segments.json"


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
        av = _av()
        with closing(_Reader(av, source)) as reader:
            first = next(reader.frames(0), None)
            if first is None:
                raise ValueError(f"No frame of {source} can be decoded: the file is damaged or cut off.")
            height, width = first[0].shape[:2]
            kept, dropped = _other_streams(reader.container)
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
    batch_size: int = 1,
    tiles: int = 1,
    progress: Callable[[int], object] = lambda frames: None,
    finished: Callable[[int], object] = lambda frames: None,
) -> list[str]:
    """Translate a video; reading, computing and writing overlap.

    Args:
        translator: of an adapter or an exported model.
        video: what is read and written.
        settings: of the translation; for a strength below 1, every frame gets the same noise.
        batch_size: frames translated together, at most; halved where the device's memory does not suffice.
        tiles: of one frame that are translated together; likewise.
        progress: is called with the number of frames that were written since the last call.
        finished: is called at the beginning, with the number of frames that earlier work has written.

    Returns:
        What the result lacks because the input is damaged, one line each.

    Raises:
        ValueError: another process writes the same video, or `translator` refuses a frame.
        MemoryError: not even one frame or tile fits into the device's memory.
        OSError: the disk is full, read-only or gone.
    """
    av = _av()
    facts = [str(video.source.resolve()), *size_and_mtime(video.source), translator.backend.identity]
    smoothing = BEFORE, LOCAL_CHANGE, WHOLE_CHANGE
    key = digest(json.dumps([*facts, asdict(settings), SEGMENT_SECONDS, ENCODER, av.__version__, smoothing]))
    folder = video.target.with_name(f".{video.target.name}.segments")
    with lock_folder(folder, "translation"):
        segments = _Segments.of(folder, key)
        finished(segments.frames)
        try:
            with closing(_Reader(av, video.source)) as reader:
                _translate(translator, reader, _Writer(av, segments, reader), settings, batch_size, tiles, progress)
                damage = reader.damage
            # In this folder, where the next call removes what a killed process leaves.
            whole = folder / video.target.name
            _join(av, video, segments, whole)
            os.replace(whole, video.target)
            segments.files.clear()
        finally:
            if not segments.files:
                shutil.rmtree(folder, ignore_errors=True)
    return damage


def _translate(
    translator: Translator,
    reader: "_Reader",
    writer: "_Writer",
    settings: Settings,
    batch_size: int,
    tiles: int,
    progress: Callable[[int], object],
) -> None:
    """Translate the frames that no segment has yet."""

    def prepare() -> Iterator[tuple[Prepared, _Time]]:
        for pixels, time in reader.frames(writer.segments.frames):
            yield translator.prepare(pixels, settings.size, settings.preprocess, settings.resolution), time

    compute = Compute(translator, settings, max(batch_size, tiles))
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        try:
            for batch in _batches(_ahead(reading, prepare(), batch_size + 1), batch_size):
                outputs = compute([prepared for prepared, _ in batch])
                for (prepared, time), output in zip(batch, outputs, strict=True):
                    if isinstance(output, str):
                        raise MemoryError(output)
                    waiting.append(writing.submit(writer.add, translator.finish, prepared, output, time))
                while len(waiting) > batch_size + 1:
                    waiting.popleft().result()
                    progress(1)
            for written in waiting:
                written.result()
                progress(1)
            writing.submit(writer.close).result()
        finally:  # an error leaves at most the frames that are being read and written
            for pool in (reading, writing):
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Time:
    """When a frame is shown, in units of the stream's time base."""

    start: int
    duration: int

    @property
    def end(self) -> int:
        return self.start + self.duration


@dataclass(frozen=True)
class _Segment:
    """A file with the frames of some seconds; its timestamps count from `start`."""

    path: Path
    start: int
    end: int
    frames: int

    @property
    def state(self) -> Path:
        """File of the models behind it, where lift smooths them; that of the last segment is kept."""
        return self.path.with_suffix(".npz")


class _Segments:
    """The segments that are whole, in a folder of their own.

    Attributes:
        folder: where they lie.
        files: in the order of time.
        smoothed: lift's models behind the last one.
    """

    def __init__(self, folder: Path, files: list[_Segment]) -> None:
        self.folder, self.files = folder, files
        self.smoothed = SmoothedModels.read(files[-1].state) if files else SmoothedModels()

    @classmethod
    def of(cls, folder: Path, key: str) -> "_Segments":
        """Those that are there for the same input and settings; others are removed."""
        files: list[_Segment] = []
        note = folder / KEY
        if note.is_file() and read_json(note).get("key") == key:
            for path in sorted(folder.glob("*.nut")):
                found = re.fullmatch(r"(\d+)_(-?\d+)_(-?\d+)_(\d+)", path.stem)
                if found is None or int(found[1]) != len(files):
                    break
                files.append(_Segment(path, int(found[2]), int(found[3]), int(found[4])))
        kept = {note, *(segment.path for segment in files), files[-1].state} if files else set()
        for path in folder.iterdir():
            if path not in kept:
                path.unlink()
        if not files:
            write_json(note, {"key": key})
        return cls(folder, files)

    @property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.files)

    def add(self, content: bytes, start: int, end: int, frames: int) -> None:
        segment = _Segment(self.folder / f"{len(self.files):06d}_{start}_{end}_{frames}.nut", start, end, frames)
        self.smoothed.write(segment.state)  # before it: a segment that is there can be continued
        with atomic_write(segment.path) as part:
            part.write_bytes(content)
        if self.files:
            self.files[-1].state.unlink(missing_ok=True)
        self.files.append(segment)


class _Reader:
    """Decodes a video's frames, in the order in which they are shown.

    Attributes:
        time_base: unit of its timestamps, seconds.
        matrix: how its colours were made from RGB, by ITU-T H.273; known after the first frame.
        damage: what could not be decoded, one line each; complete after the last frame.
    """

    def __init__(self, av: ModuleType, path: Path) -> None:
        self._av, self._path = av, path
        self.container = _opened(av, path)
        self.stream = _video_stream(self.container, path)
        self.stream.thread_type = "AUTO"
        self.time_base = _time_base(self.stream)
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.matrix = BT709
        self.primaries = self.transfer = 2  # not specified
        self.aspect: Fraction | None = None
        self.damage: list[str] = []
        self._bad, self._first_bad = 0, 0.0

    def close(self) -> None:
        self.container.close()

    @property
    def seconds(self) -> float | None:
        """Length by the file's header."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return self.container.duration / 1e6 if self.container.duration else None

    def frames(self, skip: int) -> Iterator[tuple[Frame, _Time]]:
        """The frames as they are meant to be seen, turned upright, ``(H, W, 3)``.

        Args:
            skip: number of frames at the beginning that are decoded only, which is exact for every file.
        """
        usual = max(round(1 / self.rate / self.time_base), 1)
        shape: tuple[int, int] | None = None
        previous: tuple[av.VideoFrame, int] | None = None
        number = 0
        for frame in self._decoded():
            if shape is None:
                shape = frame.width, frame.height
                self._describe(frame)
            stamp = frame.pts if frame.pts is not None else frame.dts
            if previous is None:
                start = stamp or 0
            else:
                # Where files were put together, the clock may start again.
                start = stamp if stamp is not None and stamp > previous[1] else previous[1] + usual
                number += 1
                if number > skip:
                    yield self._pixels(previous[0], shape), _Time(previous[1], start - previous[1])
            previous = frame, start
        if previous is not None and shape is not None and number >= skip:
            yield self._pixels(previous[0], shape), _Time(previous[1], previous[0].duration or usual)
        self._report(None if previous is None else previous[1] + (previous[0].duration or usual))

    def _decoded(self) -> Iterator["av.VideoFrame"]:
        errors = self._av.error
        packets = self.container.demux(self.stream)
        time = 0.0
        while True:
            try:
                packet = next(packets, None)
            except errors.FFmpegError as error:
                self.damage.append(f"{self._path} cannot be read beyond {time:.1f} s: {error.strerror}.")
                packet = None
            try:
                frames = self.stream.codec_context.decode(packet)
            except errors.EOFError:  # the decoder is drained
                return
            except errors.FFmpegError:
                frames = []
                self._note_bad(time)
            for frame in frames:
                if frame.is_corrupt:
                    self._note_bad(time)
                time = frame.time if frame.time is not None else time
                yield frame
            if packet is None:
                return

    def _note_bad(self, time: float) -> None:
        if not self._bad:
            self._first_bad = time
        self._bad += 1

    def _report(self, end: int | None) -> None:
        if self._bad:
            self.damage.append(f"{self._bad} frames of {self._path} are damaged, from {self._first_bad:.1f} s on.")
        length = self.seconds
        if end is not None and length is not None:
            reached = float((end - (self.stream.start_time or 0)) * self.time_base)
            if reached < length - max(1.0, 2 / float(self.rate)):
                self.damage.append(f"{self._path} ends at {reached:.1f} s, its header says {length:.1f} s.")

    def _describe(self, frame: "av.VideoFrame") -> None:
        # Untagged video is BT.709 if it is high definition, as players take it.
        usual = BT709 if frame.height > 576 else BT601
        self.matrix = int(frame.colorspace) if int(frame.colorspace) in MATRICES else usual
        self.primaries, self.transfer = int(frame.color_primaries), int(frame.color_trc)
        aspect = self.stream.sample_aspect_ratio
        if aspect:
            self.aspect = 1 / Fraction(aspect) if _turns(frame)[0] else Fraction(aspect)

    def _pixels(self, frame: "av.VideoFrame", shape: tuple[int, int]) -> Frame:
        # Chroma is repeated here and averaged by `_Writer`: together they change nothing.
        kernel = POINT if (frame.width, frame.height) == shape else BICUBIC
        full = frame.format.is_rgb or frame.color_range == FULL or frame.format.name.startswith("yuvj")
        frame.colorspace = self.matrix
        rgb = frame.reformat(
            *shape,
            format="rgb24",
            src_color_range=FULL if full else LIMITED,
            dst_color_range=FULL,
            interpolation=kernel | EXACT,
        )
        transposed, mirrored_x, mirrored_y = _turns(frame)
        pixels = rgb.to_ndarray()
        pixels = pixels.transpose(1, 0, 2) if transposed else pixels
        return np.ascontiguousarray(pixels[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1])


class _Writer:
    """Encodes frames into segments."""

    def __init__(self, av: ModuleType, segments: _Segments, reader: _Reader) -> None:
        self._av, self.segments, self._reader = av, segments, reader
        self._buffer = io.BytesIO()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._start = self._end = self._frames = 0

    def add(
        self,
        finish: Callable[[Prepared, NDArray[np.float32], SmoothedModels], NDArray[np.float32]],
        prepared: Prepared,
        output: NDArray[np.float32],
        time: _Time,
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
        self._end = time.end

    def close(self) -> None:
        """Write the last segment."""
        if self._container is None or self._stream is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        self.segments.add(self._buffer.getvalue(), self._start, self._end, self._frames)

    def _open(self, shape: tuple[int, ...], time: _Time) -> None:
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


def _join(av: ModuleType, video: Video, segments: _Segments, path: Path) -> None:
    """Join the segments and the input's audio, packet by packet, so that the first of them starts at zero."""
    form = WRITTEN_FORMATS[video.target.suffix.lower()]
    with (
        atomic_write(path) as part,
        _opened(av, video.source) as source,
        av.open(str(segments.files[0].path)) as first,
        contextlib.ExitStack() as opened,
    ):
        given = _video_stream(source, video.source)
        base = _time_base(given)
        # The movie's own unit, milliseconds by default, is that of the time at which a stream starts.
        options = {"movflags": "faststart", "movie_timescale": str(base.denominator)}
        out = opened.enter_context(av.open(str(part), "w", format=form, options={} if form == "matroska" else options))
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


def _joined(av: ModuleType, segments: _Segments, stream: "VideoStream", base: Fraction) -> Iterator["Packet"]:
    """Packets of all segments; each frame is shown until the next one."""
    last: Packet | None = None
    start = end = 0
    for segment in segments.files:
        with av.open(str(segment.path)) as container:
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


def _time_base(stream: "VideoStream") -> Fraction:
    return stream.time_base or Fraction(1, 90000)


def _av() -> ModuleType:
    """PyAV.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import av
        import av.error
        import av.video.reformatter
    except ImportError as error:
        raise ValueError("PyAV, which reads videos, is not installed: pip install -e '.[video]' adds it.") from error
    return av


def _opened(av: ModuleType, path: Path) -> "InputContainer":
    try:
        return av.open(str(path))  # type: ignore[no-any-return]
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video: {error.strerror}. Is it whole?") from error


def _video_stream(container: "InputContainer", path: Path) -> "VideoStream":
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


def _other_streams(container: "InputContainer") -> tuple[int, list[str]]:
    """How many audio streams there are, and what else there is beside one video stream."""
    audio = sum(stream.codec_context is not None for stream in container.streams.audio)
    other: list[str] = [stream.type for stream in container.streams if stream.type not in ("audio", "video")]
    other += ["video"] * (len(container.streams.video) - 1) + ["audio"] * (len(container.streams.audio) - audio)
    return audio, [f"{other.count(kind)} {kind}" for kind in sorted(set(other))]


def _turns(frame: "av.VideoFrame") -> tuple[bool, bool, bool]:
    """How its display matrix turns a frame upright: transpose, then mirror left to right, then top to bottom.

    The matrix maps ``(column, row)`` to ``(a * column + c * row, b * column + d * row)``.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(cast(bytes, data), np.int32)[:5]  # a buffer, which PyAV's types do not say
    if abs(a) >= abs(b):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)


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
