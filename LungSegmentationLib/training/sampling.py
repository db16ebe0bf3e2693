"""In which order samples are learned: a function of seed and epoch alone, so a position is all there is to keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochSampler", "step_seed"]

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """Samples of one step.

    Attributes
    ----------
    number
        Position in the epoch, from 0.
    samples
        Indices of the samples of all processes.
    starts
        Where each process's share begins in ``samples``, and the end: process r has ``starts[r]:starts[r + 1]``.
    """

    number: int
    samples: Indices
    starts: tuple[int, ...]

    def share(self, rank: int) -> slice:
        """Return which of the samples a process computes."""
        return slice(self.starts[rank], self.starts[rank + 1])


@dataclass(frozen=True)
class EpochSampler:
    """Whole epochs over all samples, each in its own order.

    Parameters
    ----------
    samples
        How many there are.
    batch_size
        Samples of a step in each process.
    seed
        Of the orders.
    processes
        How many share a step; together they learn what one would with ``processes * batch_size``.
    extra
        How many times more an epoch holds each sample, (samples,); fractions are drawn anew in each epoch. Default: 0.
    most_steps
        Cut each epoch after so many steps.
    """

    samples: int
    batch_size: int
    seed: int
    processes: int = 1
    extra: NDArray[np.float64] | None = None
    most_steps: int | None = None

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        length, joined = self.length, self.batch_size * self.processes
        # A rest that leaves a process without a sample would leave the others waiting for it.
        steps = length // joined + (length % joined >= self.processes)
        return steps if self.most_steps is None else min(steps, self.most_steps)

    @property
    def length(self) -> int:
        """Samples of an epoch, repetitions counted."""
        if self.extra is None:
            return self.samples
        whole = np.floor(self.extra)
        return self.samples + int(whole.sum()) + round(float((self.extra - whole).sum()))

    def order(self, epoch: int) -> Indices:
        """Return the indices of an epoch (counted from 0) in the order in which they are learned."""
        generator = np.random.default_rng((self.seed, epoch))
        order = np.arange(self.samples, dtype=np.int64)
        if self.extra is not None:
            whole = np.floor(self.extra)
            rest = self.extra - whole
            drawn = round(float(rest.sum()))
            order = np.concatenate(
                [order, np.repeat(order, whole.astype(np.int64)), self._drawn(rest, drawn, generator)]
            )
        generator.shuffle(order)
        return order

    def _drawn(self, rest: NDArray[np.float64], count: int, generator: np.random.Generator) -> Indices:
        if not count:
            return np.empty(0, np.int64)
        return generator.choice(self.samples, count, replace=False, p=rest / rest.sum()).astype(np.int64)

    def epoch(self, epoch: int, start: int = 0) -> list[Step]:
        """Return the steps of an epoch (counted from 0) from position ``start`` on."""
        order = self.order(epoch)
        joined = self.batch_size * self.processes
        steps = []
        for number in range(start, self.steps):
            chosen = order[number * joined : (number + 1) * joined]
            bounds = tuple(len(chosen) * rank // self.processes for rank in range(self.processes + 1))
            steps.append(Step(number, chosen, bounds))
        return steps


def step_seed(seed: int, epoch: int, step: int, stream: int = 0) -> int:
    """Return a seed for the random numbers of one step, different for each step, epoch and stream."""
    return int(np.random.SeedSequence((seed, epoch, step, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))
