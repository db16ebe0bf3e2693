"""Calls that may take a moment (starting and ending processes, deleting files) beside the window's event loop.

In Slicer the window holds Python's global lock while it waits for events, so that other threads stand still. The timer
that waits for the call therefore sleeps for a few milliseconds each time, which lets the thread go on.

What must be done in the window's thread, because it reads or changes the scene, is done in turns.
"""

from __future__ import annotations

import _thread
import logging
import shutil
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import qt

logger = logging.getLogger("LungSegmentation")

TICK_MS = 15
GIVE_WAY_S = 0.004

TURN_S = 0.02
"""How long work in turns may hold the window at a time; its last step can take longer."""

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
        self._ended = threading.Event()
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._look)
        _pending.add(self)
        # The start of threading.Thread waits until the thread runs: tenths of a second where processors are busy.
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:  # no thread to be had
            self._error = error
            self._ended.set()
        self._timer.start()

    @property
    def done(self) -> bool:
        """Whether the end was told."""
        return self._told

    def finishNow(self) -> None:
        """Wait for the end and tell it; for the end of the application and for scripts."""
        self._ended.wait()
        self._tell()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the call
            self._error = error
        finally:
            self._ended.set()

    def _look(self) -> None:
        if not self._ended.is_set():
            time.sleep(GIVE_WAY_S)
        if self._ended.is_set():
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


class InTurns:
    """Runs a generator in the window's thread, a few milliseconds at a time, between the events of the window.

    Parameters
    ----------
    steps
        Yields None wherever the window may have its turn, or a function to call in a thread: it goes on with the value
        (or the error) of that when it is there.
    onDone
        Called at the end with what the generator returned and the error, one of which is None; both are None when it
        was stopped.
    turnS
        How long a turn may take.
    """

    def __init__(
        self, steps: Generator, onDone: Callable[[object, Exception | None], None], turnS: float = TURN_S
    ) -> None:
        self._steps: Generator | None = steps
        self._onDone = onDone
        self._turnS = turnS
        self._given: tuple[object, Exception | None] = (None, None)
        self._call: BackgroundCall | None = None
        self._stopped = False
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._turn)
        self._timer.start()

    @property
    def isRunning(self) -> bool:
        """Whether its end was not told yet."""
        return self._steps is not None

    def stop(self) -> None:
        """Leave it; the end is told at once, or when what runs in a thread has ended."""
        self._stopped = True
        if self._call is None:
            self._end(None, None)

    def _turn(self) -> None:
        until = time.monotonic() + self._turnS
        while self._isReady() and time.monotonic() < until:
            value, error = self._given
            self._given = (None, None)
            try:
                wanted = self._steps.throw(error) if error is not None else self._steps.send(value)
            except StopIteration as end:
                self._end(end.value, None)
                return
            except Exception as fault:  # noqa: BLE001 - handed to whoever waits for the end
                self._end(None, fault)
                return
            if wanted is not None and self._steps is not None:
                self._timer.stop()
                self._call = BackgroundCall(wanted, self._onCalled)

    def _onCalled(self, value: object, error: Exception | None) -> None:
        self._call = None
        if self._stopped:
            self._end(None, None)
            return
        self._given = (value, error)
        self._timer.start()

    def _end(self, value: object, error: Exception | None) -> None:
        self._timer.stop()
        steps, self._steps = self._steps, None
        if steps is None:
            return
        if not steps.gi_running:  # a step may have asked to stop
            steps.close()
        self._onDone(value, error)

    def _isReady(self) -> bool:
        return self._steps is not None and self._call is None and not self._steps.gi_running


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
