"""Atomic file writes, JSON files, digests, locks of folders, the cache folder, cores, priority, free space, spelling.

Every package may import this module; it imports none of this project.
"""

import contextlib
import difflib
import errno
import fcntl
import hashlib
import json
import os
import re
import reprlib
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

JSON_BYTES = 64 << 20  # the files of this project have kilobytes
JSON_LEVELS = 100  # of nesting; Python stops at about a thousand
PART = "." + 32 * "[0-9a-f]" + ".part"  # glob pattern of what `atomic_write` and `atomic_folder` write
# Errors of a disk, whichever file they are said of: full, over quota, over the size limit, read-only, broken, gone.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all, with the mode of the umask; missing parents are made.

    Args:
        path: the file to write.  One that is there already is replaced.

    Yields:
        An empty file in the same folder, unique to this call, to write to.  When the block ends, it is flushed to the
        disk and renamed to `path`; where the block raises, it is removed.

    Raises:
        OSError: the disk is full, read-only or gone, or the folder may not be written to; one line that names the file.
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
    except OSError as error:
        raise OSError(_not_written(path, error)) from error
    mode = part.stat().st_mode
    try:
        yield part
        with part.open("rb+") as file:
            if os.fstat(file.fileno()).st_mode != mode:  # safetensors renames a file of its own, of mode 0600, to it
                os.fchmod(file.fileno(), mode & 0o777)
            os.fsync(file.fileno())  # the rename must not reach the disk before the content
        os.replace(part, path)
    except BaseException as error:
        failure = _disk_failure(part, error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if failure is None:
            raise
        raise OSError(_not_written(path, failure)) from error


@contextmanager
def atomic_folder(path: Path, ours: Callable[[str], bool]) -> Iterator[Path]:
    """Write a folder so that it appears whole or not at all; missing parents are made.

    Args:
        path: the folder to write.  An empty one, and one of files of ours, is replaced at the end.
        ours: whether a file of that name is one that such a folder has.

    Yields:
        An empty folder beside it, unique to this call, to write files to.  When the block ends, they are flushed to the
        disk and the folder is renamed to `path`; where the block raises, it is removed.

    Raises:
        ValueError: `path` cannot be written, or holds anything else; found before the block, too.
        OSError: the disk is full, read-only or gone; one line that names the folder.
    """
    path = path.resolve()
    check_replaceable(path, ours)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    old = part.with_suffix(".old")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise OSError(_not_written(path, error)) from error
    try:
        yield part
        for file in part.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        check_replaceable(path, ours)
        if path.is_dir():  # which only an empty folder could be renamed to
            path.rename(old)
        part.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if old.is_dir() and not path.exists():
            old.rename(path)
        files = sorted(part.glob("*"), key=lambda file: file.stat().st_size)
        failure = _disk_failure(files[-1] if files else part / "empty", error)
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)
        if failure is None:
            raise
        raise OSError(_not_written(path, failure)) from error


def check_replaceable(path: Path, ours: Callable[[str], bool]) -> None:
    """Find out before the work whether `atomic_folder` can write a folder; makes nothing.

    Raises:
        ValueError: it cannot be written, is where a disk is mounted, or holds a file that is none of ours.
    """
    if path.resolve().is_mount():  # such as a volume of a container: nothing can be renamed to it
        raise ValueError(f"A disk is mounted at {path}, so it cannot be replaced: name a folder inside it.")
    check_writable(path / "file")
    check_writable(path.with_name(f"{path.name}.part"))
    if path.is_dir() and (foreign := sorted(file.name for file in path.iterdir() if not ours(file.name))):
        raise ValueError(
            f"{path} is not replaced: it holds {shortened(foreign[0])}, which no such folder has. Give another folder."
        )


def _disk_failure(part: Path, error: BaseException) -> OSError | None:
    """What the disk refused, where an error of writing `part` comes from the disk.

    Libraries lose the reason: torch.save raises a RuntimeError about positions, NumPy an OSError without number.  So
    one more write asks the disk itself.
    """
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.errno in DISK_ERRORS or error.filename in (str(part), str(part.parent), part, part.parent)
        return error if ours else None
    if not isinstance(error, Exception):
        return None
    if said := re.search(r"\(os error (\d+)\)", str(error)):  # as Rust libraries, safetensors for one, end a message
        return OSError(int(said[1]), os.strerror(int(said[1])))
    try:
        with part.open("ab") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found
    return None


def _not_written(path: Path, failure: OSError) -> str:
    """One line: which file, why, the space that is left, and what to do."""
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    if failure.errno in (errno.ENOENT, errno.ESTALE):
        return f"{path} could not be written: its folder was removed."
    why, advice = failure.strerror or str(failure), "Name another folder."
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        why += f", {free_space(there) / 2**20:,.1f} MiB are free in {there}"
        advice = "Free some space there, then run the command again."
    elif failure.errno == errno.EFBIG:
        advice = "Raise the limit on file sizes (ulimit -f), then run the command again."
    return f"{path} could not be written: {why}. {advice}"


def check_writable(path: Path) -> None:
    """Find out before the work whether a file can be written; makes nothing.

    Raises:
        ValueError: it is a folder, a file stands where its folder should be, or the disk is read-only, full or may not
            be written to; one line.
    """
    if path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder. Give another name.")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    why = ""
    if not there.is_dir():
        why = f"{there} is a file, not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"no permission to write in {there}, or its disk is read-only"
    elif free_space(there) == 0:
        why = f"the disk of {there} is full"
    if why:
        raise ValueError(f"{path} cannot be written: {why}. Give another folder.")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def yield_to_computation() -> None:
    """Give the calling thread the lowest priority, so that it takes only what computing threads leave idle.

    PyTorch splits each operation into equal parts, one per core, and waits for the last.  A thread that takes one of
    these cores would hold up all of them.  Only Linux has priorities of threads; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def free_space(path: Path) -> int:
    """Bytes that are free on the disk where a file or folder is or would be."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files that killed processes left, from a folder tree that no other process writes to."""
    for part in folder.rglob(PART):
        if part.is_file():  # a folder is an export's, which may go on right now
            part.unlink()


def read_utf8(path: Path) -> str:
    """Read a text that a user wrote, without the mark that some editors put before it.

    Raises:
        ValueError: it is not UTF-8; one line with the file.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (at byte {error.start}): save it as UTF-8.") from error


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write an indented JSON file atomically.

    Raises:
        ValueError: a number is NaN or infinite, which JSON lacks.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as part:
        part.write_text(text)


def read_json(path: Path, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object from a file, at bounded memory whatever the file holds.

    Args:
        path: an existing file.
        limit: its largest size in bytes.

    Raises:
        ValueError: see `parse_json`.
    """
    with path.open("rb") as file:
        return parse_json(file.read(limit + 1), str(path), limit)


def parse_json(text: str | bytes, where: str, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: the object.
        where: the file, for the message.
        limit: largest length of the text.

    Raises:
        ValueError: it is longer, no JSON object, or nested in more than a hundred levels; one line with the file.
    """
    if len(text) > limit:
        raise ValueError(f"{where} is not read: it has more than {limit:,} bytes of JSON.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged, or no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {shortened(content)} where a JSON object {{...}} is wanted.")
    level: list[object] = [content]
    for _ in range(JSON_LEVELS):
        level = [v for c in level if isinstance(c, dict | list) for v in (c.values() if isinstance(c, dict) else c)]
    if level:
        raise ValueError(f"{where} is not read: its values are nested in more than {JSON_LEVELS} levels.")
    return content


def shortened(value: object) -> str:
    """A value for a message: its `repr` on one line, cut to a hundred characters, however large or nested it is.

    Examples:
        >>> shortened(list(range(1000)))
        '[0, 1, 2, 3, 4, 5, ...]'
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    text = " ".join(short.repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def digest(content: str | Iterable[bytes], digits: int = 16) -> str:
    """The first hexadecimal digits of a SHA-256.

    Args:
        content: a text, or the pieces of some bytes in order.
        digits: how many, at most 64.
    """
    if isinstance(content, str):
        content = [content.encode(errors="surrogateescape")]  # file names need not be UTF-8
    sha256 = hashlib.sha256()
    for piece in content:
        sha256.update(piece)
    return sha256.hexdigest()[:digits]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an error message: `` Did you mean 'x'?``, or an empty string where nothing known is similar.

    Examples:
        >>> did_you_mean("clear2fogy", ["clear2foggy", "day2night"])
        " Did you mean 'clear2foggy'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


@contextmanager
def lock_folder(folder: Path, user: str = "training") -> Iterator[None]:
    """Hold the lock of a folder, which is made if missing; the lock ends with the block or with the process.

    Args:
        folder: of a run, or of other results.
        user: what kind of process writes to it, for the message.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(f"Another {user} uses {folder}: wait for it to end, or name another folder.") from error
    except OSError:  # some network file systems cannot lock a folder: work there goes on without a lock
        pass
    try:
        yield
    finally:
        os.close(handle)


def cache_folder() -> Path:
    """The cache folder: ``ONE_STEP_CACHE``, else ``one_step_translation`` in the user's cache folder."""
    if own := os.environ.get("ONE_STEP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "one_step_translation"


def read_cache(name: str) -> dict[str, Any]:
    """Read a JSON file of the cache folder; an empty dict where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads((cache_folder() / name).read_text())
        return found if isinstance(found, dict) else {}
    return {}


def write_cache(name: str, content: Mapping[str, object]) -> None:
    """Write a JSON file of the cache folder atomically; where the disk cannot be written to, nothing is cached."""
    with contextlib.suppress(OSError), atomic_write(cache_folder() / name) as part:
        part.write_text(json.dumps(content))


def size_and_mtime(path: Path) -> list[int]:
    """A file's size in bytes and its time of change in nanoseconds, to tell whether a cached result still holds."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
