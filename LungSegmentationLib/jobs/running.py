"""Runs a command as a job: reporter by the flags, stop requests, one sentence for errors, the right exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import CancelledError, ExitCode, LungSegError, StorageError
from LungSegmentationLib.jobs.events import (
    EVENTS_FILE,
    EmittingReporter,
    EventReporter,
    RichReporter,
    Started,
    TeeReporter,
)
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.lock import RunLock, host_name
from LungSegmentationLib.jobs.stopping import StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from LungSegmentationLib.jobs.reporter import Reporter

__all__ = ["run_command"]


def run_command(
    command: str,
    work: Callable[[Reporter], None],
    *,
    events: bool = False,
    verbose: bool = False,
    run_folder: Path | None = None,
    force: bool = False,
) -> int:
    """Do the work of a command and return its exit code.

    Parameters
    ----------
    command
        Name of the command, for the event ``started``.
    work
        Does it; gets a reporter that also knows whether somebody asked to stop.
    events
        Whether to write events to standard output in place of progress bars to standard error.
    verbose
        Whether people see log lines and the traceback of faults.
    run_folder
        Folder of a job that may outlive its window: made if missing, locked for this process, gets
        ``events.jsonl``, and its file ``stop`` ends the job. Work that locks the folder itself, for those who
        call it from Python, uses ``RunLock(..., nested=True)``.
    force
        Take over the lock of another computer.
    """
    me = identify()
    started = Started(
        command=command,
        pid=os.getpid(),
        pid_created=me.created if me else None,
        host=host_name(),
        software_version=__version__,
        run=str(run_folder) if run_folder else None,
    )
    with contextlib.ExitStack() as stack:
        file: Path | None = None
        if run_folder is not None:
            try:
                # Before anything is written there: the events belong to who holds the folder.
                _make_folder(run_folder)
                stack.enter_context(RunLock(run_folder, force=force))
                file = run_folder / EVENTS_FILE
                EventReporter(file=file).close()
            except LungSegError as error:
                with _reporter(events, verbose, None, None) as reporter:
                    reporter.started(started)
                    code = ExitCode(reporter.failed(error).exit_code)
                    reporter.finished(code)
                return int(code)
        stop = stack.enter_context(StopRequest(run_folder))
        reporter = stack.enter_context(_reporter(events, verbose, stop.requested, file))
        reporter.started(started)
        code = ExitCode.DONE
        try:
            work(reporter)
        except CancelledError as error:
            reporter.cancelled(str(error))
            code = ExitCode.CANCELLED
        except KeyboardInterrupt:
            reporter.cancelled("Stopped at once.")
            code = ExitCode.CANCELLED
        except Exception as error:  # noqa: BLE001 - the outermost place: each error becomes a sentence and an exit code
            code = ExitCode(reporter.failed(error).exit_code)
        reporter.finished(code)
        return int(code)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}.", "Choose another folder.") from error


def _reporter(events: bool, verbose: bool, cancelled: Callable[[], bool] | None, file: Path | None) -> EmittingReporter:
    if events:
        # One writer for both, which knows that a job with a file goes on when nobody reads its output.
        return EventReporter(sys.stdout, file, cancelled=cancelled)
    people = RichReporter(verbose=verbose, cancelled=cancelled)
    return people if file is None else TeeReporter(people, EventReporter(file=file))
