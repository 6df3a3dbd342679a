"""Paths and names that several commands are given, checked before torch is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from adapter_hub import hub_name, pin
from packaged_adapters import packaged_adapter
from storage import check_writable

ADAPTER = "adapter.json"
# Lightning starts the other ranks by running the command line again, with this process's environment.  They
# write to the folder whose number the first rank chose, and only the environment can pass it on to them.
RUN_FOLDER = "ONE_STEP_RUN_FOLDER"
CONFIG = "config.yaml"  # of a run folder


def check_checkpoint(given: str) -> str:
    """Refuse a path that cannot be an adapter or checkpoint, before it is read; fetch an adapter of the hub.

    Returns:
        The path as given; for an adapter of the hub, its name with the commit, which is printed; the folder of a
        packaged one.

    Raises:
        FileNotFoundError: nothing is there, or a folder without adapter.
        ValueError: a pipe, socket or device, whose reading might never end.
    """
    if (name := hub_name(given)) is not None:
        pinned = str(pin(name))
        print(f"Adapter: {pinned}", flush=True)
        return pinned
    if (packaged := packaged_adapter(given)) is not None:
        return str(packaged)
    path = Path(given)
    if path.is_dir() and not any((folder / ADAPTER).is_file() for folder in (path, path / "adapter")):
        raise FileNotFoundError(
            f"No adapter in {path}: looked for {ADAPTER} there and in {path / 'adapter'}. Give a run folder "
            "(runs/EXP/BASE/version_N) that has finished a validation, an adapter folder, a .ckpt or a .pkl."
        )
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ValueError(f"{path} is a pipe, socket or device, not a checkpoint.")
    if not path.exists():
        raise FileNotFoundError(
            f"No checkpoint at {path}: give a run folder, an adapter folder, a .ckpt or a released .pkl."
        )
    return given


@contextmanager
def new_run_folder(given: str | None, parent: Path) -> Iterator[Path]:
    """Make the folder of a new run, for this process alone; removed at the end where nothing was written into it.

    Further ranks get the folder of the first: through the environment where Lightning starts them.  Where torchrun or
    SLURM does, theirs is any existing one until `RunFolder` has the first rank's.

    Args:
        given: the folder; None takes the next free number.
        parent: of the numbered folders.

    Yields:
        The folder, absolute.

    Raises:
        OSError: it cannot be made.
        ValueError: the given folder is not empty, or cannot be written to.
    """
    if inherited := os.environ.get(RUN_FOLDER):
        yield Path(inherited)
        return
    folder = Path(parent / "version_0" if given is None else given).absolute()
    if _is_further_rank():
        yield folder
        return
    check_writable(folder / CONFIG)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if given is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made[:1] = [folder := _next_version(folder.parent)]
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            what = "it holds no run, so name"
            if (folder / CONFIG).is_file():
                what = f"`make resume RUN={folder}` continues its run, also where it has no checkpoint yet; or name"
            raise ValueError(f"Run folder {folder} is not empty: {what} another.")
    try:
        yield folder
    finally:
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def _next_version(parent: Path) -> Path:
    """Make ``version_N`` with the next free number; mkdir fails where it exists, so no two processes get one number."""
    taken = [int(path.name[8:]) for path in parent.glob("version_*") if path.name[8:].isdigit()]
    for number in count(max(taken, default=-1) + 1):
        with suppress(FileExistsError):
            (folder := parent / f"version_{number}").mkdir()
            return folder
    raise AssertionError("numbers never end")


def _is_further_rank() -> bool:
    """Whether torchrun or SLURM has started this process as another rank than the first."""
    return any(os.environ.get(name, "0") != "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK"))


@contextmanager
def shared_with_ranks(folder: Path) -> Iterator[None]:
    """Name the run folder to the ranks that are started inside."""
    os.environ[RUN_FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[RUN_FOLDER]
