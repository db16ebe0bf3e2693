"""Which process a pid means: pids are given out again, so a pid alone must never decide what is locked or killed."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_TOLERANCE_S = 2.0
"""The creation time is worked out from the clock, which may be set meanwhile; reuse of a pid takes longer than this."""


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, told from every other that had or will have its pid.

    Parameters
    ----------
    pid
        Number of the process.
    created
        When it was created (s since 1970, as psutil says it); 0 where the system does not tell.
    mark
        On Linux the boot's id and the start in clock ticks since then, which setting the clock does not change;
        empty elsewhere.
    """

    pid: int
    created: float
    mark: str = ""

    def is_alive(self) -> bool:
        """Whether this very process still runs; one that ended and waits for its parent does not."""
        now = identify(self.pid)
        return now is not None and self.is_same(now)

    def is_same(self, other: ProcessIdentity) -> bool:
        """Whether both mean the same process."""
        if self.pid != other.pid:
            return False
        if self.mark and other.mark:
            return self.mark == other.mark
        if not self.created or not other.created:
            return True  # a process that may be the one is never taken for dead
        return abs(self.created - other.created) <= _TOLERANCE_S


def identify(pid: int | None = None) -> ProcessIdentity | None:
    """Return the identity of a running process, or None where no process has this pid.

    Parameters
    ----------
    pid
        None for the calling process.
    """
    pid = os.getpid() if pid is None else pid
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessIdentity(pid, process.create_time(), _mark(pid))
    except (psutil.NoSuchProcess, OverflowError):
        return None
    except psutil.AccessDenied:  # another user's process, which tells nothing but that it is there
        return ProcessIdentity(pid, 0.0)


def _mark(pid: int) -> str:
    if not sys.platform.startswith("linux"):
        return ""
    try:
        # The name in parentheses may hold spaces and parentheses itself; what follows the last one is numbers.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{int(fields[19])}"
    except (OSError, IndexError, ValueError):
        return ""
