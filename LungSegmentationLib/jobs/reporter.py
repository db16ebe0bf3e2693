"""What library code gets to say how far it is, and the reporters that do not write anything themselves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from LungSegmentationLib.errors import CancelledError
from LungSegmentationLib.jobs.messages import (
    Cancelled,
    Epoch,
    Event,
    Failed,
    Finished,
    Log,
    Progress,
    Result,
    Started,
    Warning_,
)

LogLevel = Literal["debug", "info", "warning", "error"]


class Reporter(Protocol):
    """What library code may say while it works."""

    def progress(self, stage: str, done: int, total: int | None, message: str = "") -> None:
        """Say that ``done`` of ``total`` steps of a stage are done (None: nobody knows how many there are)."""
        ...

    def warning(self, message: str, subject: str = "") -> None:
        """Say what a person should look at; ``subject`` is the case or file."""
        ...

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Say something for those who want to know more."""
        ...

    def result(self, paths: Mapping[str, str | Path], summary: Mapping[str, object] | None = None) -> None:
        """Say what was made."""
        ...

    def epoch(
        self,
        epoch: int,
        epochs: int,
        *,
        train_loss: float | None = None,
        val_loss: float | None = None,
        dice: Mapping[str, float | None] | None = None,
        mean_dice: float | None = None,
        best_mean_dice: float | None = None,
        lr: float | None = None,
        seconds: float | None = None,
        memory_mb: float | None = None,
    ) -> None:
        """Say how an epoch went (``epoch`` counts from 1); without ``best_mean_dice`` the best one heard is taken."""
        ...

    def check_cancelled(self) -> None:
        """Raise :class:`CancelledError` if the user asked to stop."""
        ...


class Clock(Protocol):
    """Seconds from any start; never goes back."""

    def __call__(self) -> float:
        """Return the seconds."""
        ...


class StageRate:
    """Estimates how long one stage will still take, from the speed of its latest steps.

    The speed is taken over a moving window, so that cases found done already (fast) do not promise too much.
    """

    _SAMPLES = 64
    _SPACING_S = 0.5

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=self._SAMPLES)
        self._last_done = -1

    def eta_s(self, now: float, done: int, total: int | None) -> float | None:
        """Return the seconds left after ``done`` of ``total`` steps at the time ``now``; None while unknown."""
        if done < self._last_done:  # the stage begins again, as in each epoch
            self._samples.clear()
        self._last_done = done
        if total is not None and done >= total:
            return 0.0
        eta = None
        if self._samples and total is not None:
            then, done_then = self._samples[0]
            if done > done_then:
                eta = (total - done) * (now - then) / (done - done_then)
        if not self._samples or now - self._samples[-1][0] >= self._SPACING_S:
            self._samples.append((now, done))
        return eta


class EmittingReporter:
    """A reporter whose subclasses only say what happens to an event.

    Parameters
    ----------
    cancelled
        Asked by :meth:`check_cancelled`; for example ``StopRequest.requested``.
    clock
        Seconds for the rate of progress.
    """

    def __init__(self, cancelled: Callable[[], bool] | None = None, clock: Clock = time.monotonic) -> None:
        self._cancelled = cancelled
        self._clock = clock
        self._began = clock()
        self._rates: dict[str, StageRate] = {}
        self._best: float | None = None

    def emit(self, event: Event) -> None:
        """Pass an event on; where to is what each subclass is for."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the reporter holds; it is not used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def progress(self, stage: str, done: int, total: int | None, message: str = "") -> None:
        """Say that ``done`` of ``total`` steps of a stage are done; the time left is worked out here."""
        eta = self._rates.setdefault(stage, StageRate()).eta_s(self._clock(), done, total)
        self.emit(
            Progress(stage=stage, done=done, total=total, eta_s=None if eta is None else round(eta, 1), message=message)
        )

    def warning(self, message: str, subject: str = "") -> None:
        """Say what a person should look at."""
        self.emit(Warning_(message=message, subject=subject))

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Say something for those who want to know more."""
        self.emit(Log(message=message, level=level))

    def result(self, paths: Mapping[str, str | Path], summary: Mapping[str, object] | None = None) -> None:
        """Say what was made."""
        self.emit(Result.model_validate({"paths": dict(paths), "summary": dict(summary or {})}))

    def epoch(
        self,
        epoch: int,
        epochs: int,
        *,
        train_loss: float | None = None,
        val_loss: float | None = None,
        dice: Mapping[str, float | None] | None = None,
        mean_dice: float | None = None,
        best_mean_dice: float | None = None,
        lr: float | None = None,
        seconds: float | None = None,
        memory_mb: float | None = None,
    ) -> None:
        """Say how an epoch went; the best mean Dice is remembered from epoch to epoch."""
        self._best = max(
            (value for value in (self._best, best_mean_dice, mean_dice) if value is not None and value == value),  # noqa: PLR0124 - NaN
            default=None,
        )
        self.emit(
            Epoch(
                epoch=epoch,
                epochs=epochs,
                train_loss=train_loss,
                val_loss=val_loss,
                dice=dict(dice or {}),
                mean_dice=mean_dice,
                best_mean_dice=self._best,
                lr=lr,
                seconds=seconds,
                memory_mb=memory_mb,
            )
        )

    def check_cancelled(self) -> None:
        """Raise :class:`CancelledError` if the user asked to stop."""
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("Stopped as asked.")

    def started(self, event: Started) -> None:
        """Say that the job begins; the seconds of :meth:`finished` count from here."""
        self._began = self._clock()
        self.emit(event)

    def failed(self, error: BaseException) -> Failed:
        """Say why the job could not do its work, and return what was said."""
        event = Failed.from_error(error)
        self.emit(event)
        return event

    def cancelled(self, message: str = "Stopped as asked.") -> None:
        """Say that the job stopped because it was asked to."""
        self.emit(Cancelled(message=message))

    def finished(self, exit_code: int = 0) -> None:
        """Say that the job is over; the last event, also after ``failed`` and ``cancelled``."""
        self.emit(Finished(seconds=round(self._clock() - self._began, 3), exit_code=exit_code))


class SilentReporter(EmittingReporter):
    """Says nothing; for calls from Python that want no report."""

    def emit(self, event: Event) -> None:
        """Drop the event."""


class TeeReporter(EmittingReporter):
    """Passes every event to several reporters, for example a terminal and a file.

    Parameters
    ----------
    *reporters
        Who gets the events. :meth:`check_cancelled` asks each of them.
    cancelled
        Asked as well.
    """

    def __init__(self, *reporters: EmittingReporter, cancelled: Callable[[], bool] | None = None) -> None:
        super().__init__(cancelled)
        self._reporters = reporters

    def emit(self, event: Event) -> None:
        """Pass the event to each reporter."""
        for reporter in self._reporters:
            reporter.emit(event)

    def check_cancelled(self) -> None:
        """Raise :class:`CancelledError` if the user asked any of them to stop."""
        super().check_cancelled()
        for reporter in self._reporters:
            reporter.check_cancelled()

    def close(self) -> None:
        """Close each reporter, the last one first."""
        for reporter in reversed(self._reporters):
            reporter.close()
