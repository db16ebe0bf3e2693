"""Runs a command as a job: reporter by the flags, stop requests, one sentence for errors, the right exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import CancelledError, ExitCode
from LungSegmentationLib.jobs.events import EmittingReporter, EventReporter, RichReporter, Started
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.lock import host_name
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
        Folder whose file ``stop`` ends the job.
    """
    with StopRequest(run_folder) as stop, _reporter(events, verbose, stop.requested) as reporter:
        me = identify()
        reporter.started(
            Started(
                command=command,
                pid=os.getpid(),
                pid_created=me.created if me else None,
                host=host_name(),
                software_version=__version__,
                run=str(run_folder) if run_folder else None,
            )
        )
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


def _reporter(events: bool, verbose: bool, cancelled: Callable[[], bool]) -> EmittingReporter:
    if events:
        return EventReporter(sys.stdout, cancelled=cancelled)
    return RichReporter(verbose=verbose, cancelled=cancelled)
