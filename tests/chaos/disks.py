"""Disks that are full at a seeded byte: every command that writes, on a small tmpfs of its own."""

import random
import shutil
import subprocess
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .harness import Case, Warm, faults
from .results import Result
from .runs import Reference, resumed, whole
from .workshop import IMAGES, Workshop

LARGE = 64 * 2**20  # bytes: enough for any run here
COMMANDS = ("train", "resume", "train", "translate", "resume", "train", "evaluate", "export", "check_data", "data")
OUTPUT = {"translate": 30_000, "evaluate": 120_000, "export": 300_000, "check_data": 150_000, "data": 60_000}  # bytes
RUN = Path("clear2foggy") / "base" / "version_0"


def campaign(warm: Warm, workshop: Workshop, known: Reference, folder: Path, count: int, seed: int) -> Result:
    """Let commands write to small disks, then look at what is there; trainings go on once there is space.

    Without the right to mount, a limit on the size of every file stands in for the disk, and a warning says so.
    """
    result, start = Result("full disks", seed), time.monotonic()
    mounts = _can_mount(folder / "try")
    if not mounts:
        text = "This user may not mount a tmpfs: files are limited by RLIMIT_FSIZE instead of full disks."
        warnings.warn(text, stacklevel=2)
    stopped = _stopped(warm, workshop, folder / "stopped")
    archive = _archive(workshop, folder / "horse2zebra.zip")
    result.notes["disks are"] = "tmpfs" if mounts else "RLIMIT_FSIZE"
    result.notes["too full"] = 0
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        command, here = COMMANDS[number % len(COMMANDS)], folder / f"{number:04d}"
        disk = here / "disk"
        disk.mkdir(parents=True)
        free = draw.randrange(4096, OUTPUT.get(command, round(1.1 * _bytes(known.run)))) // 4096 * 4096
        with _mounted(disk) if mounts else _plain():
            if command == "resume":
                shutil.copytree(stopped, disk / RUN)
            if mounts:
                _resize(disk, _bytes(disk, blocks=True) + free)
            words = _words(command, workshop, disk, archive)
            case = Case(command, command, words, file_limit=None if mounts else max(free, 65536))
            outcome = warm.run(case, here)
            kinds, found = faults(case, outcome, here, allowed=(0, 2)), []
            result.notes["too full"] += outcome.code == 2
            if command in ("train", "resume"):
                found = whole(disk / RUN, known)
                if not kinds and outcome.code and (disk / RUN / "config.yaml").is_file():
                    if mounts:
                        _resize(disk, LARGE)
                    kinds, outcome = resumed(warm, disk / RUN, known, here)
            elif outcome.code:
                found = [f"{path.name} is left" for path in disk.rglob("*.part")]
        if found:
            kinds.append("bits lost")
            outcome.err += "\n" + "\n".join(found)
        name = f"{here.name} {command}, {free // 1024} KiB free"
        result.add(name, command, kinds, outcome)
        if kinds:
            print(f"{name}: {kinds} {outcome.err[-600:]!r}", flush=True)
        shutil.rmtree(here, ignore_errors=True)
    result.seconds = round(time.monotonic() - start)
    return result


def _words(command: str, workshop: Workshop, disk: Path, archive: Path) -> list[str]:
    run, data = workshop.run, workshop.data
    return {
        "train": workshop.train(disk / RUN, IMAGES),
        "resume": [f"--run={disk / RUN}"],
        "translate": [f"--ckpt={run}", f"--in={data / 'test_A'}", f"--out={disk / 'out'}", "--device=cpu"],
        "evaluate": [f"--ckpt={run}", f"--data={data}", f"--out={disk / 'scores'}", "--device=cpu"],
        "export": [f"--ckpt={run}", "--format=released", f"--out={disk / 'exported'}"],
        "check_data": ["--exp=clear2foggy", f"--data={data}", f"--out={disk / 'sheet.png'}"],
        "data": ["--name=horse2zebra", f"--archive={archive}", f"--out={disk / 'data'}"],
    }[command]


def _stopped(warm: Warm, workshop: Workshop, folder: Path) -> Path:
    """A run that was killed after its first checkpoint."""
    running = warm.start(Case("stopped", "train", workshop.train(folder / RUN, IMAGES)), folder)
    while running.is_alive() and not (folder / RUN / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.002)
    running.kill()
    running.finish()
    assert (folder / RUN / "checkpoints" / "last.ckpt").is_file()
    return folder / RUN


def _archive(workshop: Workshop, path: Path) -> Path:
    """The data in the layout of a public set."""
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(workshop.data.rglob("*.png")):
            file.write(image, f"horse2zebra/{image.parent.name.replace('_', '')}/{image.name}")
    return path


def _bytes(folder: Path, blocks: bool = False) -> int:
    """Size of the files of a folder; with `blocks` what they take on a disk, folders and all."""
    paths = [path for path in folder.rglob("*") if blocks or path.is_file()]
    return sum(path.stat().st_blocks * 512 if blocks else path.stat().st_size for path in paths)


def _can_mount(folder: Path) -> bool:
    folder.mkdir()
    with _mounted(folder) as there:
        return there


@contextmanager
def _mounted(folder: Path) -> Iterator[bool]:
    """A tmpfs in a folder; False where it cannot be mounted."""
    there = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", folder], capture_output=True)
    try:
        yield there.returncode == 0
    finally:
        if there.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def _plain() -> Iterator[bool]:
    yield False


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
