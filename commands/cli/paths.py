"""Paths and names that several commands are given, checked before torch is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADAPTER = "adapter.json"
# Lightning starts the other ranks by running the command line again, with this process's environment.  They
# write to the folder whose number the first rank chose, and only the environment can pass it on to them.
RUN_FOLDER = "ONE_STEP_RUN_FOLDER"


def check_checkpoint(given: str) -> None:
    """Refuse a path that cannot be an adapter or checkpoint, before it is read.

    Raises:
        FileNotFoundError: nothing is there, or a folder without adapter.
    """
    path = Path(given)
    if path.is_dir() and not any((folder / ADAPTER).is_file() for folder in (path, path / "adapter")):
        raise FileNotFoundError(
            f"No adapter in {path}: looked for {ADAPTER} there and in {path / 'adapter'}. Give a run folder "
            "(runs/EXP/BASE/version_N) that has finished a validation, an adapter folder, a .ckpt or a .pkl."
        )
    if not path.exists():
        raise FileNotFoundError(
            f"No checkpoint at {path}: give a run folder, an adapter folder, a .ckpt or a released .pkl."
        )


def new_run_folder(given: str | None, parent: Path) -> Path:
    """The folder of a new run, absolute: as given, else the next free number; on further ranks that of the first.

    Raises:
        ValueError: the given folder is not empty.
    """
    if inherited := os.environ.get(RUN_FOLDER):
        return Path(inherited)
    if given is not None:
        folder = Path(given)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"Run folder {folder} is not empty: continue it with `make resume RUN={folder}`, or name another."
            )
    else:
        taken = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()]
        folder = parent / f"version_{max(taken, default=-1) + 1}"
    return folder.absolute()


@contextmanager
def shared_with_ranks(folder: Path) -> Iterator[None]:
    """Name the run folder to the ranks that are started inside."""
    os.environ[RUN_FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[RUN_FOLDER]
