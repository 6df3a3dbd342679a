"""Mutated image files: through the readers, `make translate` and `make check-data`."""

import io
import os
import random
import socket
import struct
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .harness import Case
from .workshop import Workshop

FORMATS = {  # ending, format of Pillow, modes that it can write
    ".png": ("PNG", ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    ".jpg": ("JPEG", ("RGB", "L", "CMYK")),
    ".tif": ("TIFF", ("RGB", "RGBA", "L", "P", "1", "I;16", "F", "I", "CMYK", "LAB", "YCbCr")),
    ".bmp": ("BMP", ("RGB", "L", "P", "1")),
    ".webp": ("WEBP", ("RGB", "RGBA")),
    ".ppm": ("PPM", ("RGB",)),
    ".pgm": ("PPM", ("L", "I;16")),
    ".gif": ("GIF", ("P", "L")),
}
ORIENTATION = 0x0112


def cases(workshop: Workshop, folder: Path, count: int, seed: int) -> Iterator[tuple[Case, Path]]:
    """Seeded cases: each is one image file, read by `through_everything`.

    Args:
        workshop: whose run translates, and whose images lie beside the mutated one.
        folder: where each case gets a folder of its own.
        count: of cases.
        seed: of all of them.
    """
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        here = folder / f"{number:04d}"
        data = workshop.copy_data(here / "data")
        change = SPECIAL[number] if number < len(SPECIAL) else draw.choice(CHANGES)
        name = change(data / "train_A" / "0", draw)
        (changed,) = set((data / "train_A").iterdir()) - {data / "train_A" / f"{k}.png" for k in (1, 2)}
        size, source = draw.choice(["--size=16", "--size=64", "", ""]), draw.choice([changed, changed.parent])
        words = [str(workshop.run), str(changed), size, str(source)]
        yield Case(name, f"{__name__}:through_everything", words), here


def through_everything(run: str, image: str, size: str, source: str) -> int:
    """Read an image file in every way that the project has; returns 3 where one of them breaks its promise.

    The readers may raise ValueError or OSError. A file that passes the check of headers must have the size that it
    says; but for PNG and JPEG, whose pixels are not decoded for it, it must be readable.
    """
    from commands import check_data, translate
    from images.headers import check_headers
    from images.reading import read_image

    path, broken = Path(image), []
    checked = _raises_only_user_errors(lambda: check_headers([path])[path], broken)
    read = _raises_only_user_errors(lambda: tuple(read_image(path).shape[1:]), broken)
    if checked and read and checked != read:
        broken.append(f"the header says {checked}, the pixels {read}")
    if checked and not read and Image.open(path).format not in ("PNG", "JPEG", "MPO"):
        broken.append("passes the check and cannot be read")
    for command, words in (
        (translate.main, [f"--ckpt={run}", "--device=cpu", f"--in={source}", "--out=translated", *size.split()]),
        (check_data.main, ["--exp=clear2foggy", f"--data={path.parents[1]}", "--out=sheet.png"]),
    ):
        if command(words) not in (0, 1, 2):
            broken.append(f"{command.__module__} has another exit code")
    print("\n".join(broken), file=sys.stderr)
    return 3 if broken else 0


def _raises_only_user_errors(read: Callable[[], tuple[int, ...]], broken: list[str]) -> tuple[int, ...] | None:
    try:
        return read()
    except (ValueError, OSError) as error:
        if len(str(error).splitlines()) > 2:
            broken.append(f"a message of several lines: {error}")
    except Exception:
        broken.append(traceback.format_exc())
    return None


def _pixels(mode: str, size: tuple[int, int], draw: random.Random) -> Image.Image:
    noise = np.random.default_rng(draw.randrange(2**32))
    width, height = size
    if mode == "I;16":
        return Image.fromarray(noise.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode in ("F", "I"):
        values = noise.normal(0, 1000, (height, width))
        return Image.fromarray(values.astype(np.float32 if mode == "F" else np.int32))
    image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return image.convert(mode)


def _encoded(
    draw: random.Random, size: tuple[int, int] = (40, 40), suffix: str | None = None, **options: object
) -> tuple[str, str, bytes]:
    """Ending, mode and bytes of a sound image."""
    suffix = suffix or draw.choice([*FORMATS])
    kind, modes = FORMATS[suffix]
    mode = draw.choice(modes)
    buffer = io.BytesIO()
    if kind == "TIFF" and mode not in ("LAB", "YCbCr", "F", "I"):
        options["compression"] = draw.choice([None, "tiff_lzw", "tiff_deflate", "packbits"])
    if kind == "JPEG":
        options["progressive"] = draw.random() < 0.5
    _pixels(mode, size, draw).save(buffer, kind, **options)
    return suffix, mode, buffer.getvalue()


def _write(path: Path, suffix: str, content: bytes) -> None:
    path.with_suffix(".png").unlink()
    path.with_suffix(suffix).write_bytes(content)


def _flip_header(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    return _flip(path, suffix, mode, bytearray(content), draw, min(64, len(content)))


def _flip_anywhere(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    return _flip(path, suffix, mode, bytearray(content), draw, len(content))


def _flip(path: Path, suffix: str, mode: str, content: bytearray, draw: random.Random, end: int) -> str:
    places = sorted(draw.randrange(end) for _ in range(draw.choice([1, 1, 2, 8])))
    for place in places:
        content[place] = draw.choice([0, 255, content[place] ^ (1 << draw.randrange(8)), draw.randrange(256)])
    _write(path, suffix, bytes(content))
    return f"{suffix} {mode}, bytes {places} changed"


def _truncate(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    length = draw.choice([0, 1, 8, 12, draw.randrange(len(content)), draw.randrange(len(content)), len(content) - 1])
    _write(path, suffix, content[:length])
    return f"{suffix} {mode}, {length} of {len(content)} bytes"


def _append(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    more = draw.choice([b"\0" * 10, draw.randbytes(100_000), content, b"PK\3\4"])
    _write(path, suffix, content + more)
    return f"{suffix} {mode}, {len(more)} bytes behind the end"


def _insert(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    place, length = draw.randrange(len(content)), draw.choice([1, 4, 1000])
    _write(path, suffix, content[:place] + draw.randbytes(length) + content[place:])
    return f"{suffix} {mode}, {length} bytes more at {place}"


def _wrong_ending(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    other = draw.choice([name for name in (*FORMATS, ".heic", ".JPEG", ".txt") if name != suffix])
    _write(path, other, content)
    return f"{suffix} {mode} called {other}"


def _size(path: Path, draw: random.Random) -> str:
    size = draw.choice(
        [(1, 1), (1, 700), (700, 1), (2, 3), (7, 9), (3, 900), (1, 5000), (5000, 1), (1500, 30), (17, 41)]
    )
    suffix, mode, content = _encoded(draw, size)
    _write(path, suffix, content)
    return f"{suffix} {mode} of {size[0]} x {size[1]} pixels"


def _sound(path: Path, draw: random.Random) -> str:
    suffix, mode, content = _encoded(draw)
    _write(path, suffix, content)
    return f"{suffix} {mode}, sound"


def _orientation(path: Path, draw: random.Random) -> str:
    exif = Image.Exif()
    value = draw.choice([0, 1, 6, 8, 9, 255, 65535])
    exif[ORIENTATION] = value
    suffix, mode, content = _encoded(draw, (30, 50), draw.choice([".png", ".jpg", ".webp"]), exif=exif)
    _write(path, suffix, content)
    return f"{suffix} {mode}, EXIF orientation {value}"


# Type, number of values, and the value or where it lies; EXIF 2.32, 4.6.2, says one value of type 3.
EIGHT = struct.pack("<I", 8)
ENTRIES = [
    *((2, 4, b"abc\0"), (2, 2, b"6\0\0\0"), (5, 1, EIGHT), (12, 1, EIGHT), (3, 4, EIGHT), (3, 0, b"\0\0\0\0")),
    *((7, 4, b"\6\0\0\0"), (13, 1, b"\6\0\0\0"), (99, 1, b"\6\0\0\0"), (2, 2**31, EIGHT), (4, 2**30, b"\0\0\0\x80")),
    *((11, 1, struct.pack("<f", 6.0)), (1, 1, b"\6\0\0\0"), (10, 1, b"\0\0\0\x80")),
]


def _orientation_type(path: Path, draw: random.Random) -> str:
    """An EXIF block whose orientation has another type or count, or offsets that lead outside."""
    kind, count, value = draw.choice(ENTRIES)
    entry = struct.pack("<HHI", ORIENTATION, kind, count) + value
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<H", draw.choice([1, 1, 1, 9]))
        + entry
        + draw.choice([b"\0\0\0\0", b"\x08\0\0\0", b""])
    )
    suffix, mode, content = _encoded(draw, (30, 50), draw.choice([".png", ".jpg", ".webp"]), exif=exif)
    _write(path, suffix, content)
    return f"{suffix} {mode}, EXIF orientation of type {kind}, {count} values"


def _png_header(path: Path, draw: random.Random) -> str:
    """An IHDR chunk with other sizes, depths or colour types, and a checksum that fits."""
    content = bytearray(_encoded(draw, suffix=".png")[2])
    width = draw.choice([0, 1, 40, 41, 20, 2**16, 2**31 - 1, 2**32 - 1])
    height = draw.choice([0, 1, 40, 41, 20, 2**16, 2**31 - 1, 2**32 - 1])
    depth, colours, interlaced = draw.choice([8, 16, 4, 1, 3]), draw.choice([0, 2, 3, 4, 6, 5]), draw.choice([0, 1, 2])
    content[16:29] = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    _write(path, ".png", bytes(content))
    return f".png that says {width} x {height}, {depth} bits, colour type {colours}, interlacing {interlaced}"


def _png_chunk(path: Path, draw: random.Random) -> str:
    content = _encoded(draw, suffix=".png")[2]
    name = draw.choice([b"eXIf", b"tEXt", b"zTXt", b"iCCP", b"tRNS", b"PLTE", b"gAMA", b"acTL", b"iTXt"])
    body = draw.choice([b"", b"\0", draw.randbytes(20), b"a\0\0" + zlib.compress(b"\0" * 30_000_000)])
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    _write(path, ".png", content[:33] + chunk + content[33:])
    return f".png with a chunk {name.decode()} of {len(body)} bytes"


def _bmp_header(path: Path, draw: random.Random) -> str:
    content = bytearray(_encoded(draw, suffix=".bmp")[2])
    place = draw.choice([10, 14, 18, 22, 28, 30, 46])
    value = draw.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 65536])
    content[place : place + 4] = struct.pack("<I", value)
    _write(path, ".bmp", bytes(content))
    return f".bmp whose field at {place} is {value}"


def _plain_text(path: Path, draw: random.Random) -> str:
    width = draw.choice(["40", "0", "-3", "9999999999", "100000", "x"])
    kind, most = (
        draw.choice(["P2", "P3", "P5", "P6", "P7", "Pf", "PF", "P1", "P4"]),
        draw.choice(["255", "0", "65536", "1", "-1"]),
    )
    body = draw.choice([b"", b"1 2 3 " * 3000, draw.randbytes(4800)])
    _write(path, draw.choice([".ppm", ".pgm"]), f"{kind}\n# remark\n{width} 40\n{most}\n".encode() + body)
    return f"{kind} of {width} x 40 up to {most}, {len(body)} bytes"


CHANGES: list[Callable[[Path, random.Random], str]] = [
    *(_flip_header, _flip_header, _flip_anywhere, _flip_anywhere, _truncate, _truncate, _append, _insert),
    *(_wrong_ending, _size, _sound, _orientation, _orientation_type, _orientation_type, _png_header, _png_chunk),
    *(_bmp_header, _plain_text),
]


def _fifo(path: Path, draw: random.Random) -> str:
    path.with_suffix(".png").unlink()
    os.mkfifo(path.with_suffix(".png"))
    return "a named pipe"


def _socket(path: Path, draw: random.Random) -> str:
    path.with_suffix(".png").unlink()
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("0.png")
    os.chdir(before)
    return "a socket"


def _folder(path: Path, draw: random.Random) -> str:
    path.with_suffix(".png").unlink()
    path.with_suffix(".png").mkdir()
    return "a folder called 0.png"


def _link(target: str) -> Callable[[Path, random.Random], str]:
    def make(path: Path, draw: random.Random) -> str:
        path.with_suffix(".png").unlink()
        path.with_suffix(".png").symlink_to(target)
        return f"a link to {target}"

    return make


def _called(name: str) -> Callable[[Path, random.Random], str]:
    def make(path: Path, draw: random.Random) -> str:
        path.with_suffix(".png").rename(path.with_name(name))
        return f"called {name[:40]!r}"

    return make


def _large(side: int, suffix: str) -> Callable[[Path, random.Random], str]:
    def make(path: Path, draw: random.Random) -> str:
        path.with_suffix(".png").unlink()
        Image.new("RGB", (side, side), (90, 120, 30)).save(path.with_suffix(suffix))
        return f"{suffix} of {side} x {side} pixels"

    return make


def _bits(sign: str) -> Callable[[Path, random.Random], str]:
    def make(path: Path, draw: random.Random) -> str:
        import tifffile

        path.with_suffix(".png").unlink()
        noise = np.random.default_rng(0).normal(0, 100, (40, 40, 3))
        tifffile.imwrite(path.with_suffix(".tif"), noise.astype(sign), photometric="rgb")
        return f".tif of {sign}"

    return make


SPECIAL: list[Callable[[Path, random.Random], str]] = [
    *(_fifo, _socket, _folder, _link("nowhere"), _link("0.png"), _link("/dev/zero"), _link("/dev/null"), _link("/")),
    *(_called("a\nb.png"), _called("\udcff.png"), _called("x" * 240 + ".png"), _called("-rf.png"), _called(" .png")),
    *(_called("0.png.exe"), _called(".hidden.png"), _large(9000, ".png"), _large(13000, ".png"), _large(9000, ".jpg")),
    *(_bits(kind) for kind in "float16 float32 float64 int8 int16 int32 uint32 uint64 complex64".split()),
]  # fmt: skip
