"""What a trainer asks of what it trains: the joint at which tasks other than segmentation join.

A task knows its network, its samples, its loss and how its results are judged. The trainer knows steps, epochs,
optimizers, checkpoints, and nothing of what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from LungSegmentationLib.jobs.reporter import Reporter
    from LungSegmentationLib.training.distributed import Processes
    from LungSegmentationLib.training.losses import LossParts

__all__ = ["Batch", "Forward", "Learned", "Task", "Validation"]

Forward = Callable[["Tensor"], "Tensor | list[Tensor]"]
"""A network as it is called: in the precision and on the device of the training."""


class Batch(Protocol):
    """Samples with all that was drawn at random for them."""

    @property
    def names(self) -> Sequence[str]:
        """What each sample is, for messages."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        ...


@dataclass(frozen=True)
class Validation:
    """How good a network is on the validation set.

    Attributes
    ----------
    loss
        Mean over samples; ``None`` where there is no validation set.
    scores
        By structure (or class): higher is better, ``None`` where nothing says it.
    details
        By structure, the score of each case that has one.
    """

    loss: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    details: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean of the scores."""
        known = [score for score in self.scores.values() if score is not None]
        return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Learned:
    """What is said about a training in its model file.

    Attributes
    ----------
    epochs, best_epoch
        Done when the file is written, and the one whose weights these are; from 1. The training may go on without a
        better epoch: how long it was in the end, its history says.
    best_loss
        Validation loss of that epoch.
    validation
        Of that epoch.
    seconds
        Time spent.
    """

    epochs: int
    best_epoch: int
    best_loss: float | None
    validation: Validation
    seconds: float


B = TypeVar("B", bound=Batch)


class Task(Protocol[B]):
    """Something that can be trained."""

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know before it is trained."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """Names of what is scored."""
        ...

    @property
    def samples(self) -> int:
        """Number of training samples."""
        ...

    @property
    def extra(self) -> NDArray[np.float64] | None:
        """How many times more an epoch holds each sample; ``None``: all once."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """What a checkpoint must have been trained with to go on here: name and plain text, without patients."""
        ...

    def build(self) -> nn.Module:
        """Return the network with random weights from torch's global generator."""
        ...

    def batch(self, samples: NDArray[np.int64], mine: slice, seed: int) -> B:
        """Read ``samples[mine]`` on the CPU; what is random is drawn from the seed, one row for each of ``samples``.

        It runs in a thread beside the training step.
        """
        ...

    def loss(self, forward: Forward, batch: B) -> LossParts:
        """Return the loss of a batch that lies on the device of the network.

        The trainer may compute ``forward`` in parts: its result has a gradient, but the images must need none.
        """
        ...

    def validate(self, forward: Forward, device: torch.device, processes: Processes, reporter: Reporter) -> Validation:
        """Judge the network on the validation set, each process its share; all get the same result."""
        ...

    def save(self, path: Path, network: nn.Module, learned: Learned) -> None:
        """Write the model file that inference loads."""
        ...
