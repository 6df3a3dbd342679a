"""Unpack the archives of public data sets: safely, into a known layout, all files or none."""

import contextlib
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from storage import free_space

CHUNK = 1 << 20  # bytes
EXPANSION = 50  # of a whole archive at most: images hardly shrink, labels in JSON by 10 to 20
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError),
    *(struct.error, IndexError, OverflowError),  # of entries that lead beyond the file
)
SMALL = 64 << 20  # bytes that any archive may unpack to
HEADER = 1 << 20  # bytes of a long name or of further entries in a tar; both have some hundreds
HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


def unpack(archive: Path, layout: Mapping[str, str], out: Path) -> int:
    """Unpack the files of a zip or tar that a data set needs: all of them, or none.

    Args:
        archive: zip or tar file, compressed or not.
        layout: regular expression of a file's path in the archive => its path below `out`.
        out: folder, made if missing.

    Returns:
        The number of unpacked files.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: it is damaged, unsafe or of another data set; it unpacks to far more than its size or than the disk
            has left; or its files are there already.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"No archive {archive}.")
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=out))
    try:
        try:
            count = _extract(archive, layout, staging)
        except DAMAGED as error:
            raise ValueError(f"Cannot unpack {archive}: {error}. Is it complete?") from error
        except OSError as error:
            raise ValueError(f"Cannot unpack {archive} into {out}: {error}.") from error
        if not count:
            raise ValueError(f"{archive} holds no file of this data set.")
        _move(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


class _Member(tarfile.TarInfo):
    """A tar's member whose headers are bounded: tarfile reads them into memory whole, whatever size they declare."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type in HEADERS and member.size > HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


@dataclass
class _Budget:
    """Bytes that an archive may still unpack to, and the places that its members went to."""

    archive: Path
    left: int
    free: int
    places: set[Path] = field(default_factory=set)

    def count(self, size: int) -> None:
        """Count a member, wanted or not: those of a compressed tar have to be unpacked to be skipped.

        Raises:
            ValueError: the archive has grown too much.
        """
        self.left -= size
        if size < 0 or self.left < 0:
            raise ValueError(
                f"{self.archive} is refused: it unpacks to more than {EXPANSION} times its size. Nothing was unpacked."
            )

    def take(self, place: Path, size: int) -> None:
        """Take a place on the disk.

        Raises:
            ValueError: another member has it, or the disk is too small.
        """
        if place in self.places:
            raise ValueError(f"{self.archive} is refused: two of its members are {place}. Nothing was unpacked.")
        self.places.add(place)
        self.free -= size
        if self.free < 0:
            raise ValueError(f"{self.archive} needs more space than the disk has left. Nothing was unpacked.")


def _extract(archive: Path, layout: Mapping[str, str], staging: Path) -> int:
    budget = _Budget(archive, max(SMALL, EXPANSION * archive.stat().st_size), free_space(staging))
    with contextlib.ExitStack() as stack:
        for name, size, opener in tqdm(_members(archive, stack), unit="file", desc=archive.name):
            budget.count(size)
            places = (re.sub(f".*{pattern}", place, name) for pattern, place in layout.items())
            found = (place for place, pattern in zip(places, layout, strict=True) if re.search(pattern, name))
            place = next(found, None)
            if place is None:
                continue
            target = staging / place
            budget.take(Path(place), size)
            target.parent.mkdir(parents=True, exist_ok=True)
            with opener() as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, CHUNK)
    return len(budget.places)


def _members(archive: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name and unpacked size of each regular file of a zip or tar, with a function that opens it.

    Raises:
        ValueError: a member would leave the folder that the archive is unpacked into.
    """
    if zipfile.is_zipfile(archive):
        zipped = stack.enter_context(zipfile.ZipFile(archive))
        entries = zipped.infolist()
        for entry in entries:
            _refuse_unsafe(archive, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
        # Reading a member ends at the size that its entry declares.
        for entry in entries:
            if not entry.is_dir():
                yield entry.filename, entry.file_size, partial(zipped.open, entry)
    else:
        # Read in one pass: going back in a compressed tar means unpacking it again.
        try:
            tarred = stack.enter_context(tarfile.open(archive, tarinfo=_Member))
        except tarfile.ReadError as error:
            raise ValueError(f"{archive} is neither a zip nor a tar file.") from error
        for member in tarred:
            _refuse_unsafe(archive, member.name, member.issparse() or not (member.isreg() or member.isdir()))
            if member.isreg():
                yield member.name, member.size, partial(_open, tarred, member)


def _open(tarred: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tarred.extractfile(member)
    assert content is not None  # a regular file
    return content


def _refuse_unsafe(archive: Path, name: str, special: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if special or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise ValueError(
            f"{archive} is refused: its member {name!r} is a link or leads out of the folder. Nothing was unpacked."
        )


def _move(staging: Path, out: Path) -> None:
    # A folder that is not there yet moves as a whole; else the folders within it, each of which must be new.
    moves: list[tuple[Path, Path]] = []

    def plan(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            target = out / path.relative_to(staging)
            if not target.exists():
                moves.append((path, target))
            elif path.is_dir() and target.is_dir() and not any(p.is_file() for p in path.iterdir()):
                plan(path)
            else:
                raise ValueError(f"{target} is already there: remove it first, or unpack into another folder.")

    plan(staging)
    for path, target in moves:
        os.replace(path, target)
