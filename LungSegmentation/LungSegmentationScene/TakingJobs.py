"""Jobs whose results come into the scene: taken over in turns before the end is told, whole or not at all."""

from __future__ import annotations

from collections.abc import Generator

from LungSegmentationScene.Background import InTurns
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import CANCELLED, CANCELLING, FAILED, FINISHED, GRACE_S, SceneJob
from LungSegmentationScene.JobStates import JobFailure


class TakingJob(SceneJob):
    """A job with a way into the scene; a subclass says by :meth:`_takeOver` what becomes of its results.

    The files of the temporary folder are there until all is taken over. Until then the job counts as running, and
    cancelling it leaves the scene as it was.
    """

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self._taking: InTurns | None = None
        self._taken = False
        self._fault: Exception | None = None
        self._awaited: str | None = None

    def cancel(self, graceS: float = GRACE_S) -> None:
        """Cancel, also while the results are taken over."""
        if not self.isRunning or self._cancelAsked:
            return
        if self._awaited is None:
            super().cancel(graceS)
        else:
            self._cancelAsked = True
            self._setState(CANCELLING)
        if self._taking is not None:
            self._taking.stop()

    # What comes into the scene, and how, is what each subclass is for; this base is never used alone.

    def _takeOver(self) -> Generator:
        """Return steps for :class:`InTurns` that bring the results into the scene; those left undone are undone."""
        raise NotImplementedError

    def _hasResults(self) -> bool:
        """Return whether there is something to take over when the job has ended."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Take the results over; called when they are whole, at the latest at the end."""
        self._taking = InTurns(self._takeOver(), self._onTaken)

    def _onTaken(self, value: object, error: Exception | None) -> None:
        self._taking = None
        self._fault = error
        # Where it was stopped there is neither.
        self._taken = error is None and value is not None
        if self._awaited is not None:
            self._finish()

    def _end(self, state: str) -> None:
        self._timer.stop()
        self._awaited = state
        begun = self._taking is not None or self._taken or self._fault is not None
        if not begun and not self._cancelAsked and state in (FINISHED, FAILED) and self._hasResults():
            self._begin()
        if self._taking is None:
            self._finish()

    def _finish(self) -> None:
        state = self._awaited
        if self._fault is not None:
            known = isinstance(self._fault, SceneError)
            sentence = self._fault.sentence if known else str(self._fault)
            state, self.failure = FAILED, JobFailure(sentence, self._fault.hint if known else "", "scene")
        elif self._taken and state == CANCELLED:
            state, self.failure = FINISHED, None  # it was all there when somebody cancelled
        elif self._cancelAsked and not self._taken:
            state, self.failure = CANCELLED, None
        super()._end(state)
