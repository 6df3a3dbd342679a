"""Unpack the archives of public data sets: safely, into a known layout, all files or none."""

import contextlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

CHUNK = 1 << 20  # bytes


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
        ValueError: it is damaged, unsafe or of another data set, or its files are there already.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"No archive {archive}.")
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        raise ValueError(f"{archive} is neither a zip nor a tar file.")
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=out))
    try:
        try:
            count = _extract(archive, layout, staging)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"Cannot unpack {archive}: {error}. Is it complete?") from error
        except OSError as error:
            raise ValueError(f"Cannot unpack {archive} into {out}: {error}.") from error
        if not count:
            raise ValueError(f"{archive} holds no file of this data set.")
        _move(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _extract(archive: Path, layout: Mapping[str, str], staging: Path) -> int:
    count = 0
    with contextlib.ExitStack() as stack:
        for name, opener in tqdm(_members(archive, stack), unit="file", desc=archive.name):
            places = (re.sub(f".*{pattern}", place, name) for pattern, place in layout.items())
            found = (place for place, pattern in zip(places, layout, strict=True) if re.search(pattern, name))
            place = next(found, None)
            if place is None:
                continue
            target = staging / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with opener() as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, CHUNK)
            count += 1
    return count


def _members(archive: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Names of the regular files of a zip or tar, each with a function that opens it.

    Raises:
        ValueError: a member would leave the folder that the archive is unpacked into.
    """
    if zipfile.is_zipfile(archive):
        zipped = stack.enter_context(zipfile.ZipFile(archive))
        entries = zipped.infolist()
        for entry in entries:
            _refuse_unsafe(archive, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
        yield from ((entry.filename, partial(zipped.open, entry)) for entry in entries if not entry.is_dir())
    else:
        # Read in one pass: going back in a compressed tar means unpacking it again.
        tarred = stack.enter_context(tarfile.open(archive))
        for member in tarred:
            _refuse_unsafe(archive, member.name, not (member.isreg() or member.isdir()))
            if member.isreg():
                yield member.name, partial(_open, tarred, member)


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
