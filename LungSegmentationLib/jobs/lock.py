"""One process a folder, so one trainer a run: ``lock.json`` says who holds it; a dead one's lock is taken over.

The file is changed only under a short lock of the operating system, which ends with its process: two that find a
dead lock at the same moment cannot both take it, and nothing is left to clean up after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from LungSegmentationLib.errors import BadInputError, StorageError
from LungSegmentationLib.jobs.identity import ProcessIdentity, identify

LOCK_FILE = "lock.json"
STALE_AFTER_S = 24 * 3600.0
"""A lock of another computer is dead when nothing in the run folder was written for this long."""

_RECORD_BYTES = 1024
_LONGEST_BYTES = 64 * 1024
_GUARD_OFFSET = 1 << 20  # beyond the text: on Windows a locked range cannot be read
_WAIT_S = 10.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class LockedError(BadInputError):
    """Another process works in the run folder."""

    kind: ClassVar[str] = "locked"


@dataclass(frozen=True)
class LockHolder:
    """Who holds a run folder.

    Parameters
    ----------
    pid, created, mark
        The process (:class:`ProcessIdentity`).
    host
        Name of its computer.
    since
        When it took the lock, ISO 8601 in UTC.
    """

    pid: int
    created: float
    mark: str
    host: str
    since: str

    @property
    def identity(self) -> ProcessIdentity:
        """The process."""
        return ProcessIdentity(self.pid, self.created, self.mark)

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this computer."""
        return self.host == host_name()

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where only its own computer could tell."""
        return self.identity.is_alive() if self.is_here else None


def host_name() -> str:
    """Return the name of this computer."""
    return socket.gethostname()


def read_lock(folder: Path) -> LockHolder | None:
    """Return who holds a run folder, alive or not; None where there is no lock or one that says nothing."""
    try:
        return _parse((folder / LOCK_FILE).read_bytes())
    except OSError:
        return None


def living_holder(folder: Path) -> LockHolder | None:
    """Return who holds a run folder, if it has to be taken for alive; by the same rule as :class:`RunLock`."""
    holder = read_lock(folder)
    if holder is None:
        return None
    alive = holder.is_alive()
    return holder if alive or (alive is None and not _is_stale(folder)) else None


class RunLock:
    """Holds a folder for this process while it is entered.

    Parameters
    ----------
    folder
        The run folder; must exist.
    force
        Take over a lock of another computer; never one of a living process of this computer.
    nested
        Whether a lock that this very process holds already counts as held, and is then left to its owner.
    doing
        What the holder does with the folder, for the sentence that refuses.
    cure
        What the user can do about it.
    forcible
        Whether the command has ``--force``, for the sentence; otherwise the lock file of a computer that is gone has
        to be deleted.
    name
        Name of the lock file, where a folder holds several things that are each held on their own.

    Raises
    ------
    LockedError
        On entering, if a living process holds the folder.
    StorageError
        If the lock cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        force: bool = False,
        nested: bool = False,
        doing: str = "is being trained",
        cure: str = "Stop it or choose another --run.",
        forcible: bool = True,
        name: str = LOCK_FILE,
    ) -> None:
        self._folder = folder
        self._force = force
        self._nested = nested
        self._doing = doing
        self._cure = cure
        self._forcible = forcible
        self._file = folder / name
        self._held: LockHolder | None = None

    def acquire(self) -> None:
        """Take the lock, or raise."""
        me = identify()
        if me is None:
            raise LockedError(
                "This process cannot be identified, so it cannot hold a lock.", "Check that psutil works."
            )
        mine = LockHolder(me.pid, me.created, me.mark, host_name(), datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            with _guarded(self._file) as descriptor:
                holder = _parse(os.read(descriptor, _LONGEST_BYTES))
                if holder is not None:
                    if self._nested and holder.is_here and holder.identity.is_same(me):
                        return
                    self._refuse_if_alive(holder)
                os.lseek(descriptor, 0, os.SEEK_SET)
                # Always the same length in one call: who reads meanwhile sees the old text or the new one.
                os.ftruncate(descriptor, os.write(descriptor, json.dumps(asdict(mine)).encode().ljust(_RECORD_BYTES)))
                os.fsync(descriptor)
        except OSError as error:
            raise StorageError(
                f"{self._file} cannot be written: {error.strerror}.",
                "Choose a folder that you may write to, on a disk that is not full.",
            ) from error
        self._held = mine

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held, or not any more."""
        held, self._held = self._held, None
        if held is None or held.pid != os.getpid():  # a forked child holds nothing
            return
        file = self._file
        with contextlib.suppress(OSError), _guarded(file, create=False) as descriptor:
            if _parse(os.read(descriptor, _LONGEST_BYTES)) != held:
                return
            try:
                file.unlink()
            except OSError:  # Windows, while another program reads it: an empty lock is none
                os.ftruncate(descriptor, 0)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _refuse_if_alive(self, holder: LockHolder) -> None:
        alive = holder.is_alive()
        if alive:
            raise LockedError(f"{self._folder} {self._doing} by process {holder.pid} since {holder.since}.", self._cure)
        if alive is None and not self._force and not _is_stale(self._folder):
            raise LockedError(
                f"{self._folder} {self._doing} by process {holder.pid} on the computer {holder.host} "
                f"since {holder.since}.",
                f"{self._cure} If that computer is gone, "
                + ("use --force." if self._forcible else f"delete {self._file}."),
            )


def _is_stale(folder: Path) -> bool:
    newest = 0.0
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            newest = max(newest, file.stat().st_mtime)
    return time.time() - newest > STALE_AFTER_S


def _parse(text: bytes) -> LockHolder | None:
    # Nobody writes while we look, so what cannot be read was left half written by a process that is gone.
    try:
        data = json.loads(text)
        return LockHolder(
            int(data["pid"]), float(data["created"]), str(data.get("mark", "")), str(data["host"]), str(data["since"])
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@contextlib.contextmanager
def _guarded(file: Path, *, create: bool = True) -> Iterator[int]:
    """Open the lock file alone; yields its descriptor, positioned at its begin."""
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | (os.O_CREAT if create else 0)
    deadline = time.monotonic() + _WAIT_S
    while True:
        descriptor = os.open(file, flags, 0o644)
        try:
            _lock_descriptor(descriptor, deadline)
            if _is_same_file(descriptor, file):
                os.lseek(descriptor, 0, os.SEEK_SET)
                yield descriptor
                return
        finally:
            os.close(descriptor)  # ends the lock of the operating system, too


def _is_same_file(descriptor: int, file: Path) -> bool:
    """Whether the file was not taken away while we waited for it."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":

    def _lock_descriptor(descriptor: int, deadline: float) -> None:
        import msvcrt

        while True:
            os.lseek(descriptor, _GUARD_OFFSET, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

else:

    def _lock_descriptor(descriptor: int, deadline: float) -> None:
        import fcntl

        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    # A file system without locks: the window between reading and writing stays, a millisecond wide.
                    return
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN} or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return
