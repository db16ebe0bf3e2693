"""The moving average of a network's weights, which is often better than any of the networks on the way."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Average of weights and running statistics: ``average ← d · average + (1 − d) · value`` after each step.

    Floating-point parameters and buffers are averaged in their own type; whole numbers, such as the number of batches
    that a batch norm has seen, are copied.

    Parameters
    ----------
    network
        Not wrapped for several processes or by a compiler: the names of its weights are kept.
    decay
        d, near 1.
    warm_start
        Begin with ``d = min(decay, (1 + n) / (10 + n))`` after n updates, so that the random weights of the start are
        soon forgotten (as TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    Examples
    --------
    >>> network = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(network.weight)
    >>> average = ExponentialMovingAverage(network, decay=0.75, warm_start=False)
    >>> _ = nn.init.ones_(network.weight)
    >>> average.update(network)
    >>> with average.applied_to(network):
    ...     inside = network.weight.item()
    >>> inside, network.weight.item()
    (0.25, 1.0)
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, *, warm_start: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"a decay of {decay} is not in [0, 1)")
        self.decay = decay
        self.warm_start = warm_start
        self.updates = 0
        self._swapped = False
        self._average = {name: value.detach().clone() for name, value in _state(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's weights after an optimizer step into the average."""
        self._require_own_weights()
        self.updates += 1
        decay = self.decay
        if self.warm_start:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in self._matched(network):
            average = self._average[name]
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    @torch.no_grad()
    def swap(self, network: nn.Module) -> None:
        """Exchange the network's weights and the average, in place; a second call changes them back."""
        for name, value in self._matched(network):
            kept = value.clone()
            value.copy_(self._average[name])
            self._average[name].copy_(kept)
        self._swapped = not self._swapped

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Let the network have the averaged weights inside the block; it has its own again however the block ends."""
        self._require_own_weights()
        self.swap(network)
        try:
            yield
        finally:
            self.swap(network)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs: tensors (not copied) and plain values."""
        self._require_own_weights()
        return {"updates": self.updates, "average": dict(self._average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another average of the same network was."""
        self._require_own_weights()
        given: dict[str, Tensor] = state["average"]
        wrong = sorted(
            name
            for name in given.keys() | self._average.keys()
            if name not in given or name not in self._average or given[name].shape != self._average[name].shape
        )
        if wrong:
            raise ValueError(f"the average is of another network; different: {wrong[:5]}")
        for name, value in given.items():
            self._average[name].copy_(value)
        self.updates = int(state["updates"])

    def _matched(self, network: nn.Module) -> list[tuple[str, Tensor]]:
        state = _state(network)
        if state.keys() != self._average.keys():
            raise ValueError("the average is of another network")
        return list(state.items())

    def _require_own_weights(self) -> None:
        if self._swapped:
            raise ValueError("the network has the averaged weights now: swap them back first")


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in network.state_dict(keep_vars=True).items()}
