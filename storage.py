"""Files that appear whole or not at all, digests, locks, and the cache folder; imports nothing of this project."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all, into a folder that need not be there yet.

    Raises:
        ValueError: a number is NaN or infinite, which JSON lacks.
    """
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    os.replace(part, path)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a run folder, which need not be there yet, to this process; the kernel lets go of it with the process.

    Raises:
        ValueError: another process keeps it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(f"Another training is at work in {folder}: wait for it, or name another folder.") from error
    except OSError:  # some network file systems cannot lock a folder: training there goes on unguarded
        pass
    try:
        yield
    finally:
        os.close(handle)


def cache_folder() -> Path:
    """Where checks are remembered: ``ONE_STEP_CACHE``, else ``one_step_translation`` in the user's cache folder."""
    if own := os.environ.get("ONE_STEP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "one_step_translation"


def remembered(name: str) -> dict[str, Any]:
    """Read a JSON of the cache folder; an empty dict where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((cache_folder() / name).read_text())
        return found if isinstance(found, dict) else {}
    return {}


def remember(name: str, content: dict[str, Any]) -> None:
    """Write a JSON of the cache folder, whole or not at all; a read-only disk costs the next start its shortcut."""
    path = cache_folder() / name
    part = path.with_name(f".{name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content))
        os.replace(part, path)


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
