"""How a job stands and how it ended: states, result, failure, and the sentences for jobs that did not say why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slicer.i18n import tr as _

from LungSegmentationScene.Errors import SceneError

STARTING, RUNNING, CANCELLING = "starting", "running", "cancelling"
FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"


@dataclass(frozen=True)
class JobFailure:
    """Why a job could not do its work.

    Attributes
    ----------
    sentence, hint
        What happened and the cure, for the user.
    kind
        As in ``Docs/events.md``; ``start`` where the process could not be started.
    traceback
        Only for faults of the program.
    """

    sentence: str
    hint: str = ""
    kind: str = "fault"
    traceback: str = ""


class JobError(SceneError):
    """Raised by calls that wait for a job; ``failure`` holds the kind, too."""

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.sentence, failure.hint)
        self.failure = failure


@dataclass
class JobResult:
    """What a job made: named files, and a summary of plain values."""

    paths: dict[str, Path] = field(default_factory=dict)
    summary: dict = field(default_factory=dict)


@dataclass(frozen=True)
class JobProgress:
    """How far a job is where no event says it as people want to read it; the fields are those of a progress event."""

    stage: str
    done: int
    total: int | None
    message: str = ""
    eta_s: float | None = None


@dataclass(eq=False)
class JobListener:
    """Who wants to know; each is a plain function or None.

    ``onEvent`` gets every event of ``LungSegmentationLib.jobs.messages``, ``onProgress`` the job after each progress
    event and change of state, ``onFinished`` the job once, whichever way it ended.
    """

    onEvent: Callable | None = None
    onProgress: Callable[[object], None] | None = None
    onFinished: Callable[[object], None] | None = None


def startFailure(error: Exception) -> JobFailure:
    """Return what to say of a job whose process could not be started."""
    if isinstance(error, ModuleNotFoundError):
        return JobFailure(
            _("Slicer's Python lacks the package {name}.").format(name=error.name),
            _("Press “Install” in the set-up strip at the top."),
            "start",
        )
    sentence = getattr(error, "sentence", getattr(error, "message", str(error)))  # of the scene, of the library
    return JobFailure(sentence, getattr(error, "hint", ""), "start")


def silentFailure(exitCode: int | None, log: bytes) -> JobFailure:
    """Return what to say of a job that ended without saying why."""
    text = log.decode("utf-8", errors="replace")
    refused = _refusal(text)
    if refused is not None:
        return refused
    missing = re.findall(r"No module named '([\w.]+)'", text)
    if missing:
        return JobFailure(
            _("The Python of the jobs lacks the package {name}.").format(name=missing[-1]),
            _("Press “Install” in the set-up strip at the top, or choose another Python there."),
            "start",
        )
    if exitCode == 0:
        return JobFailure(
            _("The job ended, but what it said is gone: its temporary folder was removed."), _("Start it again.")
        )
    said = _("with exit code {code}").format(code=exitCode) if exitCode is not None else _("without an exit code")
    return JobFailure(
        _("The job ended {how} and did not say why.").format(how=said),
        _("The log may tell more. If it was ended by the system, there was not enough memory."),
    )


def _refusal(text: str) -> JobFailure | None:
    """Return what a job said on its standard output before it had a run folder: a wrong setting, a missing cohort."""
    from LungSegmentationLib.jobs.messages import parse_event

    for line in reversed(text.splitlines()):
        event = parse_event(line) if line.startswith('{"v":') else None
        if event is not None and event.event == "failed":
            return JobFailure(event.message, event.hint, event.kind, event.traceback or "")
    return None
