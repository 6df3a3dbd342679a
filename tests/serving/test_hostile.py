"""Broken and hostile requests, seeded: each is refused or answered, none fails, and the server is as well as before."""

import random
import socket
import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.serving.conftest import file_of, many_scans, photo, pixels_of, refused

COUNT = 500
GROWTH = 150e6  # bytes of resident memory
REFUSALS = {400, 404, 405, 406, 413, 415, 422}
FORM = "multipart/form-data; boundary=x"


def images():
    """Small files of every format that is read, by name."""
    small = photo(16, 24)
    rgba = np.concatenate([small, small[..., :1]], axis=2)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    planes = BytesIO()
    tifffile.imwrite(
        planes, small.astype(np.uint16).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression=8
    )
    palette = BytesIO()
    Image.fromarray(small).convert("P").save(palette, "PNG", transparency=3)
    return {
        "png": file_of(small, icc_profile=profile),
        "png alpha": file_of(rgba),
        "png palette": palette.getvalue(),
        "png deep": cv2.imencode(".png", small.astype(np.uint16) * 257)[1].tobytes(),
        "jpeg": file_of(small, "JPEG", exif=exif, icc_profile=profile),
        "jpeg progressive": file_of(small, "JPEG", progressive=True, optimize=True),
        "webp": file_of(rgba, "WEBP", exif=exif),
        "webp lossless": file_of(small, "WEBP", lossless=True),
        "tiff": file_of(small, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": file_of(small, "TIFF", compression="jpeg"),
        "tiff deep": planes.getvalue(),
        "bmp": file_of(small, "BMP"),
        "ppm": file_of(small, "PPM"),
    }


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, depth=8, colour=2):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def many_images():
    """A TIFF of a megabyte whose images have six gigabytes."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(2):
            planes = np.zeros((3, 1000, 1000), np.uint16)
            writer.write(planes, photometric="rgb", planarconfig="separate", compression=8, metadata=None)
    content = bytearray(file.getvalue())
    # Copies of the second directory, each of which leads to the next one.
    (first,) = struct.unpack_from("<I", content, 4)
    entries = struct.unpack_from("<H", content, first)[0]
    (second,) = struct.unpack_from("<I", content, first + 2 + 12 * entries)
    size = 2 + 12 * struct.unpack_from("<H", content, second)[0]
    directory, link = bytes(content[second : second + size]), second + size
    for _ in range(1000):
        content += bytes(len(content) % 2)
        struct.pack_into("<I", content, link, len(content))
        content += directory + bytes(4)
        link = len(content) - 4
    return bytes(content)


def bombs():
    """Small files of images that are large, or say so."""
    zeros = zlib.compress(bytes(60_000_000), 9)
    bmp = bytearray(file_of(photo(4, 4), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    return [
        png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", zeros)),
        png(4400, 4400, chunk(b"IDAT", zeros), depth=16),
        png(8, 8, chunk(b"iCCP", b"x\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(200)))),
        png(8, 8, *[chunk(b"zTXt", b"x\0\0" + zeros)] * 9, chunk(b"IDAT", zlib.compress(bytes(200)))),
        png(8, 8, chunk(b"eXIf", b"II*\0" + bytes(99)), chunk(b"IDAT", zeros)),
        png(0, 0, chunk(b"IDAT", zeros)),
        bytes(bmp),
        b"P6 30000 30000 255\n" + bytes(100),
        b"P6 " + b"9" * 10_000 + b" 1 255\n",
        b"P5 4000 4000 65535\n" + bytes(1000),
        b"RIFF\xff\xff\xff\x7fWEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1" + bytes(99),
        many_images(),
        many_scans(5000),
    ]


def damaged(dice, content):
    """The content after one of several accidents."""
    content = bytearray(content)
    kind = dice.randrange(6)
    if kind == 0:
        del content[dice.randrange(len(content)) :]
    elif kind == 1:
        for _ in range(dice.choice((1, 1, 3, 30))):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    elif kind == 2:
        start = dice.randrange(len(content))
        content[start : start + dice.randrange(1, 40)] = dice.choice((b"\xff", b"\0", b"\x7f")) * dice.randrange(1, 40)
    elif kind == 3:  # sizes, offsets and counts stand at the start
        content[dice.randrange(min(64, len(content)))] = dice.randrange(256)
    elif kind == 4:
        start = dice.randrange(len(content))
        content[start:start] = content[: dice.randrange(len(content))]
    else:
        content[dice.randrange(8, len(content)) :] = dice.randbytes(dice.randrange(3000))
    return bytes(content)


TEXTS = [
    *("\0", "a\0b", "../../etc/passwd", "%2e%2e%2fetc%2fpasswd", "file:///etc/passwd", "http://localhost/x", "$(id)"),
    *("`id`", "'; DROP TABLE x; --", "{{7*7}}", "${jndi:ldap://x}", "\u202e\uffff", "\U0001f600" * 300, "-1", "1e400"),
    *("nan", "infinity", "٣", "9" * 4500, "0x10", "1_0", " 1 ", "true", "null", "[]", '{"a":1}', "a\r\nX-Evil: 1", ""),
    *("models/../../x", "C:\\windows\\win.ini", "\\\\host\\share", "stabilityai/sd-turbo", "hf://x/y", "x" * 9000),
]
NAMES = [
    "direction",
    "prompt",
    "strength",
    "seed",
    "size",
    "resolution",
    "preprocess",
    "image",
    "__class__",
    "adapter",
    "",
]
CHARSETS = ["utf-7", "utf-16", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "rot13", "zlib", "undefined"]
CHARSETS += ["x y", "../../x", "x" * 300, "base64", "mbcs"]


def form(dice, good):
    """A multipart body, and its type."""
    kind = dice.randrange(8)
    head = b"Content-Disposition: form-data; name="
    image = b"--x\r\n" + head + b'"image"; filename="a.png"\r\n\r\n' + good + b"\r\n"
    if kind == 0:
        return image + b"--x--", dice.choice((FORM + "y", "multipart/form-data", 'multipart/form-data; boundary="'))
    if kind == 1:
        return image[: dice.randrange(len(image))], FORM
    if kind == 2:
        return b"--x\r\n" + head + b'"' + b"n" * dice.choice(
            (4000, 1 << 20)
        ) + b'"\r\n\r\n1\r\n' + image + b"--x--", FORM
    if kind == 3:
        long = [b"X-%d: %s\r\n" % (k, b"v" * dice.choice((1, 5000))) for k in range(dice.choice((2, 9, 5000)))]
        return b"--x\r\n" + b"".join(long) + head + b'"size"\r\n\r\n24\r\n' + image + b"--x--", FORM
    if kind == 4:
        name, value = (dice.choice((b"\\ud800", b"+2AA-", b"\xd8\x00", b"size", b"xn--\xff")) for _ in range(2))
        body = b"--x\r\n" + head + b'"' + name + b'"\r\n\r\n' + value + b"\r\n" + image + b"--x--"
        return body, f"{FORM}; charset={dice.choice(CHARSETS)}"
    if kind == 5:
        many = b"".join(b"--x\r\n" + head + b'"size"\r\n\r\n24\r\n' for _ in range(dice.choice((2, 30, 3000))))
        return many + image + b"--x--", FORM
    if kind == 6:
        return dice.randbytes(2000) + b"\r\n--x" + dice.randbytes(2000), FORM
    return damaged(dice, image + b"--x--\r\n"), FORM


def raw(server, content):
    """The status of an answer to bytes that httpx would not send."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
        except TimeoutError:
            raise
        except OSError:  # the connection was cut while it still sent
            return 400
    return int(answer.split()[1]) if answer else 400


def raw_request(dice, good):
    """A request that is none of HTTP, or of an extraordinary one."""
    start = b"POST /translate HTTP/1.1\r\nHost: x\r\n"
    return dice.choice(
        [
            start + b"X-Long: " + b"v" * 200_000 + b"\r\n\r\n",
            start + b"X: 1\r\n" * 20_000 + b"\r\n",
            start + b"Content-Length: -1\r\n\r\n",
            start + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
            start + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            start + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nx",
            start + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
            start + b"Content-Length: %d\r\n\r\n" % (len(good) + 9) + good,
            b"POST /translate?" + b"size=1&" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /translate?\xff\xfe\x00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"POST /../../etc/passwd HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"POST http://elsewhere/translate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00" + dice.randbytes(500),
            dice.randbytes(3000) + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
        ]
    )


def attack(server, seed, files, large):
    """Send one request; its kind and the status of the answer."""
    dice = random.Random(seed)
    name = dice.choice([*files])
    kind = dice.choices(("damaged", "random", "bomb", "form", "fields", "path", "raw"), (50, 6, 4, 16, 12, 6, 6))[0]
    if kind == "raw":
        status = raw(server, raw_request(dice, files[name]))
        assert status == 200 or 400 <= status < 500, (seed, status)
        return kind, status
    content, path, fields, headers = files[name], "/translate", [], {}
    if kind == "damaged":
        content = damaged(dice, content)
    elif kind == "random":
        content = content[: dice.choice((0, 4, 12, 40))] + dice.randbytes(dice.choice((1, 100, 100_000)))
    elif kind == "bomb":
        content = dice.choice(large)
    elif kind == "form":
        content, headers["Content-Type"] = form(dice, content)
    elif kind == "fields":
        fields = [(dice.choice(NAMES), dice.choice(TEXTS)) for _ in range(dice.choice((1, 1, 2, 5)))]
        fields *= dice.choice((1, 1, 1, 500 if len(str(fields)) < 100 else 1))
        headers["Accept"] = dice.choice((*["*/*"] * 16, "image/png;q=9", ";;;,,,;q=", "x" * 9000, "image/webp;q=1;q=0"))
    else:
        path += "/" + dice.choice(
            ("%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "x%0d%0aSet-Cookie:x", "%ff%fe", "x" * 5000)
        )
    answer = server.client.post(path, content=content, params=fields, headers=headers)
    assert answer.status_code == 200 or answer.status_code in REFUSALS, (seed, kind, name, answer.status_code)
    if answer.status_code == 200:
        assert Image.open(BytesIO(answer.content)).size
    else:
        refused(answer, answer.status_code, "")
    assert "set-cookie" not in answer.headers and "x-evil" not in answer.headers
    return kind, answer.status_code


def campaign(server, first):
    """Send requests of `COUNT` seeds, and look at the server before and afterwards."""
    good, files, large = file_of(photo()), images(), bombs()
    assert max(map(len, large)) < 1 << 20
    wanted = pixels_of(server.translate(good).content)
    for content in large:  # the allocator keeps what the largest images took
        server.translate(content)
    before = server.metrics()
    with ThreadPoolExecutor(4) as threads:
        seen = Counter(threads.map(lambda seed: attack(server, seed, files, large), range(first, first + COUNT)))
    kinds = Counter(kind for kind, _ in seen.elements())
    assert kinds.total() == COUNT and len(kinds) == 7
    assert {200, 400, 404, 413, 415, 422} <= {status for _, status in seen}
    assert server.client.get("/health").json() == {"healthy": True}
    assert np.array_equal(pixels_of(server.translate(good).content), wanted)
    after = server.metrics()
    assert after["one_step_requests_in_progress",] == after["one_step_queue_length",] == 0
    assert ("one_step_requests_total", "500") not in after
    grown = after["process_resident_memory_bytes",] - before["process_resident_memory_bytes",]
    print(f"grown by {grown / 1e6:.0f} MB:", *sorted(seen.items()))
    assert grown < GROWTH, f"{grown / 1e6:.0f} MB"
    assert "Traceback" not in server.said


def test_hostile_requests_leave_the_server_as_it_was(server):
    campaign(server, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 9))
def test_more_of_them(server, number):
    campaign(server, number * COUNT)
