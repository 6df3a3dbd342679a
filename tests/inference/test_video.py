"""Videos: timestamps, colours, rotation and audio are kept; interrupted work goes on; what bad files get."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from commands.translate import main
from images.ranges import from_pixels
from inference import Translator
from inference.jobs import Settings
from inference.video import Video, translate_video


class Identity:
    """Stands in for a `Translator`: gives every frame back as it is."""

    backend = SimpleNamespace(identity="identity")

    def __init__(self):
        self.computed = 0

    def prepare(self, image, size, preprocess, resolution):
        return from_pixels(image)

    def compute(self, prepared, *settings):
        self.computed += len(prepared)
        return prepared

    @staticmethod
    def finish(prepared, output):
        return output


def colours(number, height=32, width=32):
    """Smooth colours that move with the number of the frame, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / 96
    waves = [np.sin(2 * x + number / 5), np.cos(2 * y + number / 7), np.sin(x + y + number / 9)]
    return (128 + 90 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def write(path, stamps, codec="libx264", matrix=1, full=False, audio=None, shape=(32, 32), turn=None, base=1000):
    """A video with frames at those times, in 1/base seconds."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"crf": "5"} if codec == "libx264" else {})
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, base)
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        if turn:
            stream.set_display_rotation(*turn)
        if audio:
            sound = out.add_stream(audio, rate=48000, layout="mono")
            tone = (np.sin(np.arange(int(48000 * stamps[-1] / base)) / 20) * 8000).astype(np.int16)[None]
            clip = av.AudioFrame.from_ndarray(tone, "s16", "mono")
            clip.rate, clip.pts = 48000, 0
            out.mux(sound.encode(clip))
            out.mux(sound.encode(None))
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(colours(number, *shape), "rgb24")
            frame.colorspace = matrix
            frame = frame.reformat(
                format="yuv420p",
                src_color_range=2,
                dst_color_range=2 if full else 1,
                interpolation=32 | 0x40000 | 0x2000 | 0x80000,
            )
            frame.pts, frame.time_base = stamp, Fraction(1, base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def read(path):
    """Frames as RGB, and their times in seconds."""
    with av.open(str(path)) as container:
        frames, times = [], []
        for frame in container.decode(video=0):
            assert frame.color_range == 1 and int(frame.colorspace) in (1, 6, 9)
            rgb = frame.reformat(
                format="rgb24",
                src_color_range=1,
                dst_color_range=2,
                interpolation=16 | 0x40000 | 0x2000 | 0x80000,
            )
            frames.append(rgb.to_ndarray())
            times.append(frame.pts * frame.time_base)
        return np.stack(frames), times


def luma(pixels):
    """Of BT.709, which has every pixel; colours have a quarter of them, too few for the noise of a random network."""
    return pixels @ np.array([0.2126, 0.7152, 0.0722])


def run(source, target, translator=None, **settings):
    settings = Settings(prompt="fog", **settings)
    return translate_video(translator or Identity(), Video.check(source, target), settings)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_frames_keep_their_times_and_colours(tmp_path, ending):
    stamps = [0, 40, 80, 200, 210, 500, 1500, 5000, 5040, 9000, 9010]  # variable frame rate, three segments
    source = write(tmp_path / f"drive{ending}", stamps)
    assert run(source, tmp_path / f"out{ending}") == []
    frames, times = read(tmp_path / f"out{ending}")
    assert times == [Fraction(stamp, 1000) for stamp in stamps]
    expected = np.stack([colours(number) for number in range(len(stamps))]).astype(int)
    assert np.abs(frames - expected).max() <= 10 and np.abs(frames - expected).mean() < 1.5
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"drive{ending}", f"out{ending}"]


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (6, True), (9, False)])
def test_matrix_and_range_are_those_of_the_input(tmp_path, matrix, full):
    source = write(tmp_path / "drive.mp4", range(0, 400, 40), matrix=matrix, full=full)
    run(source, tmp_path / "out.mp4")
    frames, _ = read(tmp_path / "out.mp4")
    expected = np.stack([colours(number) for number in range(10)]).astype(int)
    assert np.abs(frames - expected).max() <= 10 and np.abs(frames - expected).mean() < 1.5
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert int(next(out.decode(video=0)).colorspace) == matrix


@pytest.mark.parametrize("turn", [(90,), (-90,), (180,), (0, True), (90, True)])
def test_frames_are_upright_for_the_network_and_in_the_result(tmp_path, turn):
    source = write(tmp_path / "phone.mov", [0, 40, 80], shape=(32, 48), turn=turn)
    seen = []

    class Looking(Identity):
        def prepare(self, image, *settings):
            seen.append(image)
            return super().prepare(image, *settings)

    assert Video.check(source, tmp_path / "out.mp4").shape == ((48, 32) if abs(turn[0]) == 90 else (32, 48))
    run(source, tmp_path / "out.mp4", Looking())
    frames, _ = read(tmp_path / "out.mp4")
    expected = np.rot90(colours(0, 32, 48), turn[0] // 90)
    expected = (expected[:, ::-1] if len(turn) > 1 else expected).astype(int)
    assert np.abs(seen[0] - expected).mean() < 1.5 and np.abs(frames[0] - expected).mean() < 2
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert next(out.decode(video=0)).rotation == 0


def test_odd_sizes_repeat_a_row_and_a_column(tmp_path):
    class Odd(Identity):
        def prepare(self, image, *settings):
            return super().prepare(image[:-1, :-1], *settings)

    run(write(tmp_path / "drive.mp4", [0, 40, 80]), tmp_path / "out.mp4", Odd())
    frames, _ = read(tmp_path / "out.mp4")
    expected = np.pad(colours(0)[:-1, :-1], ((0, 1), (0, 1), (0, 0)), "edge").astype(int)
    assert frames.shape == (3, 32, 32, 3) and np.abs(frames[0] - expected).mean() < 2


def translate(adapter, source, target, *more):
    return main(["--ckpt", str(adapter), "--in", str(source), "--out", str(target), "--device", "cpu", *more])


def test_the_command_translates_every_frame(adapter, tmp_path, capsys):
    source = write(tmp_path / "drive.mp4", [0, 40, 100], shape=(32, 48))
    assert translate(adapter, source, tmp_path / "new" / "fog.mp4", "--resolution", "direct") == 0
    (given, _), (frames, times) = read(source), read(tmp_path / "new" / "fog.mp4")
    assert times == [0, Fraction(40, 1000), Fraction(100, 1000)]
    translator = Translator.load(adapter, device="cpu")
    for number in range(3):
        expected = luma(translator(given[number], resolution="direct"))
        assert np.abs(luma(frames[number]) - expected).mean() < 4
        assert np.abs(luma(given[number]) - expected).mean() > 15, "nothing was translated"
    printed = capsys.readouterr()
    assert "Video: 48 x 32" in printed.out and "Resolution: " in printed.out and "3/3 frames" in printed.err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fog.mp4"]
