"""What a cohort folder holds: cases, whether it is prepared, its split, its runs and models.

Reading takes files and the import of the library's job part, so it is done beside the event loop: see
:func:`readCohort`, which touches neither window nor scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from LungSegmentationScene.Background import BackgroundCall
from LungSegmentationScene.Charts import RunCurves
from LungSegmentationScene.JobStates import startFailure

PARTS = ("train", "val", "test")
RUNNING = "running"


@dataclass(frozen=True)
class RunInfo:
    """One run of a cohort.

    Attributes
    ----------
    folder
        The run folder.
    status
        ``running``, ``finished``, ``cancelled``, ``failed``, ``interrupted`` or ``unknown``.
    epoch, epochs
        Epochs done and wanted; None before the first.
    bestDice
        Highest mean Dice so far.
    resumable
        Whether there is a checkpoint to go on from.
    model
        The model file; None if there is none yet.
    message
        Why it failed or stopped.
    updated
        When it last said something.
    """

    folder: Path
    status: str
    epoch: int | None = None
    epochs: int | None = None
    bestDice: float | None = None
    resumable: bool = False
    model: Path | None = None
    message: str = ""
    updated: datetime | None = None

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.name


@dataclass(frozen=True)
class CohortInfo:
    """A cohort folder.

    Attributes
    ----------
    folder
        The folder.
    exists
        Whether it is a cohort.
    cases, cached
        How many cases are converted, and prepared for training.
    split
        Number of cases by part; empty before it is prepared.
    runs
        The latest first.
    curves
        What each run that does not run now has brought, by its name.
    problem, hint
        Why it cannot be read, and the cure; empty if it can.
    """

    folder: Path
    exists: bool = False
    cases: int = 0
    cached: int = 0
    split: dict[str, int] = field(default_factory=dict)
    runs: tuple[RunInfo, ...] = ()
    curves: dict[str, RunCurves] = field(default_factory=dict)
    problem: str = ""
    hint: str = ""

    @property
    def prepared(self) -> bool:
        """Whether a training can be started."""
        return self.exists and self.split.get("train", 0) > 0

    @property
    def unprepared(self) -> int:
        """Number of cases that were converted after the last preparation."""
        return max(0, self.cases - self.cached)

    def run(self, name: str) -> RunInfo | None:
        """Return a run by its name."""
        return next((run for run in self.runs if run.name == name), None)


def readCohort(folder: Path) -> CohortInfo:
    """Read what a folder holds; for use beside the event loop."""
    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.jobs.listing import list_jobs

    paths = CohortPaths(folder)
    try:
        if not paths.cohort.is_file():
            return CohortInfo(folder)
        split = {}
        for part in PARTS:
            if paths.split(part).is_file():
                lines = paths.split(part).read_text("utf-8", errors="replace").splitlines()
                split[part] = sum(1 for line in lines if line.strip())
        runs, curves = [], {}
        for state in list_jobs(folder):
            run = paths.run(state.run)
            runs.append(
                RunInfo(
                    state.folder,
                    str(state.status),
                    state.epoch.epoch if state.epoch else None,
                    state.epoch.epochs if state.epoch else None,
                    state.best_mean_dice,
                    run.checkpoint.is_file(),
                    run.model if run.model.is_file() else None,
                    state.message,
                    state.updated,
                )
            )
            if str(state.status) != RUNNING:
                curves[state.run] = readCurves(state.folder)
        return CohortInfo(
            folder,
            True,
            len(paths.finished_cases()),
            len(paths.cached_names()),
            split,
            tuple(runs),
            curves,
        )
    except OSError as error:
        return CohortInfo(folder, problem=f"{folder}: {error.strerror or error}")


def readCurves(runFolder: Path) -> RunCurves:
    """Return the epochs of ``training_history.json``; none where it is missing or damaged."""
    curves = RunCurves()
    try:
        content = json.loads((runFolder / "training_history.json").read_text("utf-8"))
    except (OSError, ValueError):  # no epoch was finished; a training that runs will tell its own
        return curves
    from LungSegmentationLib.errors import BadInputError
    from LungSegmentationLib.training.history import History

    try:
        history = History.from_json(content, runFolder)
    except BadInputError:
        return curves
    curves.structures = list(history.structures)
    for record in history:
        curves.take(record)
    return curves


class CohortReader:
    """Reads cohort folders beside the event loop, one at a time, and tells the latest one that was asked for.

    Parameters
    ----------
    onRead
        Called with a :class:`CohortInfo` in the window's thread.
    """

    def __init__(self, onRead: Callable[[CohortInfo], None]) -> None:
        self._onRead = onRead
        self._wanted: Path | None = None
        self._call: BackgroundCall | None = None
        self._closed = False

    @property
    def isReading(self) -> bool:
        """Whether an answer is still to come."""
        return self._call is not None

    def read(self, folder: Path | str) -> None:
        """Read a folder; an earlier one that is not read yet is forgotten."""
        self._wanted = Path(folder)
        if self._call is None:
            self._next()

    def close(self) -> None:
        """Tell nothing more."""
        self._closed = True
        self._wanted = None

    def _next(self) -> None:
        folder, self._wanted = self._wanted, None
        self._call = BackgroundCall(lambda: readCohort(folder), lambda value, error: self._done(folder, value, error))

    def _done(self, folder: Path, value: object, error: Exception | None) -> None:
        self._call = None
        if self._wanted is not None:
            self._next()
        elif not self._closed:
            if error is not None:
                failure = startFailure(error)
                value = CohortInfo(folder, problem=failure.sentence, hint=failure.hint)
            self._onRead(value)
