"""What a job's events say of it (state, progress, result, failure), and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from LungSegmentationScene.JobStates import (
    CANCELLED,
    CANCELLING,
    FAILED,
    FINISHED,
    RUNNING,
    STARTING,
    JobFailure,
    JobListener,
    JobResult,
)

logger = logging.getLogger("LungSegmentation")


class JobRecord:
    """What is known of a job.

    Attributes
    ----------
    state
        starting, running, cancelling, then finished, failed or cancelled.
    progress
        The latest progress event, or a ``JobProgress`` in its place; None before the first.
    result
        Files and summary of the ``result`` events so far.
    failure
        Why it failed; None while and unless it did.
    warnings
        The warning events so far.
    """

    def __init__(self) -> None:
        self.state = STARTING
        self.progress = None
        self.result = JobResult()
        self.failure: JobFailure | None = None
        self.warnings: list = []
        self._listeners: list[JobListener] = []
        self._ended: str | None = None
        self._ours = True

    @property
    def isRunning(self) -> bool:
        """Whether the job has not ended yet."""
        return self.state in (STARTING, RUNNING, CANCELLING)

    def listen(
        self,
        onEvent: Callable | None = None,
        onProgress: Callable[[JobRecord], None] | None = None,
        onFinished: Callable[[JobRecord], None] | None = None,
    ) -> JobListener:
        """Tell these functions from now on; returns what :meth:`forget` takes."""
        listener = JobListener(onEvent, onProgress, onFinished)
        self._listeners.append(listener)
        return listener

    def forget(self, listener: JobListener | None) -> None:
        """Tell a listener nothing more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _setState(self, state: str) -> None:
        self.state = state
        self._tell("onProgress", self)

    def _tell(self, name: str, argument: object) -> None:
        for listener in list(self._listeners):
            function = getattr(listener, name)
            if function is None:
                continue
            try:
                function(argument)
            except Exception:  # one listener's fault must not keep the others, or the end of the job, from being told
                logger.exception("a fault while a job was shown.")

    def _take(self, event) -> None:
        kind = event.event
        if kind == "started":
            # A resumed run goes on in the same file: what an earlier process said of its end is not ours.
            self._ours = self._ours or self._isOurs(event)
            self._ended, self.failure, self.progress = None, None, None
        elif kind == "progress":
            self.progress = self._shownProgress(event)
        elif kind == "warning":
            self.warnings.append(event)
        elif kind == "result":
            self.result.paths.update({name: Path(path) for name, path in event.paths.items()})
            self.result.summary.update(event.summary)
        elif kind == "failed":
            self.failure = JobFailure(event.message, event.hint, event.kind, event.traceback or "")
            self._ended = FAILED
        elif kind == "cancelled":
            self._ended = CANCELLED
        elif kind == "finished":
            self._ended = self._ended or (FINISHED if event.exit_code == 0 else FAILED)
        self._tell("onEvent", event)
        if kind == "progress":
            self._tell("onProgress", self)

    def _shownProgress(self, event):
        """Return what a progress event means to people: itself, or a ``JobProgress``."""
        return event

    def _isOurs(self, event) -> bool:  # noqa: ARG002 - a job that knows its process compares
        return True
