"""How the learning rate goes through a training, and when a training has learned all that it will."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

__all__ = ["EarlyStopping", "Schedule", "build_schedule"]

ScheduleName = Literal["none", "plateau", "cosine"]

# So that the first steps of a warm-up are small, and none of them is nothing.
WARMUP_START = 0.01


class _Lowest:
    """The best value seen, and for how long there was no better one; "better" is lower, or higher if so said."""

    def __init__(self, least: float, *, higher_is_better: bool) -> None:
        self.least = least
        self.sign = -1.0 if higher_is_better else 1.0
        self.best = math.inf
        self.reference = math.inf
        self.bad = 0

    def see(self, value: float, epochs: int = 1) -> bool:
        """Take the next value, so many epochs after the last one; return whether it is the best so far.

        A value that is no number is a bad one.
        """
        lower = self.sign * value
        if lower < self.reference - self.least:
            self.reference = lower
            self.bad = 0
        else:
            self.bad += epochs
        improved = lower < self.best
        if improved:
            self.best = lower
        return improved

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "reference": self.reference, "bad": self.bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.reference, self.bad = float(state["best"]), float(state["reference"]), int(state["bad"])


class Schedule:
    """Sets an optimizer's learning rate: linear warm-up, then constant, less after each plateau, or along a cosine.

    The rate is a function of the progress and of the plateaus seen, and of nothing else: a resumed training has the
    same rates as one that was not interrupted.

    Parameters
    ----------
    optimizer
        Its rates when the schedule is made are those that everything is relative to.
    name
        ``none``; ``plateau``: times ``plateau_factor`` when the monitored value was not better for more than
        ``plateau_patience`` epochs; ``cosine``: ``minimum + (rate − minimum) · (1 + cos πt) / 2`` with t from 0 at
        the end of the warm-up to 1 at ``epochs`` (Loshchilov & Hutter 2017, arXiv:1608.03983).
    epochs
        Length of the whole training.
    warmup_epochs
        In which the rate rises linearly from a hundredth; may be a fraction (steps / steps per epoch). Values seen in
        that time count for a plateau only if they are better.
    plateau_factor, plateau_patience
        See above.
    minimum_learning_rate
        Nothing but a warm-up goes below.
    least_improvement
        What a value must be better by.
    higher_is_better
        Whether the monitored value is a score rather than a loss.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> schedule = Schedule(torch.optim.SGD([weight], lr=0.8), "cosine", epochs=10)
    >>> schedule.step(5.0)
    >>> round(schedule.learning_rate, 6)
    0.4
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        name: ScheduleName = "none",
        *,
        epochs: float,
        warmup_epochs: float = 0.0,
        plateau_factor: float = 0.5,
        plateau_patience: int = 5,
        minimum_learning_rate: float = 0.0,
        least_improvement: float = 0.0,
        higher_is_better: bool = False,
    ) -> None:
        if name not in {"none", "plateau", "cosine"}:
            raise ValueError(f"there is no schedule {name!r}")
        self.optimizer = optimizer
        self.name = name
        self.epochs = float(epochs)
        self.warmup_epochs = float(warmup_epochs)
        self.plateau_factor = plateau_factor
        self.plateau_patience = plateau_patience
        self.minimum = minimum_learning_rate
        self._base = [float(group["lr"]) for group in optimizer.param_groups]
        self._monitor = _Lowest(least_improvement, higher_is_better=higher_is_better)
        self._reductions = 0
        self._progress = 0.0
        self._seen = 0.0
        self._apply()

    @property
    def learning_rate(self) -> float:
        """The rate of the next step (of the first group of parameters)."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, epoch_progress: float, monitored: float | None = None) -> None:
        """Set the rate for the next step.

        Parameters
        ----------
        epoch_progress
            Epochs done, with the part of the one that runs: 2.5 in the middle of the third.
        monitored
            Validation loss (or score) at the end of an epoch; ``None`` in the middle of one, or without validation.
        """
        self._progress = float(epoch_progress)
        if monitored is not None and self.name == "plateau":
            self._monitor.see(float(monitored), max(1, round(self._progress - self._seen)))
            self._seen = self._progress
            if self._progress < self.warmup_epochs:
                self._monitor.bad = 0
            elif self._monitor.bad > self.plateau_patience:
                self._reductions += 1
                self._monitor.bad = 0
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs; plain values."""
        return {
            "progress": self._progress,
            "seen": self._seen,
            "reductions": self._reductions,
            "base": list(self._base),
            "monitor": self._monitor.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another schedule of the same settings was; sets the optimizer's rates."""
        if len(state["base"]) != len(self._base):
            raise ValueError(f"the state has {len(state['base'])} groups of parameters, not {len(self._base)}")
        self._progress = float(state["progress"])
        self._seen = float(state.get("seen", state["progress"]))
        self._reductions = int(state["reductions"])
        self._base = [float(rate) for rate in state["base"]]
        self._monitor.load_state_dict(state["monitor"])
        self._apply()

    def _apply(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = self._rate(base)

    def _rate(self, base: float) -> float:
        done = self._progress
        if done < self.warmup_epochs:
            return base * (WARMUP_START + (1 - WARMUP_START) * done / self.warmup_epochs)
        # A minimum above the rate itself must not raise it.
        minimum = min(self.minimum, base)
        if self.name == "plateau":
            return max(minimum, base * self.plateau_factor**self._reductions)
        if self.name == "cosine":
            length = self.epochs - self.warmup_epochs
            share = min(1.0, (done - self.warmup_epochs) / length) if length > 0 else 1.0
            return minimum + (base - minimum) * (1 + math.cos(math.pi * share)) / 2
        return base


def build_schedule(optimizer: torch.optim.Optimizer, name: ScheduleName = "none", **settings: Any) -> Schedule:
    """Return a :class:`Schedule`; see there."""
    return Schedule(optimizer, name, **settings)


class EarlyStopping:
    """Says when the monitored value has not become better for ``patience`` epochs (Prechelt 1998).

    Parameters
    ----------
    patience
        Epochs, also where not each of them is validated; ``None`` never stops.
    least_improvement
        What a value must be better by to start the count again. The best model is that of the best value, however
        little better it is.
    higher_is_better
        Whether it is a score rather than a loss.

    Examples
    --------
    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping.update(loss) for loss in (1.0, 0.8, 0.9, 0.85)], stopping.should_stop, stopping.best
    ([True, True, False, False], True, 0.8)
    """

    def __init__(self, patience: int | None, least_improvement: float = 0.0, *, higher_is_better: bool = False) -> None:
        self.patience = patience
        self._monitor = _Lowest(least_improvement, higher_is_better=higher_is_better)
        self._unseen = 0

    def update(self, value: float | None) -> bool:
        """Take an epoch's value and return whether it is the best so far.

        ``None`` (an epoch without validation) stops nothing, but counts together with the next value; NaN counts as
        an epoch without improvement.
        """
        if value is None:
            self._unseen += 1
            return False
        epochs, self._unseen = self._unseen + 1, 0
        return self._monitor.see(float(value), epochs)

    @property
    def should_stop(self) -> bool:
        """Whether patience has come to its end."""
        return self.patience is not None and self._monitor.bad >= self.patience

    @property
    def best(self) -> float | None:
        """The best value; ``None`` before the first."""
        return self._monitor.sign * self._monitor.best if math.isfinite(self._monitor.best) else None

    @property
    def epochs_without_improvement(self) -> int:
        """Since the last value that was better by enough."""
        return self._monitor.bad

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs; the patience is not part of it, it may be changed."""
        return self._monitor.state_dict() | {"unseen": self._unseen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one was."""
        self._monitor.load_state_dict(state)
        self._unseen = int(state.get("unseen", 0))
