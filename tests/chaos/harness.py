"""Runs a command in a forked process with limits, and says what went wrong in it.

A server process imports torch and Lightning once and forks one child per case, so that a case costs no imports and
cannot disturb the next one. Each child leads a process group of its own, which is killed when the case is over.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRELOADED = [
    "commands.cli.training",
    "commands.evaluate",
    "inference.backends.torch",
    "datamodules.inspection",
    __name__,
]
GIGABYTE = 2**30
MEMORY = 10 * GIGABYTE  # of addresses, of which torch's libraries take four
MOST_MB = 3000  # of memory in use, of which torch and Lightning take 600
CHILDREN = 4  # live children that a case may have: workers of two loaders
CANARY = "CANARY"  # a payload that runs writes this file into its working directory
ANSWERS = (0, 1, 2)  # done; problems found or a loss was not finite; refused
STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn")
FOREIGN = ("os.system", "os.exec", "pty.spawn")  # no command of ours has a reason for these


@dataclass(frozen=True)
class Case:
    """One call of a command.

    Attributes:
        name: what was changed, for the list of faults.
        command: module of commands/, or "module:function" called with `arguments`.
        must_fail: whether exit code 0 is a fault, too.
        limit_s: seconds after which it hangs.
        environment: changes to the environment; None removes a variable.
        file_limit: bytes that a file may have, as a full disk would; None is no limit.
        fresh: start Python anew, as `make` does, for what looks at its own command line or at signals while it starts.
    """

    name: str
    command: str
    arguments: Sequence[str]
    must_fail: bool = False
    limit_s: float = 60
    environment: Mapping[str, str | None] = field(default_factory=dict)
    file_limit: int | None = None
    fresh: bool = False


@dataclass
class Outcome:
    """What a case did; `code` is None where it was still running at its limit."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak_mb: float
    foreign: list[str]
    refused_starts: int
    left: int

    @property
    def error(self) -> str:
        """Standard error from the message on, without usage, warnings and progress before it."""
        at = self.err.rfind("error: ")
        return self.err[max(at, 0) :].strip()


def faults(case: Case, outcome: Outcome, folder: Path, allowed: Sequence[int] = ANSWERS) -> list[str]:
    """Kinds of fault, of those that the tables count; empty where the case passed."""
    found = []
    if outcome.code is None:
        found.append("hang")
    elif outcome.code not in allowed:
        found.append("exit code")
    elif case.must_fail and outcome.code == 0:
        found.append("accepted")
    if "Traceback (most recent call last)" in outcome.err:
        found.append("traceback")
    if any(folder.rglob(CANARY)) or outcome.foreign:
        found.append("code run")
    if outcome.refused_starts:
        found.append("processes")
    if outcome.peak_mb > MOST_MB:
        found.append("memory")
    if outcome.left:
        found.append("left behind")
    if outcome.code == 2 and not found:
        lines = [line for line in outcome.error.splitlines() if line.strip()]
        if not (1 <= len(lines) <= 2 and "error: " in outcome.err):
            found.append("message")
    return found


class Running:
    """A started case: its process, which leads a group of its own."""

    def __init__(self, case: Case, folder: Path, context: ForkServerContext) -> None:
        self.case, self.folder = case, folder
        self.log = folder.with_name(f"{folder.name}.log")
        self.log.mkdir(exist_ok=True)
        self.process = context.Process(target=_child, args=(case, folder, self.log))
        self.started = time.monotonic()
        self.process.start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the case's first process."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def finish(self, limit_s: float | None = None) -> Outcome:
        """Wait until it ends or its limit is over, then end all that is left of its group."""
        limit = self.case.limit_s if limit_s is None else limit_s
        self.process.join(max(0.0, self.started + limit - time.monotonic()))
        seconds = time.monotonic() - self.started
        code = self.process.exitcode
        left = len(group(self.process.pid)) if code is not None else 0
        while left and time.monotonic() - self.started < seconds + 2:  # workers end a moment after their parent
            time.sleep(0.05)
            left = len(group(self.process.pid))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.process.close()
        report = _json(self.log / "report.json")
        return Outcome(
            128 - code if code is not None and code < 0 else code,  # as a shell says that a signal ended it
            _text(self.log / "out"),
            _text(self.log / "err"),
            seconds,
            float(report.get("peak_mb", 0)),
            _lines(self.log / "foreign"),
            len(_lines(self.log / "refused")),
            left,
        )


class Warm:
    """The server of forked cases; use as a context manager.

    Args:
        environment: variables that all cases get, beside one thread per process and no downloads.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {
            "OMP_NUM_THREADS": "1",  # forks of a process with threads of OpenMP hang
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.context = multiprocessing.get_context("forkserver")

    def __enter__(self) -> "Warm":
        self.before = dict(os.environ)
        os.environ.update(self.environment)
        self.context.set_forkserver_preload(PRELOADED)
        return self

    def __exit__(self, *error: object) -> None:
        os.environ.clear()
        os.environ.update(self.before)
        forkserver._forkserver._stop()

    def start(self, case: Case, folder: Path) -> Running:
        """Start a case in a folder, which is made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        return Running(case, folder, self.context)

    def run(self, case: Case, folder: Path) -> Outcome:
        """Start a case and wait for its end."""
        return self.start(case, folder).finish()


def group(leader: int | None) -> list[int]:
    """Processes of a group, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(process_group) == leader and state not in "ZX":
                    found.append(int(entry.name))
    return found


def _child(case: Case, folder: Path, log: Path) -> None:
    os.setsid()
    for number, name in ((0, os.devnull), (1, log / "out"), (2, log / "err")):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if case.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.file_limit, resource.RLIM_INFINITY))
    os.chdir(folder)
    for name, value in case.environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if case.fresh:
        os.execv(sys.executable, [sys.executable, "-m", f"commands.{case.command}", *case.arguments])
    _watch(log)
    module, _, function = case.command.partition(":")
    sys.argv = [f"commands.{module}", *case.arguments]
    try:
        if function:
            code = getattr(importlib.import_module(module), function)(*case.arguments)
        else:
            code = importlib.import_module(f"commands.{module}").main([*case.arguments])
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        traceback.print_exc()
        code = 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with contextlib.suppress(OSError):  # under a file limit
        (log / "report.json").write_text(json.dumps({"peak_mb": peak}))
    sys.stdout.flush()
    sys.exit(code)


def _watch(log: Path) -> None:
    """Write down foreign programs that this process starts; refuse the start of more than a few processes."""
    pid = os.getpid()

    def append(name: str, line: str) -> None:
        with (log / name).open("a") as file:
            file.write(f"{line[:200]!r}\n")

    def hook(event: str, details: tuple[object, ...]) -> None:
        if event in FOREIGN:
            append("foreign", f"{event} {details}")
        elif event in STARTS and os.getpid() == pid:
            live = sum(_parent(entry) == pid for entry in Path("/proc").iterdir() if entry.name.isdigit())
            if live >= CHILDREN:
                append("refused", f"{event} {details}")
                raise RuntimeError(f"more than {CHILDREN} processes at a time")

    sys.addaudithook(hook)


def _parent(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return -1


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _json(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found
    return {}
