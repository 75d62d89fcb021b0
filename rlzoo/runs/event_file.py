"""TensorBoard's event file, written without a thread, and cut after a step when a run goes on."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import TensorBoardOutputFormat
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.io_wrapper import IsSummaryEventsFile
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from rlzoo.core.safe_files import fsync_folder, temporary_name
from rlzoo.runs.records import Guard, Records, Warn


class TensorBoardOutput(TensorBoardOutputFormat):
    """SB3's TensorBoard format over an :class:`EventFile`.

    Args:
        folder: Where the event file is.
        warn: As in :func:`rlzoo.runs.outputs.run_logger`.
        after: As in :func:`rlzoo.runs.outputs.run_logger`.
    """

    def __init__(self, folder: Path, warn: Warn, after: int | None = None) -> None:
        self._events = EventFile(folder, warn, after)
        self.writer = _Summaries(self._events)
        self._is_closed = False

    def sync(self) -> None:
        """Wait until every event is on the disk."""
        self._events.sync()


class _Summaries(SummaryWriter):
    """Torch's writer of summaries, into an event file that is given."""

    file_writer: Any
    all_writers: Any

    def __init__(self, events: EventFile) -> None:
        self._events = events
        super().__init__(log_dir=events.get_logdir())

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = _Writer(self._events)
            self.all_writers = {self.log_dir: self.file_writer}
        writer: FileWriter = self.file_writer
        return writer


class _Writer(FileWriter):
    def __init__(self, events: EventFile) -> None:
        self.event_writer = events


class EventFile:
    """Takes the place of TensorBoard's ``EventFileWriter``.

    That one writes in a thread, which dies with a traceback at the first error and takes the file
    with it. Its file name has the time in front and TensorBoard reads files in the order of their
    names: after the clock was set back it would never see the newer file.

    Args:
        folder: Where the file is made.
        warn: As in :func:`rlzoo.runs.outputs.run_logger`.
        after: As in :func:`rlzoo.runs.outputs.run_logger`.
    """

    def __init__(self, folder: Path, warn: Warn, after: int | None = None) -> None:
        self._folder, self._lock = folder, threading.Lock()
        path = folder / _next_name(folder)
        self._records, self._guard = Records(path), Guard(path, warn)
        self._head = _head(time.time(), None if after is None else after + 1)
        with self._guard:
            if after is not None:
                _merge(folder, path, after)
        with self._guard:
            self._append(b"")

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def add_event(self, event: Event) -> None:
        """Write an event."""
        with self._lock, self._guard:
            self._append(_record(event.SerializeToString()))

    def flush(self) -> None:
        """Do nothing: events are not held back."""

    def reopen(self) -> None:
        """Do nothing: after :meth:`close`, the next event opens the file again."""

    def sync(self) -> None:
        """Wait until every event is on the disk."""
        with self._lock, self._guard:
            self._records.sync()

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._guard:
            self._records.close()

    def _append(self, record: bytes) -> None:
        self._records.append(record if self._records.open() else self._head + record)


def _event_files(folder: Path) -> list[Path]:
    """Return the event files in the order in which TensorBoard reads them."""
    return sorted(path for path in folder.iterdir() if IsSummaryEventsFile(path.name))


def _next_name(folder: Path) -> str:
    """Return a name of TensorBoard's pattern that comes after those of all event files."""
    number = int(time.time())
    with contextlib.suppress(OSError):
        for path in _event_files(folder):
            found = re.match(r"events\.out\.tfevents\.(\d{10})\.", path.name)
            number = max(number, int(found[1]) + 1) if found else number
    return f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}.0"


def _record(event: bytes) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event)
    return buffer.getvalue()


def _head(wall_time: float, purge_step: int | None = None) -> bytes:
    """Return the first records of an event file.

    Args:
        wall_time: When the run was started; TensorBoard takes it from the first event.
        purge_step: TensorBoard forgets what it has read of this step and later ones.
    """
    source = SourceMetadata(writer=__name__)
    event = Event(wall_time=wall_time, file_version="brain.Event:2", source_metadata=source)
    head = _record(event.SerializeToString())
    if purge_step is not None:
        start = Event(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        start.wall_time = wall_time
        # TensorBoard takes the first start of a run as its beginning, not as a restart.
        head += 2 * _record(start.SerializeToString())
    return head


def _merge(folder: Path, target: Path, last: int) -> None:
    """Copy the events of steps up to ``last`` from all event files into a new one.

    The new one makes TensorBoard forget everything before it, so that a reader which is behind
    misses nothing, and a kill at any moment leaves files which read as the old ones or the new.
    The old ones are emptied: a TensorBoard that follows one gets stuck when it is removed. Those
    that a merge before this one emptied are removed.
    """
    old = [path for path in _event_files(folder) if path.is_file()]
    began, events = _read_events(old, last)
    # The name that is usual for temporary files would have "tfevents" in it: TensorBoard reads it.
    with temporary_name(folder / "events") as temporary:
        with open(temporary, "wb") as file:
            file.write(_head(began, purge_step=0))
            for event in events:
                file.write(_record(event))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    fsync_folder(folder)
    for path in old:
        if path.stat().st_size:
            os.truncate(path, 0)
        else:
            path.unlink()


def _read_events(paths: list[Path], last: int) -> tuple[float, list[bytes]]:
    """Return the time of the first event and the events of steps up to ``last``, as they are.

    Starts are carried out, not returned, and so are the versions of the files: :func:`_head` has
    both. A file is read up to the first record that is not whole, as TensorBoard does.
    """
    began: float | None = None
    kept: list[tuple[int, bytes]] = []
    for path in paths:
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            began = event.wall_time if began is None else began
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                kept = [(step, other) for step, other in kept if step < event.step]
            elif event.step <= last and not event.HasField("file_version"):
                kept.append((event.step, data))
    return time.time() if began is None else began, [data for _, data in kept]
