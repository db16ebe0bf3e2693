"""Calls that may take a moment (starting and ending processes, deleting files) beside the window's event loop.

In Slicer the window holds Python's global lock while it waits for events, so that other threads stand still. The timer
that waits for the call therefore sleeps for a few milliseconds each time, which lets the thread go on.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import qt

logger = logging.getLogger("LungSegmentation")

TICK_MS = 15
GIVE_WAY_S = 0.004

_pending: set[BackgroundCall] = set()


class BackgroundCall:
    """Runs a function in a thread and tells its end in the window's thread.

    Parameters
    ----------
    function
        Called without arguments; must not touch the window or the scene.
    onDone
        Called with the value and the error, one of which is None.
    """

    def __init__(
        self, function: Callable[[], object], onDone: Callable[[object, Exception | None], None] | None = None
    ):
        self._function = function
        self._onDone = onDone
        self._value: object = None
        self._error: Exception | None = None
        self._told = False
        self._thread = threading.Thread(target=self._run, name="LungSegmentation", daemon=False)
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._look)
        _pending.add(self)
        self._thread.start()
        self._timer.start()

    @property
    def done(self) -> bool:
        """Whether the end was told."""
        return self._told

    def finishNow(self) -> None:
        """Wait for the end and tell it; for the end of the application and for scripts."""
        self._thread.join()
        self._tell()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the call
            self._error = error

    def _look(self) -> None:
        if self._thread.is_alive():
            time.sleep(GIVE_WAY_S)
        if not self._thread.is_alive():
            self._tell()

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        self._timer.stop()
        _pending.discard(self)
        if self._onDone is not None:
            self._onDone(self._value, self._error)
        elif self._error is not None:
            logger.error("%s", self._error)


def removeFolder(folder: Path) -> BackgroundCall:
    """Delete a folder of temporary files; what cannot be deleted is named in the application's log."""

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            logger.warning("the temporary folder %s could not be removed.", folder)

    return BackgroundCall(remove)


def finishPending() -> None:
    """Wait for all calls; when the application ends, and in tests."""
    while _pending:
        next(iter(_pending)).finishNow()
