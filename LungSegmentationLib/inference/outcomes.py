"""What became of the CTs that a command was to segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from LungSegmentationLib.inference.record import PredictionRecord

__all__ = ["PredictedCase", "Predictions", "State"]

State = Literal["predicted", "kept", "failed"]


@dataclass(frozen=True)
class PredictedCase:
    """What became of one CT: ``predicted`` now, ``kept`` from before, or ``failed`` with the reason.

    Attributes
    ----------
    case
        Its name.
    state
        See above.
    files
        By format, and the ``record``.
    record
        What is known of it; None if it failed.
    reason
        Why it failed; empty if it did not.
    """

    case: str
    state: State
    files: dict[str, Path] = field(default_factory=dict)
    record: PredictionRecord | None = None
    reason: str = ""

    def summary(self) -> dict[str, Any]:
        """Return what an event says of it."""
        said: dict[str, Any] = {"case": self.case, "state": self.state}
        if self.record is not None:
            known = self.record.model_dump(mode="json")
            said |= {name: known[name] for name in ("marked", "warnings", "structures", "seconds")}
        if self.reason:
            said["reason"] = self.reason
        return said


@dataclass(frozen=True)
class Predictions:
    """What a call of :func:`predict_command` did, case by case in the order of their names."""

    cases: tuple[PredictedCase, ...]

    def count(self, state: State) -> int:
        """Return the number of cases in this state."""
        return sum(case.state == state for case in self.cases)

    def summary(self) -> dict[str, int]:
        """Return the number of cases in each state."""
        return {state: self.count(state) for state in ("predicted", "kept", "failed")}
