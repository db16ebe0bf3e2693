"""Following a job's events, from its file or its pipe, without ever waiting: a window's timer may call ``poll``."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from LungSegmentationLib.jobs.messages import Event, parse_event

_CHUNK_BYTES = 256 * 1024
_LONGEST_LINE_BYTES = 16 * 1024 * 1024
_TEXT_LINES = 500
_PIPE_GRACE_S = 2.0


class EventFollower(Protocol):
    """Gives the events of a job as they come."""

    def poll(self) -> list[Event]:
        """Return what is new, at once."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether the last :meth:`poll` left something for the next one."""
        ...

    def text(self) -> str:
        """Return the latest lines that are no events: what the job printed, a traceback."""
        ...


class _Lines:
    """Cuts bytes into lines, keeps a half line until its end comes, and tells events from other text."""

    def __init__(self) -> None:
        self.rest = b""
        self.other: deque[str] = deque(maxlen=_TEXT_LINES)
        self._too_long = False

    def feed(self, data: bytes) -> list[Event]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        if lines and self._too_long:
            lines = lines[1:]
            self._too_long = False
        if len(self.rest) > _LONGEST_LINE_BYTES:
            self.rest = b""
            self._too_long = True
            self.other.append("(a line of more than 16 MB was left out)")
        events = []
        for line in lines:
            event = parse_event(line)
            if event is None:
                # Text without an end of line may stand before an event when both go to one pipe.
                begin = line.find(b'{"v":', 1)
                event = parse_event(line[begin:]) if begin > 0 else None
                if event is not None:
                    line = line[:begin]  # noqa: PLW2901
                text = line.decode("utf-8", "replace").rstrip("\r")
                if text.strip():
                    self.other.append(text)
            if event is not None:
                events.append(event)
        return events

    def finish(self) -> list[Event]:
        """Take the last line for whole although it has no end."""
        return self.feed(b"\n") if self.rest else []


class FileFollower:
    """Follows a file that may not be there yet, may shrink, and may end in half a line.

    Parameters
    ----------
    file
        ``events.jsonl``, or the log of a job.
    from_offset
        Where to begin (bytes); :attr:`offset` of an earlier follower.
    """

    def __init__(self, file: Path, *, from_offset: int = 0) -> None:
        self._file = file
        self._position = from_offset
        self._lines = _Lines()
        self._inode: tuple[int, int] | None = None
        self._filled = False

    @property
    def has_more(self) -> bool:
        """Whether the last :meth:`poll` left something for the next one."""
        return self._filled

    @property
    def offset(self) -> int:
        """Where the first line begins that was not seen whole (bytes)."""
        return self._position - len(self._lines.rest)

    def poll(self) -> list[Event]:
        """Return what is new, of 256 KiB at most: call again while there :attr:`has_more`."""
        self._filled = False
        try:
            with self._file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                inode = (status.st_dev, status.st_ino)
                if status.st_size < self._position or self._inode not in (None, inode):
                    self._position = 0
                    self._lines.rest = b""
                self._inode = inode
                stream.seek(self._position)
                data = stream.read(_CHUNK_BYTES)
        except OSError:  # not there yet, being replaced, or its disk is away for the moment
            return []
        self._position += len(data)
        self._filled = len(data) == _CHUNK_BYTES
        return self._lines.feed(data)

    def text(self) -> str:
        """Return the latest lines that are no events."""
        return "\n".join(self._lines.other)


class PipeFollower:
    """Follows a pipe; a thread reads it, as no system but POSIX can look into a pipe without waiting.

    Parameters
    ----------
    pipe
        Reading end, for example ``Popen.stdout``; closed at its end.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lines = _Lines()
        self._thread = threading.Thread(target=self._read, args=(pipe,), name="events", daemon=True)
        self._thread.start()

    @property
    def has_more(self) -> bool:
        """Whether something came since the last :meth:`poll`."""
        return not self._chunks.empty()

    @property
    def at_end(self) -> bool:
        """Whether the job closed its end and everything was polled."""
        return not self._thread.is_alive() and self._chunks.empty()

    def poll(self) -> list[Event]:
        """Return what is new, at once."""
        ended = not self._thread.is_alive()
        events: list[Event] = []
        while True:
            try:
                events += self._lines.feed(self._chunks.get_nowait())
            except queue.Empty:
                break
        if ended:
            events += self._lines.finish()
        return events

    def text(self) -> str:
        """Return the latest lines that are no events."""
        return "\n".join(self._lines.other)

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while True:
                try:
                    data = os.read(pipe.fileno(), 64 * 1024)
                except (OSError, ValueError):  # closed by its owner
                    return
                if not data:
                    return
                self._chunks.put(data)


def follow_events(source: Path | IO[bytes], *, from_offset: int = 0) -> EventFollower:
    """Return a follower of a file or a pipe.

    Parameters
    ----------
    source
        A file, there or not yet; or the reading end of a pipe.
    from_offset
        Where to begin in a file (bytes).
    """
    if isinstance(source, Path):
        return FileFollower(source, from_offset=from_offset)
    return PipeFollower(source)


def wait_for_events(
    follower: EventFollower, is_running: Callable[[], bool], *, every_s: float = 0.1
) -> Iterator[Event]:
    """Yield events until the job has ended and everything that it wrote was read; for a shell, not for a window.

    Parameters
    ----------
    follower
        What to read.
    is_running
        Whether the job still runs, for example :meth:`JobHandle.is_running`.
    every_s
        Seconds between two looks.
    """
    ended_at: float | None = None
    while True:
        running = is_running()  # asked before reading: what was written before the end is then surely seen
        events = follower.poll()
        yield from events
        if not running and ended_at is None:
            ended_at = time.monotonic()
        if not events and not follower.has_more:
            if ended_at is not None:
                # A pipe that a child of the job holds open must not keep us for ever.
                open_pipe = isinstance(follower, PipeFollower) and not follower.at_end
                if not open_pipe or time.monotonic() - ended_at > _PIPE_GRACE_S:
                    return
            time.sleep(every_s)
