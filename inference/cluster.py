"""Translate a folder on a Ray cluster whose machines share the folders of images and adapters.

Each worker holds the model and takes a few images at a time, so that fast workers do more of them.  A worker that is
lost costs what it was at: another does that again.
"""

from __future__ import annotations  # Ray's types take no parameters at run time

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.folder import Outcome, Task, translate_folder
from inference.jobs import Record, Settings
from inference.translator import Translator
from ray_cluster import described, fit, join_cluster  # before Ray itself, whose settings it makes

# isort: split
import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

AT_A_TIME = 16  # images that a worker takes, and that are lost with it
CORES = 4  # of a worker without a GPU, where no number was given and so many are there
LOSSES = 2  # workers that images may lose before they count as their cause


@dataclass(frozen=True)
class Model:
    """What a worker loads; arguments as in `Translator.load`.

    Attributes:
        path: of adapter or exported model, absolute; or an adapter's name on the hub.
        precision: of all workers, not "auto", so that all give the same pixels.
        base: where the base is, if not where training found it.
    """

    path: Path
    precision: str
    base: str | None = None


class _Worker:
    """A process of the cluster that holds the model."""

    def __init__(self, model: Model, settings: Settings, batch: int | None) -> None:
        self._translator = Translator.load(model.path, model.precision, "auto", model.base)
        self._settings, self._batch = settings, batch
        self._translator.backend.embed([settings.prompt])
        self._translator.backend.release()  # the one prompt is cached

    def ready(self) -> str:
        """The device."""
        return self._translator.backend.device

    def translate(self, some: Sequence[Task]) -> list[Outcome]:
        """See `translate_folder`."""
        return list(translate_folder(self._translator, some, self._settings, self._batch))


def translate_on_cluster(
    address: str | None,
    model: Model,
    some: Sequence[Task],
    settings: Settings,
    batch: int | None = None,
    record: Record | None = None,
    cores: int | None = None,
) -> Iterator[Outcome]:
    """Translate image files on the workers of a cluster; see `translate_folder`.

    Args:
        address: ``host:port`` of a running cluster, "auto" for the one of this machine; None starts one here.
        model: what the workers load.
        some: what to do; absolute paths.
        settings: of the translation.
        batch: images or tiles translated together, at most; None chooses by their size and the device.
        record: gets the entry of every output.
        cores: CPU threads of a worker; without GPUs there are as many workers as fit.

    Yields:
        An outcome per task.

    Raises:
        ValueError: there is no cluster, not even one worker fits, or none could load the model.
        OSError: an output cannot be written.
    """
    nodes = join_cluster(address)
    try:
        gpus = float(any(node.get("GPU", 0) for node in nodes))
        cores = cores or max(1, min(CORES, int(max(node.get("CPU", 1) for node in nodes))))
        count = sum(fit(node, cores, gpus) for node in nodes)
        if not count:
            raise ValueError(
                f"Not even one worker fits: it takes {cores} cores and {gpus:g} GPUs of one machine, and there are "
                f"{described(nodes)}."
            )
        kind: Any = ray.remote(_Worker)
        work = _Work(some, count)
        crew = _Crew(lambda: kind.options(num_cpus=cores, num_gpus=gpus).remote(model, settings, batch), count)
        yield from _run(crew, work, record)
    finally:
        ray.shutdown()


class _Work:
    """Tasks that wait, in portions; a portion that is lost goes to the front again.

    Args:
        some: all tasks.
        workers: number of workers, each of which gets several portions where there are enough tasks.
    """

    def __init__(self, some: Sequence[Task], workers: int) -> None:
        alike = sorted(some, key=lambda task: (task.layout.mode, task.layout.network_shape))
        size = max(1, min(AT_A_TIME, len(alike) // (4 * workers)))
        self._waiting = deque(alike[first : first + size] for first in range(0, len(alike), size))
        self._losses: dict[Path, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> list[Task]:
        """The next portion."""
        return self._waiting.popleft()

    def lost(self, portion: list[Task]) -> list[Outcome]:
        """Put a portion back; what lost as many workers as may be gets outcomes instead."""
        first = portion[0].target
        self._losses[first] = self._losses.get(first, 0) + 1
        if self._losses[first] < LOSSES:
            self._waiting.appendleft(portion)
            return []
        if len(portion) > 1:  # one of them may be the cause
            self._waiting.extend([task] for task in portion)
            return []
        return [Outcome(task, f"{task.source}: {LOSSES} workers were lost at it") for task in portion]


class _Crew:
    """The workers, and what each does.

    Args:
        hire: starts a worker.
        count: number of workers.
    """

    def __init__(self, hire: Callable[[], ActorHandle[_Worker]], count: int) -> None:
        self._hire = hire
        self.doing: dict[ObjectRef[Any], tuple[ActorHandle[_Worker], list[Task]]] = {}  # by the result's reference
        for _ in range(count):
            self.hire()

    def hire(self) -> None:
        """Start a worker; it is given work once it has loaded the model."""
        worker = self._hire()
        self.doing[worker.ready.remote()] = worker, []

    def give(self, worker: ActorHandle[_Worker], portion: list[Task]) -> None:
        """Let a worker translate."""
        self.doing[worker.translate.remote(portion)] = worker, portion


def _run(crew: _Crew, work: _Work, record: Record | None) -> Iterator[Outcome]:
    failures = 0
    while any(portion for _, portion in crew.doing.values()) or work:
        if not crew.doing:
            raise ValueError("All workers of the cluster were lost.")
        (reference,), _ = ray.wait([*crew.doing], num_returns=1)
        worker, portion = crew.doing.pop(reference)
        try:
            found = ray.get(reference)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from error
        except RayActorError as error:
            if not portion:  # it could not load the model, or was lost before
                failures += 1
                if failures > LOSSES:
                    raise ValueError(f"No worker could load the model: {_reason(error)}") from error
            crew.hire()
            yield from work.lost(portion) if portion else ()
            continue
        if portion:
            for outcome in found:
                if record is not None and outcome.task.entry is not None and outcome.error is None:
                    record.add(outcome.task.entry)
                yield outcome
        if work:
            crew.give(worker, work.take())


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which is the exception of the worker's constructor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
