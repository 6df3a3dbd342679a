"""Results on disk."""

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
