"""Decode the frames of a video, with their times, colours and rotation."""

import contextlib
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from inference.video_opening import logged_errors, open_video, time_base_of, video_stream

if TYPE_CHECKING:  # an extra, imported where it is used
    import av

Frame = NDArray[np.uint8]
BT709, BT601 = 1, 6  # colour matrices as ITU-T H.273 table 4 numbers them
MATRICES = {BT709, 4, 5, BT601, 7, 9}  # that swscale knows
LIMITED, FULL = 1, 2  # ranges, as `av.video.reformatter.ColorRange` numbers them
# Flags of swscale; PyAV names them all from 18 on.
BICUBIC, POINT, AREA = 4, 16, 32
MARGINS = (0, 2, 10)  # seconds before a place from which the keyframe before it is searched
EXACT = 0x40000 | 0x80000 | 0x2000  # accurate rounding, the same on every processor, chroma at every pixel


@dataclass(frozen=True)
class Place:
    """Where a frame lies in a file, so that decoding can go on behind it.

    Attributes:
        start: when it is shown, in units of the stream's time base.
        position: of its packet in the file, bytes.
        checksum: CRC-32 of its pixels, as `Reader.frames` gives them.
    """

    start: int
    position: int
    checksum: int


@dataclass(frozen=True)
class Time:
    """When a frame is shown, in units of the stream's time base.

    Attributes:
        start: from when.
        duration: for how long.
        place: where the frame lies; None behind damage, and where its timestamp does not tell.
    """

    start: int
    duration: int
    place: Place | None

    @property
    def end(self) -> int:
        """When the next one is shown."""
        return self.start + self.duration


class Reader:
    """Decodes a video's frames, in the order in which they are shown.

    Attributes:
        time_base: unit of its timestamps, seconds.
        matrix: how its colours were made from RGB, by ITU-T H.273; known after the first frame.
        damage: what could not be decoded, one line each; complete after the last frame.
    """

    def __init__(self, av: ModuleType, path: Path) -> None:
        self._av, self._path = av, path
        self._open()
        self.time_base = time_base_of(self.stream)
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.matrix = BT709
        self.primaries = self.transfer = 2  # not specified
        self.aspect: Fraction | None = None
        self._shape: tuple[int, int] | None = None  # width and height of the first frame, before it is turned

    def _open(self) -> None:
        self.damage: list[str] = []
        self._bad, self._first_bad = 0, 0.0
        with logged_errors(self._av) as errors:  # the first packets are read here, too
            self.container = open_video(self._av, self._path)
        self._note(errors, 0.0)
        self.stream = video_stream(self.container, self._path)
        self.stream.thread_type = "AUTO"

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    @property
    def seconds(self) -> float | None:
        """Length by the file's header."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return self.container.duration / 1e6 if self.container.duration else None

    def frames(self, skip: int = 0, last: Place | None = None) -> Iterator[tuple[Frame, Time]]:
        """The frames as they are meant to be seen, turned upright, ``(H, W, 3)``.

        Args:
            skip: number of frames at the beginning that are left out.
            last: where the last of them lies.  Decoding then starts at a keyframe before it, or at the beginning where
                that does not lead to the same pixels.
        """
        usual = max(round(1 / self.rate / self.time_base), 1)
        decoded, number = self._decoded(), 0
        previous: tuple[av.VideoFrame, int, int | None] | None = None  # with its start and its packet's position
        if last is not None and (behind := self._behind(last)) is not None:
            (frame, decoded), number = behind, skip - 1
            previous = frame, last.start, last.position
        for frame, position in decoded:
            stamp = frame.pts if frame.pts is not None else frame.dts
            if previous is None:
                start = stamp or 0
            else:
                # Where files were put together, the clock may start again.
                start = stamp if stamp is not None and stamp > previous[1] else previous[1] + usual
                number += 1
                if number > skip:
                    yield self._shown(*previous, start - previous[1])
            previous = frame, start, position if start == stamp and not self._bad else None
        if previous is not None and number >= skip:
            yield self._shown(*previous, previous[0].duration or usual)
        self._report(None if previous is None else previous[1] + (previous[0].duration or usual))

    def _behind(self, last: Place) -> tuple["av.VideoFrame", Iterator[tuple["av.VideoFrame", int | None]]] | None:
        """The frame at a place and those behind it; None, at the beginning of the file, where seeking does not help."""
        next(self._decoded(), None)  # it describes the video
        for margin in MARGINS:
            with contextlib.suppress(self._av.error.FFmpegError):
                self.container.seek(last.start - round(margin / self.time_base), stream=self.stream)
                decoded = self._decoded()
                for frame, position in decoded:
                    if (frame.pts, position) == (last.start, last.position):
                        # Pixels differ where a frame that they were predicted from was not decoded.
                        if zlib.crc32(self._pixels(frame).data) != last.checksum:
                            break
                        self.damage, self._bad = [], 0  # of the search, such as frames whose predecessors are missing
                        return frame, decoded
                    if frame.pts is None or position is None or (frame.pts > last.start and position > last.position):
                        break
        self.container.close()
        self._open()
        return None

    def _shown(self, frame: "av.VideoFrame", start: int, position: int | None, duration: int) -> tuple[Frame, Time]:
        pixels = self._pixels(frame)
        place = None if position is None else Place(start, position, zlib.crc32(pixels.data))
        return pixels, Time(start, duration, place)

    def _decoded(self) -> Iterator[tuple["av.VideoFrame", int | None]]:
        """Frames from here on, each with the position of its packet in the file where that is known."""
        errors = self._av.error
        packets = self.container.demux(self.stream)
        positions: dict[int | None, int | None] = {}
        # .avi has no timestamps: FFmpeg numbers packets, also those of B-frames, which are stored in another order.
        numbered = self.container.format.name == "avi"
        numbers: deque[int | None] = deque()
        time = 0.0
        while True:
            try:
                with logged_errors(self._av) as said:
                    packet = next(packets, None)
            except errors.FFmpegError as error:
                self.damage.append(f"{self._path} cannot be read beyond {time:.1f} s: {error.strerror}.")
                packet = None
            else:
                self._note(said, time)
            if packet is not None and packet.size:
                positions[packet.pts] = packet.pos
                if numbered:
                    numbers.append(packet.dts)
            try:
                frames = self.stream.codec_context.decode(packet)
            except errors.EOFError:  # the decoder is drained
                return
            except errors.FFmpegError:
                frames = []
                if numbers:
                    numbers.pop()
                self._note_bad(time)
            for frame in frames:
                position = None if frame.pts is None else positions.pop(frame.pts, None)
                if numbered:
                    frame.pts = numbers.popleft() if numbers else None
                if frame.is_corrupt:
                    self._note_bad(time)
                time = frame.time if frame.time is not None else time
                if self._shape is None:
                    self._describe(frame)
                yield frame, position
            if packet is None:
                return

    def _note(self, errors: list[str], time: float) -> None:
        if self.container.format.name in errors:
            self._note_bad(time)

    def _note_bad(self, time: float) -> None:
        if not self._bad:
            self._first_bad = time
        self._bad += 1

    def _report(self, end: int | None) -> None:
        if self._bad:
            errors = "1 error" if self._bad == 1 else f"{self._bad} errors"
            self.damage.append(
                f"{self._path} is damaged from {self._first_bad:.1f} s on ({errors}): frames are missing or wrong."
            )
        length = self.seconds
        if end is not None and length is not None:
            reached = float((end - (self.stream.start_time or 0)) * self.time_base)
            if reached < length - max(1.0, 2 / float(self.rate)):
                self.damage.append(f"{self._path} ends at {reached:.1f} s, its header says {length:.1f} s.")

    def _describe(self, frame: "av.VideoFrame") -> None:
        # Untagged video is BT.709 if it is high definition, as players take it.
        usual = BT709 if frame.height > 576 else BT601
        self.matrix = int(frame.colorspace) if int(frame.colorspace) in MATRICES else usual
        self._shape = frame.width, frame.height
        self.primaries, self.transfer = int(frame.color_primaries), int(frame.color_trc)
        aspect = self.stream.sample_aspect_ratio
        if aspect:
            self.aspect = 1 / Fraction(aspect) if _turns(frame)[0] else Fraction(aspect)

    def _pixels(self, frame: "av.VideoFrame") -> Frame:
        assert self._shape is not None  # of the first frame
        # Chroma is repeated here and averaged by `Writer`: together they change nothing.
        kernel = POINT if (frame.width, frame.height) == self._shape else BICUBIC
        full = frame.format.is_rgb or frame.color_range == FULL or frame.format.name.startswith("yuvj")
        frame.colorspace = self.matrix
        rgb = frame.reformat(
            *self._shape,
            format="rgb24",
            src_color_range=FULL if full else LIMITED,
            dst_color_range=FULL,
            interpolation=kernel | EXACT,
        )
        transposed, mirrored_x, mirrored_y = _turns(frame)
        pixels = rgb.to_ndarray()
        pixels = pixels.transpose(1, 0, 2) if transposed else pixels
        return np.ascontiguousarray(pixels[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1])


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
