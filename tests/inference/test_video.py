"""Videos: timestamps, colours, rotation and audio are kept; interrupted work goes on; what bad files get."""

import signal
import subprocess
import sys
import time
import zlib
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from commands.translate import main
from images.ranges import from_pixels
from images.resizing import resize
from inference import Translator
from inference.high_resolution import Layout
from inference.jobs import Settings
from inference.translator import Prepared
from inference.video import Video, translate_video
from inference.video_reading import Reader
from storage import lock_folder


class Identity:
    """Stands in for a `Translator`: gives every frame back as it is."""

    backend = SimpleNamespace(identity="identity", device="cpu")

    def __init__(self):
        self.computed = 0

    def layout(self, source, shape, *settings):
        return Layout("direct", shape, shape)

    def prepare(self, image, size, preprocess, resolution):
        full = from_pixels(image)
        return Prepared(full, None, Layout("direct", full.shape[1:], full.shape[1:]), full)

    def compute(self, prepared, *settings):
        self.computed += len(prepared)
        return [one.image for one in prepared]

    @staticmethod
    def finish(prepared, output, smoothed):
        return output


class Lifted(Identity):
    """Lifts a translation from 16 x 16 pixels, that brightens one frame and darkens the next."""

    finish = staticmethod(Translator.finish)

    def prepare(self, image, *settings):
        full = from_pixels(image)
        return Prepared(full, None, Layout("lift", full.shape[1:], (16, 16)), resize(full, (16, 16)))

    def compute(self, prepared, *settings):
        super().compute(prepared)
        inputs = [one.network_input for one in prepared]
        shift = [np.random.default_rng(zlib.crc32(one.tobytes())).normal(0, 0.1) for one in inputs]
        return [one * np.float32(0.6) + np.float32(k) for one, k in zip(inputs, shift, strict=True)]


def colours(number, height=32, width=32):
    """Smooth colours that move with the number of the frame, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / 96
    waves = [np.sin(2 * x + number / 5), np.cos(2 * y + number / 7), np.sin(x + y + number / 9)]
    return (128 + 90 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def write(
    path, stamps, codec="libx264", matrix=1, full=False, audio=None, shape=(32, 32), turn=None, base=1000, **options
):
    """A video with frames at those times, in 1/base seconds, and with options of the encoder."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options or ({"crf": "5"} if codec == "libx264" else {}))
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, base)
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        if turn:
            stream.set_display_rotation(*turn)
        if audio:
            sound = out.add_stream(audio, rate=48000, layout="mono")
            ticks = np.arange(int(48000 * stamps[-1] / base))
            tone = (np.sin(ticks / 20 + (ticks / 4000) ** 2) * 8000).astype(np.int16)[None]
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
            assert frame.color_range == 1 and frame.format.name == "yuv420p", "which every player shows"
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


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_frames_that_start_after_the_audio_start_at_their_time(tmp_path, ending):
    stamps = range(12345, 192345, 3600)
    source = write(tmp_path / "drive.nut", stamps, audio="pcm_s16le", base=90000)
    run(source, tmp_path / f"out{ending}")
    assert read(tmp_path / f"out{ending}")[1] == [Fraction(stamp, 90000) for stamp in stamps]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_the_last_frame_is_shown_as_long_as_it_was(tmp_path, ending):
    source = write(tmp_path / f"drive{ending}", range(0, 6000, 40))
    run(source, tmp_path / f"out{ending}")
    with av.open(str(source)) as before, av.open(str(tmp_path / f"out{ending}")) as after:
        assert after.duration == before.duration == 6_000_000
        assert after.streams.video[0].average_rate == 25


@pytest.mark.parametrize(("codec", "matrix", "full"), [("libx264", 1, False), ("ffv1", 6, True), ("ffv1", 9, False)])
def test_colours_of_any_matrix_and_range_stay(tmp_path, codec, matrix, full):
    source = write(tmp_path / "drive.mkv", range(0, 400, 40), codec, matrix, full)
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


def test_names_may_hold_a_colon(tmp_path, monkeypatch):
    """Relative ones: FFmpeg would take what is before it for a protocol, and a `%03d` for a number."""
    monkeypatch.chdir(tmp_path)
    Path("at 12:00").mkdir()
    source = write(tmp_path / "drive.mp4", [0, 40, 80]).rename("2024-05-01T12:30:00 %03d.mp4")
    target = Path("at 12:00", "2024:fog.mkv")
    run(source, target, Identity())
    assert len(read(target.resolve())[0]) == 3
    assert [path.name for path in target.parent.iterdir()] == [target.name]


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
        # Predicted frames of noise differ by 5: without its macroblock tree, x264 spends less on them.
        assert np.abs(luma(frames[number]) - expected).mean() < 6
        assert np.abs(luma(given[number]) - expected).mean() > 15, "nothing was translated"
    printed = capsys.readouterr()
    assert "Video: 48 x 32" in printed.out and "Resolution: " in printed.out and "3/3 frames" in printed.err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fog.mp4"]


def tone_of(path):
    """Codec of the audio, and its samples."""
    with av.open(str(path)) as container:
        name = container.streams.audio[0].codec_context.name
        return name, np.concatenate([frame.to_ndarray().astype(float)[0] for frame in container.decode(audio=0)])


@pytest.mark.parametrize(("audio", "ending"), [("aac", ".mp4"), ("libopus", ".mkv"), ("pcm_s16le", ".mkv")])
def test_audio_is_copied(tmp_path, audio, ending):
    source = write(tmp_path / f"drive{ending}", range(0, 6000, 200), audio=audio)
    assert "with audio" in Video.check(source, tmp_path / "out.mp4").description
    run(source, tmp_path / "out.mp4")
    sounds = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(audio=0) if packet.size]
            sounds.append((b"".join(map(bytes, packets)), float(packets[0].pts * packets[0].time_base)))
    assert sounds[0][0] == sounds[1][0] and abs(sounds[0][1] - sounds[1][1]) < 0.01


def test_audio_that_the_container_cannot_hold_becomes_aac(tmp_path):
    source = write(tmp_path / "drive.mkv", range(0, 3000, 200), audio="pcm_u8")
    run(source, tmp_path / "out.mp4")
    (_, before), (name, after) = tone_of(source), tone_of(tmp_path / "out.mp4")
    assert name == "aac" and abs(len(before) - len(after)) < 3000
    lags = [np.corrcoef(before[4000:40000], after[4000 + lag : 40000 + lag])[0, 1] for lag in range(-60, 61)]
    assert max(lags) > 0.95


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.inference import test_video

class Killed(getattr(test_video, sys.argv[3])):
    def compute(self, prepared, *settings):
        if self.computed == 70:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(prepared, *settings)

test_video.run(Path(sys.argv[1]), Path(sys.argv[2]), Killed())
"""


@pytest.mark.parametrize("kind", [Identity, Lifted])
def test_a_killed_process_costs_at_most_a_segment(tmp_path, kind):
    source = write(tmp_path / "drive.mp4", range(0, 15000, 150), audio="aac")  # 27 frames in each segment of 4 s
    whole, out = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole, kind())
    command = [sys.executable, "-c", KILLED, str(source), str(out), kind.__name__]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    states = [path.stem[:6] for path in (tmp_path / ".out.mp4.segments").glob("*.npz")]
    assert states == (["000001"] if kind is Lifted else []), "the last one alone is needed"
    translator, counted, before = kind(), [], []
    video = Video.check(source, out)
    assert translate_video(translator, video, Settings(prompt="fog"), None, counted.append, before.append) == []
    assert before == [54] and sum(counted) == 46 and translator.computed == 46
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


B_FRAMES = {"g": "30", "bf": "3", "b-adapt": "0", "sc_threshold": "0"}


def interrupted(source, out, monkeypatch):
    """Translate a video with an interruption after frame 150; returns how many frames the second call decoded."""

    class Failing(Identity):
        def compute(self, prepared, *settings):
            if self.computed == 150:
                raise ValueError("no more")
            return super().compute(prepared, *settings)

    with pytest.raises(ValueError, match="no more"):
        run(source, out, Failing())
    video, decode, decoded, before = Video.check(source, out), Reader._decoded, [], []
    monkeypatch.setattr(Reader, "_decoded", lambda self: (decoded.append(1) or one for one in decode(self)))
    translator = Identity()
    translate_video(translator, video, Settings(prompt="fog"), finished=before.append)
    monkeypatch.undo()
    assert before[0] > 90 and translator.computed == len(read(out)[0]) - before[0]
    return len(decoded)


@pytest.mark.parametrize(("ending", "before"), [(".mp4", 30), (".mov", 30), (".mkv", 30), (".avi", 30), (".ts", 80)])
def test_interrupted_work_starts_at_a_keyframe_and_ends_in_the_same_bits(tmp_path, monkeypatch, ending, before):
    base = {"base": 25} if ending == ".avi" else {}
    stamps = range(200) if base else range(0, 8000, 40)
    source = write(tmp_path / f"drive{ending}", stamps, **base, **B_FRAMES)
    run(source, tmp_path / "whole.mp4")
    assert len(read(tmp_path / "whole.mp4")[0]) == 200
    assert interrupted(source, tmp_path / "out.mp4", monkeypatch) <= 1 + before + 100
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize("kind", ["put together", "without keyframes", "damaged", "clock starts again"])
def test_interrupted_work_ends_in_the_same_bits_where_seeking_does_not_help(tmp_path, monkeypatch, kind):
    every = {"intra-refresh": "1", "g": "30"} if kind == "without keyframes" else B_FRAMES
    source = write(tmp_path / ("drive.mp4" if kind == "damaged" else "drive.ts"), range(0, 8000, 40), **every)
    content = source.read_bytes()
    if kind == "put together":  # every time is there twice, with the same pixels
        content += content
    if kind == "clock starts again":  # before the frame that work goes on behind
        content = content[: len(content) // 10 // 188 * 188] + content
    if kind == "damaged":
        with av.open(str(source)) as container:
            place = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe][1] + 12
        content = content[:place] + np.random.default_rng(0).bytes(100) + content[place + 100 :]
    source.write_bytes(content)
    damage = run(source, tmp_path / "whole.mp4")
    assert bool(damage) == (kind == "damaged")
    interrupted(source, tmp_path / "out.mp4", monkeypatch)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize("wrong", ["start", "position", "checksum"])
def test_a_place_that_is_not_found_again_has_every_frame_decoded(tmp_path, wrong):
    source = write(tmp_path / "drive.mp4", range(0, 2400, 40), **B_FRAMES)
    every = list(Reader(av, source).frames())
    place = every[39][1].place
    for last in (place, replace(place, **{wrong: getattr(place, wrong) + 1})):
        reader = Reader(av, source)
        opened = reader.container
        left = list(reader.frames(40, last))
        assert (reader.container is opened) == (last == place)
        assert [time for _, time in left] == [time for _, time in every[40:]]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_of_avi_are_in_order_and_start_with_the_audio(tmp_path, codec):
    source = write(tmp_path / "drive.avi", range(50), codec, base=25, audio="pcm_s16le", **B_FRAMES)
    with av.open(str(source)) as container:
        given = list(container.decode(video=0))
    assert {"B", "P"} <= {"?IPBS"[int(frame.pict_type)] for frame in given}
    run(source, tmp_path / "out.mp4")
    frames, times = read(tmp_path / "out.mp4")
    assert times == [Fraction(number, 25) for number in range(50)]
    given = np.stack([frame.to_ndarray(format="rgb24") for frame in given]).astype(int)
    assert np.abs(frames - given).mean() < 3 < np.abs(np.diff(given, axis=0)).mean()


def test_a_lifted_video_flickers_less_than_its_frames_alone(tmp_path):
    class Alone(Lifted):
        @staticmethod
        def finish(prepared, output, smoothed):
            return Translator.finish(prepared, output)

    source = write(tmp_path / "drive.mp4", range(0, 2000, 40))
    flicker = []
    for kind in (Lifted, Alone):
        run(source, tmp_path / "out.mp4", kind())
        flicker.append(np.abs(np.diff(luma(read(tmp_path / "out.mp4")[0]).mean(axis=(1, 2)))).mean())
    assert flicker[0] < 0.7 * flicker[1]


@pytest.mark.parametrize("change", ["settings", "input", "model"])
def test_other_work_is_not_continued(tmp_path, change):
    class Failing(Identity):
        def compute(self, prepared, *settings):
            if self.computed == 40:
                raise ValueError("no more")
            return super().compute(prepared, *settings)

    source, out = write(tmp_path / "drive.mp4", range(0, 8000, 150)), tmp_path / "out.mp4"
    with pytest.raises(ValueError, match="no more"):
        run(source, out, Failing())
    left = sorted(path.name for path in (tmp_path / ".out.mp4.segments").iterdir())
    assert len(left) == 2 and "_27_" in left[0] and left[1] == "segments.json" and not out.exists()
    translator = Identity()
    if change == "input":
        write(source, range(0, 8000, 150))
    if change == "model":
        translator.backend = SimpleNamespace(identity="another", device="cpu")
    run(source, out, translator, seed=int(change == "settings"))
    assert translator.computed == 54


def test_only_one_process_writes_a_video(tmp_path):
    source = write(tmp_path / "drive.mp4", [0, 40])
    with lock_folder(tmp_path / ".out.mp4.segments"), pytest.raises(ValueError, match="Another translation"):
        run(source, tmp_path / "out.mp4")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, full_at):
    source = write(tmp_path / "drive.mp4", range(0, 5000, 200), audio="aac")
    for size in (500, 4000):  # in a segment, and in the result
        with full_at(size), pytest.raises(OSError, match="could not be written"):
            run(source, tmp_path / "out.mp4")
        assert not (tmp_path / "out.mp4").exists() and not list(tmp_path.rglob("*.part"))
    run(source, tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 25


def test_the_clock_of_a_broadcast_starts_at_zero(tmp_path):
    source = write(tmp_path / "drive.ts", range(0, 900000, 90000), base=90000, audio="aac")
    with av.open(str(source)) as container:
        assert container.start_time > 1_000_000
    run(source, tmp_path / "out.mp4")
    _, times = read(tmp_path / "out.mp4")
    assert times[0] < 0.1 and times[-1] - times[0] == 9


def test_files_that_were_put_together_go_on_where_the_clock_starts_again(tmp_path):
    one = write(tmp_path / "one.ts", range(0, 180000, 3600), base=90000, audio="aac")
    two = write(tmp_path / "two.ts", range(0, 180000, 3600), base=90000, audio="aac", shape=(48, 32))
    one.write_bytes(one.read_bytes() + two.read_bytes())
    run(one, tmp_path / "out.mp4")
    frames, times = read(tmp_path / "out.mp4")
    assert frames.shape == (100, 32, 32, 3), "of the first frame's size"
    assert 3.9 < times[-1] - times[0] < 4.1
    assert 3.7 * 48000 < len(tone_of(tmp_path / "out.mp4")[1]) < 4.1 * 48000


def test_what_can_be_decoded_of_a_damaged_video_is_translated(tmp_path):
    source = write(tmp_path / "drive.mkv", range(0, 8000, 100))
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    damage = run(source, tmp_path / "cut.mp4")
    assert "its header says" in damage[-1]
    assert 10 < len(read(tmp_path / "cut.mp4")[0]) < 70


@pytest.mark.parametrize(("ending", "codec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9")])
def test_it_goes_on_behind_damage_and_says_it_wherever_it_is(tmp_path, ending, codec):
    source = write(tmp_path / f"drive{ending}", range(0, 8000, 100), codec)
    content, lost = source.read_bytes(), 0
    for place in range(len(content) // 4, len(content) // 2, len(content) // 40):
        damaged = bytearray(content)
        damaged[place : place + 300] = np.random.default_rng(place).bytes(300)
        source.write_bytes(damaged)
        with closing(Reader(av, source)) as reader:
            times = [time.start for _, time in reader.frames()]
        assert len(times) > 20 and times[-1] > 7000, "it goes on behind the damage"
        if len(times) < 80:
            lost += 1
            assert any("is damaged from" in line for line in reader.damage), "FFmpeg skips it without an error"
    assert lost >= 5, "it loses frames at most places, though not within a single large frame"
    assert av.logging.get_level() is None, "logging is as it was"


def test_a_damaged_video_is_said_and_gives_exit_code_1(adapter, tmp_path, capsys):
    source = write(tmp_path / "drive.mkv", range(0, 4000, 500))
    source.write_bytes(source.read_bytes()[:-1500])
    assert translate(adapter, source, tmp_path / "out.mp4", "--resolution", "direct") == 1
    printed = capsys.readouterr()
    assert "warning: " in printed.err and "what could be decoded" in printed.out


@pytest.mark.parametrize(
    ("name", "output", "words"),
    [
        ("missing.mp4", "out.mp4", ["missing.mp4", "does not exist"]),
        ("drive.mp4", "out.gif", [".mp4", "out.gif"]),
        ("drive.mp4", "out", ["out.mp4"]),
        ("drive.mp4", "folder", ["is a folder"]),
        ("drive.mp4", "drive.mp4", ["overwrite"]),
        ("drive.mp4", "link.mp4", ["overwrite"]),
        ("sound.mp4", "out.mp4", ["no video stream", "audio"]),
        ("text.mp4", "out.mp4", ["text.mp4", "cannot be read"]),
        ("cut.mp4", "out.mp4", ["cut.mp4", "cannot be read"]),
        ("drive.xyz", "out.mp4", ["no video"]),
        ("folder", "out.mp4", ["is a folder"]),
        ("drive.mp4", "text.mp4/out.mp4", ["text.mp4", "file"]),
    ],
)
def test_what_cannot_be_translated_is_refused_in_a_line(adapter, tmp_path, capsys, name, output, words):
    source = write(tmp_path / "drive.mp4", [0, 40, 80])
    (tmp_path / "link.mp4").hardlink_to(source)
    (tmp_path / "drive.xyz").write_bytes(source.read_bytes())
    (tmp_path / "cut.mp4").write_bytes(source.read_bytes()[:600])  # its index stands at the end
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        sound = out.add_stream("aac", rate=48000, layout="mono")
        clip = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
        clip.rate = 48000
        out.mux(sound.encode(clip))
        out.mux(sound.encode(None))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert translate(adapter, tmp_path / name, tmp_path / output) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and error.count("\n") == 1, error
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_options_of_images_and_a_missing_library_are_named(adapter, tmp_path, capsys, monkeypatch):
    source = write(tmp_path / "drive.mp4", [0, 40, 80])
    assert translate(adapter, source, tmp_path / "out.mp4", "--depth", "16") == 2
    assert "DEPTH is for images" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "av", None)
    assert translate(adapter, source, tmp_path / "out.mp4") == 2
    assert "pip install -e '.[video]'" in capsys.readouterr().err


def test_stages_overlap_and_the_first_frame_comes_at_once(tmp_path):
    seen = []

    class Slow(Identity):
        """Each stage takes some time."""

        def prepare(self, image, *settings):
            time.sleep(0.03)
            return super().prepare(image, *settings)

        def compute(self, prepared, *settings):
            seen.append(time.perf_counter())
            time.sleep(0.03 * len(prepared))
            return super().compute(prepared, *settings)

        @staticmethod
        def finish(prepared, output, smoothed):
            time.sleep(0.03)
            return output

    video = Video.check(write(tmp_path / "drive.mp4", range(0, 4000, 100)), tmp_path / "out.mp4")
    started = time.perf_counter()
    translate_video(Slow(), video, Settings(prompt="fog"), batch=3)
    took = time.perf_counter() - started
    assert seen[0] - started < 0.5 and took < 0.75 * 40 * 3 * 0.03, "one after the other takes 3.6 s"
    assert len(read(tmp_path / "out.mp4")[0]) == 40


def test_tiles_of_a_frame_go_together_and_memory_that_is_too_small_is_a_line(adapter, tmp_path, capsys, monkeypatch):
    source = write(tmp_path / "drive.mp4", [0, 40, 80], shape=(64, 64))
    calls = []

    def compute(self, images, *settings, **more):
        calls.append(len(images))
        raise MemoryError(f"{len(images)} x 32 x 32 pixels do not fit")

    monkeypatch.setattr(Translator, "translate", compute)
    monkeypatch.setattr(Translator, "layout", lambda *_: Layout("tiles", (64, 64), (32, 32)))
    assert translate(adapter, source, tmp_path / "out.mp4", "--batch", "2") == 2
    assert calls == [2, 1], "tiles, not frames"
    assert "1 x 32 x 32 pixels do not fit: give a smaller SIZE" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["drive.mp4"]


def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path):
    calls = []

    class Small(Identity):
        def compute(self, prepared, *settings):
            calls.append(len(prepared))
            if len(prepared) > 2:
                raise MemoryError("does not fit")
            return super().compute(prepared, *settings)

    video = Video.check(write(tmp_path / "drive.mp4", range(0, 400, 40)), tmp_path / "out.mp4")
    translate_video(Small(), video, Settings(prompt="fog"), batch=8)
    assert calls == [8, 4, 2, 2, 2, 2, 2], "every batch but the first ones fits"
    run(video.source, tmp_path / "alone.mp4")
    assert np.array_equal(read(tmp_path / "out.mp4")[0], read(tmp_path / "alone.mp4")[0])
