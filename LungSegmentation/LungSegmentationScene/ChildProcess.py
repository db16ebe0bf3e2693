"""A program that runs beside the window: its lines as they come, its end, and a limit of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import qt
import slicer

FAILED_TO_START = -1
TIMED_OUT = -2

_running: set[ChildProcess] = set()


class ChildProcess:
    """Starts at once; never waits.

    Parameters
    ----------
    command
        Program and arguments.
    environment
        All variables of the program.
    onFinished
        Called once with the exit code (or ``FAILED_TO_START``, ``TIMED_OUT``) and all that was printed.
    onLine
        Called with each whole line as it comes.
    timeoutS
        Seconds after which the program is ended; None for no limit.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        onFinished: Callable[[int, str], None],
        onLine: Callable[[str], None] | None = None,
        timeoutS: float | None = None,
    ) -> None:
        self._onFinished = onFinished
        self._onLine = onLine
        self._data = b""
        self._told = 0
        self._ended = False
        self._timedOut = False
        variables = qt.QProcessEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(variables)
        self._process.setProcessChannelMode(qt.QProcess.MergedChannels)
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onProcessFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onError)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._onTimeout)
        _running.add(self)
        if timeoutS is not None:
            self._timer.start(int(timeoutS * 1000))
        program, *arguments = map(str, command)
        self._process.start(program, arguments)

    @property
    def isRunning(self) -> bool:
        """Whether the end was not told yet."""
        return not self._ended

    def cancel(self) -> None:
        """End the program and say nothing more."""
        self._onFinished = None
        self._process.kill()

    def waitForEnd(self) -> None:
        """Wait until a cancelled program is gone."""
        self._process.waitForFinished(2000)

    def _read(self) -> None:
        self._data += self._process.readAllStandardOutput().data()
        end = self._data.rfind(b"\n") + 1
        if self._onLine is not None and end > self._told:
            for line in self._data[self._told : end].decode("utf-8", errors="replace").splitlines():
                self._onLine(line)
            self._told = end

    def _onProcessFinished(self, exitCode: int, status=None) -> None:  # noqa: ARG002 - the signature of the signal
        self._finish(TIMED_OUT if self._timedOut else int(exitCode))

    def _onError(self, error) -> None:
        if error == qt.QProcess.FailedToStart:
            self._finish(FAILED_TO_START)

    def _onTimeout(self) -> None:
        self._timedOut = True
        self._process.kill()

    def _finish(self, code: int) -> None:
        if self._ended:
            return
        if code != FAILED_TO_START:
            self._read()
        self._ended = True
        self._timer.stop()
        _running.discard(self)
        if self._onFinished is not None:
            self._onFinished(code, self._data.decode("utf-8", errors="replace"))


def endAll() -> None:
    """End all programs and say nothing more; when the application ends."""
    for process in list(_running):
        process.cancel()
        process.waitForEnd()


slicer.app.connect("aboutToQuit()", endAll)
