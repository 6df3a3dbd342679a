"""TensorBoard's event file, written so that a disk that refuses a write does not end a training."""

import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

FLUSH_SECONDS = 10.0
MOST = 64 * 2**20  # bytes that wait for a disk at most
_numbers = count()


class EventFile:
    """One event file, with the methods of TensorBoard's `EventFileWriter`.

    That one writes from a thread, whose first failure prints a traceback and ends the training at its next entry.  Here
    a failed write is a warning; its events wait and are written once the disk takes them again, so that a record is in
    the file whole or not at all.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        stamp = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.path = folder / f"events.out.tfevents.{stamp}"
        self._records = RecordWriter(self)
        self._waiting = bytearray()
        self._written = 0  # bytes of whole records in the file
        self._flushed = 0.0  # seconds
        self._failed = False
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    def add_event(self, event: Event) -> None:
        """Add an event; it is on the disk some seconds later."""
        self._records.write(event.SerializeToString())
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def write(self, record: bytes) -> None:
        """Take a record that `RecordWriter` has framed."""
        self._waiting += record

    def flush(self) -> None:
        """Write what waits; a warning where that fails, once until it succeeds again."""
        self._flushed = time.monotonic()
        try:
            if not self._written:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self._written else "wb") as file:
                file.seek(self._written)
                file.write(self._waiting)
                file.truncate()  # the rest of a write that failed
        except OSError as error:
            if not self._failed:
                rank_zero_warn(
                    f"{self.path} could not be written ({error.strerror}): training goes on, and its curves and images "
                    "are written once the disk takes them."
                )
            self._failed = True
            if len(self._waiting) > MOST:
                self._waiting.clear()
            return
        self._written += len(self._waiting)
        self._waiting.clear()
        self._failed = False

    close = flush


class _FileWriter(FileWriter):
    def __init__(self, folder: Path) -> None:  # not torch's, which starts the thread
        self.event_writer = EventFile(folder)


class _SummaryWriter(SummaryWriter):
    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            writer = _FileWriter(Path(self.log_dir))
            # torch declares both as None.
            self.file_writer, self.all_writers = writer, {self.log_dir: writer}  # type: ignore[assignment]
        return self.file_writer  # type: ignore[return-value]


class EventLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger with such a file."""

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer; made at the first use."""
        if self._experiment is None:
            self._experiment = _SummaryWriter(self.log_dir)
        return self._experiment

    def log_settings(self, settings: Mapping[str, object], scores: Mapping[str, float]) -> None:
        """A row of TensorBoard's HPARAMS: settings, and scores by the tags that already have curves.

        Lightning's `log_hyperparams` would draw every score a second time, above the curves of the training.
        """
        params = self._sanitize_params({name: value for name, value in settings.items() if value is not None})
        self.hparams.update(params)
        writer = self.experiment._get_file_writer()
        for summary in hparams(params, dict(scores)):
            writer.add_summary(summary)

    def save(self) -> None:
        """Write what waits, and hparams.yaml."""
        try:
            super().save()
        except OSError as error:
            rank_zero_warn(f"hparams.yaml could not be written to {self.log_dir} ({error.strerror}).")
