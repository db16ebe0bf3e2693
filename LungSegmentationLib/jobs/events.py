"""The one writer of events, and the front door to the rest: models, ``parse_event``, reporters.

Import from here: ``from LungSegmentationLib.jobs.events import Reporter, SilentReporter, EventReporter``.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from LungSegmentationLib.errors import CancelledError, StorageError
from LungSegmentationLib.jobs.messages import (
    END_EVENTS,
    SCHEMA_VERSION,
    Cancelled,
    Epoch,
    Event,
    Failed,
    Finished,
    Log,
    Progress,
    Result,
    Started,
    Warning_,
    parse_event,
)
from LungSegmentationLib.jobs.reporter import Clock, EmittingReporter, Reporter, SilentReporter, TeeReporter
from LungSegmentationLib.jobs.terminal import RichReporter

__all__ = [
    "END_EVENTS",
    "EVENTS_FILE",
    "SCHEMA_VERSION",
    "Cancelled",
    "EmittingReporter",
    "Epoch",
    "Event",
    "EventReporter",
    "Failed",
    "Finished",
    "Log",
    "Progress",
    "Reporter",
    "Result",
    "RichReporter",
    "SilentReporter",
    "Started",
    "TeeReporter",
    "Warning_",
    "parse_event",
]

EVENTS_FILE = "events.jsonl"
"""Name of the file of events in a run folder."""

PROGRESS_PER_SECOND = 5


class EventReporter(EmittingReporter):
    """Writes events as JSON lines to a stream, a file, or both.

    Each line is one ``write`` call, so that a reader never sees two lines mixed. At most five progress events a
    second and stage are written; the first of a stage and the last one of each pass always are.

    If the reader of the stream goes away, a job that also writes a file goes on; one that does not is asked to
    stop at its next :meth:`check_cancelled`, as nobody will ever see what it does.

    Parameters
    ----------
    stream
        Where lines go, usually ``sys.stdout``; None for none.
    file
        File to append to; made with its folder where it is missing. A last line that a killed job left half
        written is closed first.
    cancelled
        Asked by :meth:`check_cancelled`; for example ``StopRequest.requested``.
    clock
        Seconds for rates and limits.

    Raises
    ------
    StorageError
        If the file cannot be opened or written. The events that end a job are then dropped without an error, as
        the first one has been raised already.
    """

    def __init__(
        self,
        stream: IO[str] | IO[bytes] | None = None,
        file: Path | None = None,
        *,
        cancelled: Callable[[], bool] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(cancelled, clock)
        self._lock = threading.RLock()
        self._stream = stream
        self._stream_fd = _descriptor(stream)
        self._reader_gone = False
        self._file = file
        self._file_fd = None if file is None else _open_for_append(file)
        self._limits: dict[str, _Limit] = {}

    def emit(self, event: Event) -> None:
        """Write the event, unless it is a progress that comes too soon."""
        with self._lock:
            if isinstance(event, Progress):
                limit = self._limits.setdefault(event.stage, _Limit())
                if not limit.lets_through(event, self._clock()):
                    return
            elif isinstance(event, END_EVENTS):
                # How far a stage came is worth knowing when it does not end.
                held = [limit.held for limit in self._limits.values() if limit.held is not None]
                self._limits.clear()
                for progress in held:
                    self._write(progress, may_fail=False)
            self._write(event, may_fail=not isinstance(event, END_EVENTS))

    def check_cancelled(self) -> None:
        """Raise :class:`CancelledError` if the user asked to stop, or if nobody is there any more to read."""
        super().check_cancelled()
        if self._reader_gone and self._file_fd is None:
            raise CancelledError("Stopped: the program that read the events went away.")

    def close(self) -> None:
        """Close the file; the stream stays open."""
        with self._lock:
            if self._file_fd is not None:
                os.close(self._file_fd)
                self._file_fd = None
                self._file = None

    def _write(self, event: Event, *, may_fail: bool) -> None:
        line = event.to_line()
        if self._file_fd is not None:
            try:
                _write_all(self._file_fd, line)
            except OSError as error:
                if may_fail:
                    raise StorageError(
                        f"{self._file} cannot be written: {error.strerror}.",
                        "Free some space or make the folder writable, then run the same command again.",
                    ) from error
        if self._stream is not None:
            self._write_stream(self._stream, line)

    def _write_stream(self, stream: IO[str] | IO[bytes], line: bytes) -> None:
        try:
            if self._stream_fd is not None:
                stream.flush()  # what others printed comes first
                _write_all(self._stream_fd, line)
            else:
                if isinstance(stream, io.TextIOBase):
                    stream.write(line.decode("ascii"))
                else:
                    stream.write(line)  # type: ignore[arg-type]
                stream.flush()
        except (OSError, ValueError):  # broken pipe; Windows says EINVAL; a closed Python stream is a ValueError
            self._stream = None
            self._stream_fd = None
            self._reader_gone = True


class _Limit:
    """Lets at most five progress events of one stage through in any second."""

    def __init__(self) -> None:
        self.held: Progress | None = None
        self._sent_at: float | None = None
        self._sent: tuple[int, int | None] | None = None

    def lets_through(self, event: Progress, now: float) -> bool:
        complete = event.total is not None and event.done >= event.total
        first_time_complete = complete and self._sent != (event.done, event.total)
        soon = self._sent_at is not None and now - self._sent_at < 1 / PROGRESS_PER_SECOND
        if soon and not first_time_complete:
            self.held = event
            return False
        self.held = None
        self._sent_at = now
        self._sent = (event.done, event.total)
        return True


def _descriptor(stream: IO[str] | IO[bytes] | None) -> int | None:
    if stream is None:
        return None
    try:
        return stream.fileno()
    except (OSError, AttributeError, ValueError):  # StringIO, or the console that an application put in its place
        return None


def _open_for_append(file: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, flags, 0o644)
        if os.lseek(descriptor, 0, os.SEEK_END) > 0:
            os.lseek(descriptor, -1, os.SEEK_END)
            if os.read(descriptor, 1) != b"\n":
                os.write(descriptor, b"\n")
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written: {error.strerror}.", "Choose a folder that you may write to."
        ) from error
    return descriptor


def _write_all(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Some callers hand over a pipe that does not block; waiting is then up to us.
            if sys.platform == "win32":
                time.sleep(0.01)
            else:
                select.select([], [descriptor], [])
