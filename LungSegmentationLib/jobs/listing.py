"""Which jobs a cohort has had and has: the state of each run folder, from its lock and the end of its events."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from LungSegmentationLib.jobs.events import EVENTS_FILE
from LungSegmentationLib.jobs.identity import ProcessIdentity
from LungSegmentationLib.jobs.lock import LOCK_FILE, LockHolder, host_name, read_lock
from LungSegmentationLib.jobs.messages import Cancelled, Epoch, Event, Failed, Finished, Progress, Started, parse_event

_BLOCK_BYTES = 64 * 1024
_TAIL_BYTES = 1024 * 1024
"""How far back the end of the events is read: some thousand events."""


class JobStatus(StrEnum):
    """What became of a job."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Its process is gone and said nothing at its end: killed, or the computer was switched off."""
    UNKNOWN = "unknown"
    """No events, or a job of another computer."""


@dataclass(frozen=True)
class JobState:
    """One run folder.

    Parameters
    ----------
    folder
        The run folder.
    status
        What became of its latest job.
    pid, host
        The process and its computer; None where nothing says them. While it runs, the pid is that of the job
        itself and never of a launcher.
    pid_created
        When the process was created (s since 1970), for :func:`terminate_tree`.
    started, updated
        Begin of the latest job (of the first one where the events are long), and its last event.
    epoch, progress
        The last of each that was said; None where there was none.
    best_mean_dice
        The best mean Dice so far.
    message
        Why it failed or was cancelled.
    exit_code
        As the last event says it.
    """

    folder: Path
    status: JobStatus
    pid: int | None = None
    pid_created: float | None = None
    host: str | None = None
    started: datetime | None = None
    updated: datetime | None = None
    epoch: Epoch | None = None
    best_mean_dice: float | None = None
    progress: Progress | None = None
    message: str = ""
    exit_code: int | None = None

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.folder.name


def list_jobs(cohort: Path) -> list[JobState]:
    """Return the state of each run of a cohort, the latest first.

    Parameters
    ----------
    cohort
        The cohort folder. One without ``runs`` has no jobs; folders without a lock and events are no jobs.
    """
    try:
        folders = [entry for entry in (cohort / "runs").iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    jobs = [job_state(folder) for folder in sorted(folders) if _is_job(folder)]
    return sorted(jobs, key=lambda job: job.updated.timestamp() if job.updated else 0.0, reverse=True)


def job_state(folder: Path) -> JobState:
    """Return the state of one run folder; takes milliseconds however long the events are."""
    tail = _Tail.of(folder / EVENTS_FILE)
    lock = read_lock(folder)
    started = tail.started if tail.started is not None else _first_started(folder / EVENTS_FILE)
    status = _status(tail, lock, started)
    holds = lock is not None and status in (JobStatus.RUNNING, JobStatus.UNKNOWN)
    pid, created, host = (None, None, None)
    if started is not None:
        pid, created, host = started.pid, started.pid_created, started.host
    if holds and lock is not None:
        pid, created, host = lock.pid, lock.created, lock.host
    message = ""
    if status is JobStatus.FAILED and tail.failed is not None:
        message = f"{tail.failed.message} {tail.failed.hint}".strip()
    elif status is JobStatus.CANCELLED and tail.cancelled is not None:
        message = tail.cancelled.message
    return JobState(
        folder=folder,
        status=status,
        pid=pid,
        pid_created=created,
        host=host,
        started=started.time if started is not None else None,
        updated=tail.last.time if tail.last is not None else None,
        epoch=tail.epoch,
        best_mean_dice=tail.epoch.best_mean_dice if tail.epoch is not None else None,
        progress=tail.progress,
        message=message,
        exit_code=None if status is JobStatus.RUNNING else tail.exit_code,
    )


def lines_from_end(file: Path, limit: int = _TAIL_BYTES) -> Iterator[bytes]:
    """Yield the lines of a file, the last one first, reading backwards and at most ``limit`` bytes.

    The first line that is reached may be cut where the limit falls into it.
    """
    try:
        with file.open("rb") as stream:
            position = stream.seek(0, os.SEEK_END)
            stop = max(0, position - limit)
            rest = b""
            while position > stop:
                size = min(_BLOCK_BYTES, position - stop)
                position -= size
                stream.seek(position)
                rest, *lines = (stream.read(size) + rest).split(b"\n")
                yield from reversed(lines)
            yield rest
    except OSError:  # not there, or its disk is away: no lines
        return


@dataclass
class _Tail:
    """What the end of the events says about the latest job."""

    last: Event | None = None
    started: Started | None = None
    epoch: Epoch | None = None
    progress: Progress | None = None
    failed: Failed | None = None
    cancelled: Cancelled | None = None
    finished: Finished | None = None

    @classmethod
    def of(cls, file: Path) -> _Tail:
        tail = cls()
        for line in lines_from_end(file):
            # Nearly all lines are progress, of which only the last one counts; quotes inside of texts are escaped.
            if tail.progress is not None and b'"event":"progress"' in line:
                continue
            event = parse_event(line)
            if event is not None:
                tail.last = tail.last or event
                tail._take(event)
            # An earlier job of the same run (before a resume) may hold the last epoch, but no more of the state.
            if tail.started is not None and tail.epoch is not None:
                break
        return tail

    def _take(self, event: Event) -> None:
        if isinstance(event, Epoch):
            self.epoch = self.epoch or event
        elif self.started is not None:
            return
        elif isinstance(event, Started):
            self.started = event
        elif isinstance(event, Progress):
            self.progress = self.progress or event
        elif isinstance(event, Failed):
            self.failed = self.failed or event
        elif isinstance(event, Cancelled):
            self.cancelled = self.cancelled or event
        elif isinstance(event, Finished):
            self.finished = self.finished or event

    @property
    def ended_at(self) -> datetime | None:
        """When the latest job said that it was over."""
        end = self.finished or self.failed or self.cancelled
        return end.time if end is not None else None

    @property
    def exit_code(self) -> int | None:
        if self.finished is not None:
            return self.finished.exit_code
        return self.failed.exit_code if self.failed is not None else None

    @property
    def end(self) -> JobStatus | None:
        """How the latest job ended by its own words."""
        if self.failed is not None:
            return JobStatus.FAILED
        if self.cancelled is not None:
            return JobStatus.CANCELLED
        if self.finished is not None:
            return JobStatus.FINISHED if self.finished.exit_code == 0 else JobStatus.FAILED
        return None


def _status(tail: _Tail, lock: LockHolder | None, started: Started | None) -> JobStatus:
    lock_alive = lock.is_alive() if lock is not None else False
    if tail.end is not None and (not lock_alive or not _is_later(lock, tail)):
        return tail.end
    if lock_alive:
        return JobStatus.RUNNING
    if lock_alive is None:
        return JobStatus.UNKNOWN
    if started is not None and started.host not in (None, host_name()):
        return JobStatus.UNKNOWN
    if started is not None and started.pid_created is not None:
        # A job that holds no lock, as a conversion.
        if ProcessIdentity(started.pid, started.pid_created).is_alive():
            return JobStatus.RUNNING
    elif tail.last is None:
        return JobStatus.UNKNOWN
    return JobStatus.INTERRUPTED


def _is_later(lock: LockHolder | None, tail: _Tail) -> bool:
    """Whether the lock was taken after the events said that a job was over: a new job that said nothing yet."""
    if lock is None or tail.ended_at is None:
        return False
    if tail.started is not None and tail.started.pid != lock.pid:
        return True
    try:
        return datetime.fromisoformat(lock.since) > tail.ended_at
    except (ValueError, TypeError):
        return False


def _first_started(file: Path) -> Started | None:
    """Return the first ``started`` of the events, where the last one is too far from their end."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_BLOCK_BYTES)
    except OSError:
        return None
    events = (parse_event(line) for line in head.split(b"\n"))
    return next((event for event in events if isinstance(event, Started)), None)


def _is_job(folder: Path) -> bool:
    return (folder / EVENTS_FILE).exists() or (folder / LOCK_FILE).exists()
