"""How a job learns that it shall stop: a signal, or a file named ``stop`` in its run folder (the same everywhere).

The job asks :meth:`StopRequest.requested` between steps, finishes the step, saves, and ends with exit code 4.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from LungSegmentationLib.errors import CancelledError
from LungSegmentationLib.jobs.reporter import Clock

STOP_FILE = "stop"
"""Name of the file whose appearance stops the job of a run folder."""

CHECK_EVERY_S = 0.5
_OLDER_BY_S = 2.0


class StopRequest:
    """Whether somebody asked this process to stop.

    While it is entered (``with StopRequest(folder) as stop:``) SIGTERM, SIGINT, SIGHUP and, on Windows, SIGBREAK
    ask to stop; a second SIGINT raises :class:`KeyboardInterrupt`. Outside the main thread, where Python allows
    no signal handlers, the file alone works. SIGHUP stays ignored under ``nohup``.

    A stop file names the process that it means, or is empty and means whoever runs. Entering removes one that
    was left over from an earlier process; leaving removes the one that was meant for this.

    Parameters
    ----------
    folder
        Run folder to watch for a file named ``stop``; None for none.
    clock
        Seconds; the file is looked for at most every half second.
    """

    def __init__(self, folder: Path | None = None, *, clock: Clock = time.monotonic) -> None:
        self._file = None if folder is None else folder / STOP_FILE
        self._clock = clock
        self._checked_at: float | None = None
        self._reason = ""
        self._interrupts = 0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str:
        """Who asked, as a sentence; empty while nobody did."""
        return self._reason

    def request(self, reason: str = "Stopped as asked.") -> None:
        """Ask to stop, from any thread or signal handler."""
        # A plain attribute on purpose: a lock or an Event could be held by the very code that the signal interrupts.
        self._reason = self._reason or reason

    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        if not self._reason and self._file is not None:
            now = self._clock()
            if self._checked_at is None or now - self._checked_at >= CHECK_EVERY_S:
                self._checked_at = now
                if _target(self._file) in (os.getpid(), 0):
                    self.request("Stopped as asked by the file “stop” in the run folder.")
        return bool(self._reason)

    def check(self) -> None:
        """Raise :class:`CancelledError` if somebody asked to stop."""
        if self.requested():
            raise CancelledError(self._reason)

    def install(self) -> None:
        """Begin to listen to signals and to the file."""
        if self._file is not None:
            self._remove_leftover(self._file)
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        for name in ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                continue
            self._previous[number] = signal.signal(number, self._on_signal)

    def uninstall(self) -> None:
        """Give the signals back to who had them, and take the file away."""
        if self._previous and threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                # None: installed by the application around Python, which signal.signal cannot put back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._previous.clear()
        if self._file is not None and _target(self._file) in (os.getpid(), 0):
            _remove(self._file)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of handlers
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self.request(f"Stopped as asked by {signal.Signals(number).name}.")

    @staticmethod
    def _remove_leftover(file: Path) -> None:
        target = _target(file)
        if target is None or target == os.getpid():
            return
        with contextlib.suppress(OSError):
            # An empty file may have been made between the start of this process and now; then it is meant.
            if target != 0 or file.stat().st_mtime < psutil.Process().create_time() - _OLDER_BY_S:
                _remove(file)


def write_stop_file(folder: Path, pid: int | None) -> None:
    """Ask the job of a run folder to stop.

    Parameters
    ----------
    folder
        The run folder.
    pid
        The process that is meant; None where it is not known yet.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    beside = folder / f".{STOP_FILE}.{os.getpid()}.tmp"
    beside.write_text("" if pid is None else f"{pid}\n", encoding="ascii")
    beside.replace(folder / STOP_FILE)


def _target(file: Path) -> int | None:
    """Return the pid that a stop file names, 0 where it names none, None where there is no file."""
    try:
        text = file.read_bytes()[:64].strip()
    except OSError:
        return None if not file.exists() else 0
    return int(text) if text.isdigit() else 0


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written holds no harm: the file names its process
        file.unlink()
