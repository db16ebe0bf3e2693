"""Jobs of ``LungSegmentationLib`` as the window sees them: started, followed, cancelled, found again, never awaited.

This part is not reloaded with the module, so that a running job is still known afterwards. It imports the library's
``jobs`` (pydantic, psutil) in the thread that starts a process, as that import alone takes longer than a window may
stand still.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Environment
from LungSegmentationScene.Background import BackgroundCall, InTurns, finishPending, removeFolder
from LungSegmentationScene.JobRecord import JobRecord
from LungSegmentationScene.JobStates import (
    CANCELLED,
    CANCELLING,
    FAILED,
    FINISHED,
    RUNNING,
    JobError,
    JobFailure,
    JobResult,
    silentFailure,
    startFailure,
)

logger = logging.getLogger("LungSegmentation")

OWN_PARTS = tuple(
    f"LungSegmentationScene.{name}" for name in ("Background", "Environment", "Errors", "JobRecord", "JobStates")
)
"""Kept with this part when the module is reloaded."""

POLL_MS = 50
POLL_BUDGET_S = 0.03
"""How long one look at the events may take; what is left waits for the next one."""

GRACE_S = 3.0
"""Seconds between asking a job to end and ending it: with the killing it stays below five."""

QUIT_GRACE_S = 1.0
"""The same when the application ends, which should not take long."""

LOG_BYTES = 200_000
_IDENTITY_EVERY_S = 1.0

_jobs: list[SceneJob] = []
_preloaded = False


class SceneJob(JobRecord):
    """One ``python -m LungSegmentationLib <arguments> --events``; what it says is kept by :class:`JobRecord`.

    Attributes
    ----------
    key
        What the job is for ("Import.convert"): a panel finds its job again by it, see :func:`findJob`.
    title
        For people, translated.
    spoken
        What to say in place of a file of the temporary folder (``{folder}/ct.nrrd``) when the job fails because of it.

    Parameters
    ----------
    arguments
        Command and options; ``{folder}`` in them stands for the job's temporary folder.
    key, title
        See above.
    runFolder
        Folder of a training: its ``events.jsonl`` is followed, and the job outlives the window.
    log
        File of everything that the job prints; default a file in the temporary folder, or beside the run folder.
    python
        Python to use; default the one chosen in the set-up strip.
    prepare
        Called with the temporary folder beside the event loop, before the process is started: writes what the job
        reads. It must not touch the window or the scene.
    feed
        The same for what is read from the scene: a generator for :class:`InTurns`, which gets the temporary folder.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        key: str = "",
        title: str = "",
        runFolder: Path | str | None = None,
        log: Path | None = None,
        python: Path | None = None,
        prepare: Callable[[Path], object] | None = None,
        feed: Callable[[Path], Generator] | None = None,
    ) -> None:
        super().__init__()
        self.key = key
        self.title = title
        self.arguments = [str(argument) for argument in arguments]
        self.runFolder = Path(runFolder) if runFolder else None
        self.python = python if python is not None else Environment.chosenProgram()
        self.exitCode: int | None = None
        self._prepare = prepare
        self._feed = feed
        self._feeding: InTurns | None = None
        self.spoken: dict[str, str] = {}
        self._log = log
        self._keptLog: bytes | None = None
        self._folder: Path | None = None
        self._handle = None
        self._identity = None
        self._follower = None
        self._cancelAsked = False
        self._ending: BackgroundCall | None = None
        self._lookedAt = 0.0
        self._alive = True
        self._ours = self.runFolder is None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)

    # What a panel calls

    @property
    def folder(self) -> Path:
        """Temporary folder for files that go between the scene and the job; removed after the job's end was told."""
        if self._folder is None:
            self._folder = Environment.temporaryFolder()
        return self._folder

    @property
    def pid(self) -> int | None:
        """Number of the process that was started or found; None before."""
        if self._handle is not None:
            return self._handle.pid
        return self._identity.pid if self._identity is not None else None

    def start(self) -> SceneJob:
        """Start the process; returns at once."""
        folder = self.folder
        arguments = [argument.replace("{folder}", str(folder)) for argument in self.arguments]
        log = self._log or (folder / "log.txt" if self.runFolder is None else runLog(self.runFolder))
        self._log = log
        python = self.python
        environment = Environment.baseEnvironment(python)
        runFolder = self.runFolder

        def start() -> tuple | None:
            from LungSegmentationLib.jobs.following import FileFollower
            from LungSegmentationLib.jobs.process import start_job

            if self._prepare is not None:
                self._prepare(folder)
            if self._cancelAsked:
                return None
            handle = start_job(arguments, python=python, log=log, detach=runFolder is not None, env=environment)
            follower = handle.events if runFolder is None else FileFollower(runFolder / "events.jsonl")
            return handle, follower

        def fed(_value: object, error: Exception | None) -> None:
            self._feeding = None
            if error is not None or self._cancelAsked:
                self._onStarted(None, error)
            else:
                BackgroundCall(start, self._onStarted)

        _jobs.append(self)
        if self._feed is None:
            BackgroundCall(start, self._onStarted)
        else:
            self._feeding = InTurns(self._feed(folder), fed)
        return self

    def follow(self, identity) -> SceneJob:
        """Follow the process that already works in the run folder."""
        from LungSegmentationLib.jobs.following import FileFollower

        self._identity = identity
        self._follower = FileFollower(self.runFolder / "events.jsonl")
        self._ours = True
        self.state = RUNNING
        _jobs.append(self)
        self._timer.start()
        return self

    def cancel(self, graceS: float = GRACE_S) -> None:
        """Ask the job to end and end its whole process tree if it does not; returns at once, is done within 5 s.

        Parameters
        ----------
        graceS
            Seconds between asking and ending.
        """
        if not self.isRunning or self._ending is not None:
            return
        self._cancelAsked = True
        self._setState(CANCELLING)
        if self._feeding is not None:
            self._feeding.stop()
        elif self._handle is not None or self._identity is not None:
            self._ending = BackgroundCall(self._terminator(graceS), self._onTreeEnded)

    def stop(self) -> None:
        """Ask a training to end at its next step with a checkpoint; it takes as long as it needs."""
        if not self.isRunning or self.runFolder is None:
            self.cancel()
            return
        folder = self.runFolder

        def ask() -> None:
            from LungSegmentationLib.jobs.process import request_stop

            # A training that was just started makes its folder only when torch is imported; it finds the file then.
            folder.mkdir(parents=True, exist_ok=True)
            request_stop(folder)

        self._cancelAsked = True
        self._setState(CANCELLING)
        BackgroundCall(ask)

    def wait(self, timeoutS: float | None = None) -> JobResult:
        """Return the result when the job has ended; the window stays alive meanwhile.

        Raises
        ------
        JobError
            If the job failed or was cancelled, or did not end in time.
        """
        deadline = None if timeoutS is None else time.monotonic() + timeoutS
        while self.isRunning:
            slicer.app.processEvents()
            time.sleep(0.005)
            if deadline is not None and time.monotonic() > deadline:
                raise JobError(JobFailure(_("The job did not end in time."), kind="timeout"))
        if self.state == CANCELLED:
            raise JobError(self.failure or JobFailure(_("Cancelled."), kind="cancelled"))
        if self.failure is not None:
            raise JobError(self.failure)
        return self.result

    def logText(self) -> str:
        """Return what the job said and printed, as people read it; the end of it where it is long."""
        data = self._keptLog if self._keptLog is not None else self._readLog()
        if not data:
            return ""
        from LungSegmentationScene.JobLog import readableLog

        return readableLog(data)

    # What happens on the way

    def _onStarted(self, value: object, error: Exception | None) -> None:
        if error is not None:
            self.failure = startFailure(error)
            self._end(CANCELLED if self._cancelAsked else FAILED)
            return
        if value is None:  # cancelled while its files were written
            self._end(CANCELLED)
            return
        self._handle, self._follower = value
        if self._cancelAsked:
            self._ending = BackgroundCall(self._terminator(0.5), self._onTreeEnded)
        else:
            self._setState(RUNNING)
        self._timer.start()

    def _terminator(self, graceS: float) -> Callable[[], None]:
        handle, identity, folder = self._handle, self._identity, self.runFolder

        def terminate() -> None:
            if handle is not None:
                handle.terminate(graceS, folder=folder)
            elif identity is not None:
                from LungSegmentationLib.jobs.process import terminate_tree

                terminate_tree(identity.pid, created=identity.created, folder=folder, grace_s=graceS)

        return terminate

    def _onTreeEnded(self, value: object, error: Exception | None) -> None:  # noqa: ARG002 - the signature of BackgroundCall
        if error is not None:
            logger.error("the job could not be ended: %s", error)
        self._ending = None
        self._poll()

    def _poll(self) -> None:
        if self._follower is None or not self.isRunning:
            return
        until = time.monotonic() + POLL_BUDGET_S
        alive = self._isAlive()  # asked before reading: what was written before the end is then surely seen
        while True:
            for event in self._follower.poll():
                self._take(event)
            if not self._follower.has_more:
                break
            if time.monotonic() > until:
                return
        if not alive and self._ending is None:
            self._conclude()

    def _isAlive(self) -> bool:
        if self._handle is not None:
            self.exitCode = self._handle.exit_code()
            return self.exitCode is None
        now = time.monotonic()
        if now - self._lookedAt > _IDENTITY_EVERY_S:
            self._lookedAt = now
            self._alive = self._identity is not None and self._identity.is_alive()
        return self._alive

    def _isOurs(self, event) -> bool:
        return self._handle is None or self._handle.pid == event.pid or self._handle.identity is None

    def _conclude(self) -> None:
        if not self._ours:  # it never began: what the file says is of an earlier process of the run
            self._ended, self.failure = None, None
        state = self._ended
        if state is None or (state == FINISHED and self.exitCode not in (0, None)):
            state = CANCELLED if self._cancelAsked else FAILED
        if state == FAILED and self.failure is None:
            self.failure = silentFailure(self.exitCode, self._readLog())
        if state == CANCELLED and self.failure is not None and self._cancelAsked:
            self.failure = None
        self._end(state)

    def _end(self, state: str) -> None:
        self._timer.stop()
        if self.failure is not None and self._folder is not None:
            sentence = self.failure.sentence
            for file, words in self.spoken.items():
                sentence = sentence.replace(file.replace("{folder}", str(self._folder)), words)
            self.failure = replace(self.failure, sentence=sentence)
        if self in _jobs:
            _jobs.remove(self)
        self._keptLog = self._readLog()
        self._setState(state)
        self._tell("onFinished", self)
        if self._folder is not None:
            removeFolder(self._folder)
            self._folder = None

    def _readLog(self) -> bytes:
        if self._log is None:
            return b""
        try:
            with self._log.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - LOG_BYTES))
                return stream.read()
        except OSError:  # nothing was printed
            return b""


def attach(runFolder: Path | str, *, key: str = "", title: str = "") -> SceneJob | None:
    """Return the running job of a run folder, also one that an earlier window started; None where nothing runs.

    All events of the folder are told first, so that curves are whole.
    """
    folder = Path(runFolder)
    known = next((job for job in _jobs if job.runFolder == folder), None)
    if known is not None:
        return known
    from LungSegmentationLib.jobs.identity import ProcessIdentity
    from LungSegmentationLib.jobs.listing import JobStatus, job_state

    state = job_state(folder)
    if state.status is not JobStatus.RUNNING or state.pid is None:
        return None
    log = runLog(folder)
    job = SceneJob([], key=key, title=title, runFolder=folder, log=log if log.exists() else folder / "events.jsonl")
    return job.follow(ProcessIdentity(state.pid, state.pid_created or 0.0))


def runLog(runFolder: Path) -> Path:
    """Return the file of what a training prints: it outlives the window, as the training does."""
    return runFolder.parent / f"{runFolder.name}.log"


def preload() -> None:
    """Import the library's part for jobs beside the event loop, so that nothing waits for it later."""
    global _preloaded  # noqa: PLW0603 - once in a process
    if _preloaded:
        return
    _preloaded = True

    def load() -> None:
        # Without them the set-up strip says what is missing.
        with contextlib.suppress(ImportError):
            importlib.import_module("LungSegmentationLib.jobs.process")
            importlib.import_module("LungSegmentationLib.jobs.listing")

    BackgroundCall(load)


def findJob(key: str) -> SceneJob | None:
    """Return the latest running job of a key, also after the module was reloaded."""
    return next((job for job in reversed(_jobs) if job.key == key), None)


def runningJobs() -> list[SceneJob]:
    """Return all jobs that have not ended."""
    return list(_jobs)


def endAll() -> None:
    """End the jobs that only the window wants; trainings go on. Waits: for the end of the application and of tests."""
    finishPending()
    for job in runningJobs():
        if job.runFolder is None:
            job.cancel(QUIT_GRACE_S)
    finishPending()


slicer.app.connect("aboutToQuit()", endAll)
