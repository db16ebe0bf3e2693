"""Several processes that train one network together (``torchrun``), and the one process that is alone.

Gradients are exchanged after the backward pass, not in it as ``DistributedDataParallel`` would: there, a process that
runs out of memory halfway leaves the others waiting for its gradients, and none can try again with a smaller batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from LungSegmentationLib.errors import BadInputError, CancelledError, UsageError

__all__ = [
    "GradientExchange",
    "OtherProcessFailedError",
    "OtherProcessShortError",
    "Processes",
    "joined_processes",
    "launched",
]

V = TypeVar("V")
_NO_ANSWER = re.compile(r"connection|peer|broken pipe|timed ?out|gloo|nccl", re.IGNORECASE)


class OtherProcessShortError(Exception):
    """Another process ran out of memory, so what was begun together cannot be ended."""


class OtherProcessFailedError(BadInputError):
    """Another process failed, or is gone, so what was begun together cannot be ended."""


@contextmanager
def _talking() -> Iterator[None]:
    """Say of a connection that is gone what it means."""
    try:
        yield
    except RuntimeError as error:
        if not _NO_ANSWER.search(str(error)):
            raise
        raise OtherProcessFailedError(
            "Another process of this training has ended, or cannot be reached any more.",
            "See what it said, or whether it was killed; then go on with --resume, with as many processes as before.",
        ) from error


@dataclass(frozen=True)
class Launch:
    """What ``torchrun`` says to each process: its number, how many there are, and its number on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0


def launched() -> Launch:
    """Return what ``torchrun`` told this process; one alone where it told nothing."""
    try:
        return Launch(
            int(os.environ.get("RANK", "0")),
            int(os.environ.get("WORLD_SIZE", "1")),
            int(os.environ.get("LOCAL_RANK", "0")),
        )
    except ValueError as error:
        raise UsageError("RANK, WORLD_SIZE and LOCAL_RANK are no whole numbers.", "Start it with torchrun.") from error


@dataclass(frozen=True)
class Processes:
    """The processes of a training, and how they talk.

    Attributes
    ----------
    rank, world
        Number of this process, and how many there are. The first one, 0, writes and reports.
    control
        Group that talks over the CPU, so that a word between processes never waits for a GPU.
    """

    rank: int = 0
    world: int = 1
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """Return the largest of all processes' values."""
        if self.world == 1:
            return value
        shared = torch.tensor([value])
        with _talking():
            distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self.control)
        return int(shared)

    def gathered(self, value: Any) -> list[Any]:
        """Return all processes' values, in the order of their numbers; plain values, pickled between own processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _talking():
            distributed.all_gather_object(values, value, group=self.control)
        return values

    def failure(self, problem: Exception | None) -> Exception:
        """Return what this process ends with, when one of them has a problem: its own, or the others' as a sentence."""
        sentences = self.gathered("" if problem is None else f"{type(problem).__name__}: {problem}")
        return problem or OtherProcessFailedError(f"Another process of this training failed. {max(sentences, key=len)}")

    def end_together(self, problem: Exception | None) -> None:
        """Return when none of the processes has a problem or was asked to stop; otherwise all end.

        Raises
        ------
        CancelledError
            If one was asked to stop.
        OtherProcessFailedError
            If another one failed. Where it failed here, ``problem`` is raised.
        """
        worst = self.largest(0 if problem is None else 1 if isinstance(problem, CancelledError) else 2)
        if worst == 2:
            raise self.failure(problem)
        if worst == 1:
            raise problem or CancelledError("Stopped as asked.")

    def together(self, work: Callable[[], V]) -> list[V]:
        """Return what the work of each process gave; one that fails lets nobody wait for it.

        Raises
        ------
        CancelledError, OtherProcessFailedError
            See :meth:`end_together`.
        """
        problem: Exception | None = None
        own: V | None = None
        try:
            own = work()
        except Exception as error:  # noqa: BLE001 - the others must hear of it, whatever it is; it is raised below
            problem = error
        self.end_together(problem)
        return self.gathered(own)

    def agree(self, *, short: bool = False, problem: Exception | None = None) -> None:
        """Wait until all have come to an agreement, and tell them whether memory was too short here, or what failed.

        All processes have the same row of agreements in a step: one before each sum over processes, one at the end.
        One that runs out of memory, or fails, goes to the next agreement, wherever it is, so nobody waits for it in
        vain.

        Raises
        ------
        OtherProcessShortError
            If memory was too short in one of the others, and not here: who knows it already needs no telling.
        OtherProcessFailedError
            If another one failed. Where it failed here, ``problem`` is raised.
        """
        worst = self.largest(int(short) if problem is None else 2)
        if worst == 2:
            raise self.failure(problem)
        if worst and not short:
            raise OtherProcessShortError

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' values, after an agreement."""
        if self.world == 1:
            return values
        total = values.clone()
        self.agree()
        with _talking():
            distributed.all_reduce(total)
        return total

    def share_weights(self, network: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        for tensor in network.state_dict().values() if self.world > 1 else ():
            shared = tensor.detach().contiguous()
            with _talking():
                distributed.broadcast(shared, 0)
            tensor.copy_(shared)

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's buffers (running means of batch norm), so that they validate the same."""
        if self.world > 1:
            for buffer in network.buffers():
                with _talking():
                    distributed.broadcast(buffer, 0)


class GradientExchange:
    """Averages the gradients of a network over processes; its memory is taken once, before the first step.

    Parameters
    ----------
    network
        All processes have the same one.
    processes
        Who takes part.
    """

    def __init__(self, network: nn.Module, processes: Processes) -> None:
        self._world = processes.world
        weights = [weight for weight in network.parameters() if weight.requires_grad] if self._world > 1 else []
        kinds = sorted({(weight.dtype, weight.device) for weight in weights}, key=str)
        # Row by row whatever the layout in memory is, so that it does not matter whether processes differ in that.
        self._rooms: list[tuple[Tensor, list[tuple[nn.Parameter, Tensor]]]] = []
        for dtype, device in kinds:
            same = [weight for weight in weights if (weight.dtype, weight.device) == (dtype, device)]
            room = torch.zeros(sum(weight.numel() for weight in same), dtype=dtype, device=device)
            shares = torch.split(room, [weight.numel() for weight in same])
            self._rooms.append(
                (room, [(weight, share.view(weight.shape)) for weight, share in zip(same, shares, strict=True)])
            )

    def average(self) -> None:
        """Put the mean of all processes' gradients into each of them; a weight without one has none anywhere."""
        for room, shares in self._rooms:
            for weight, share in shares:
                if weight.grad is not None:
                    share.copy_(weight.grad)
            room.div_(self._world)
            with _talking():
                distributed.all_reduce(room)
            for weight, share in shares:
                if weight.grad is not None:
                    weight.grad.copy_(share)


@contextmanager
def joined_processes(launch: Launch, device: torch.device) -> Iterator[Processes]:
    """Meet the other processes of this training; over NCCL on CUDA, over Gloo elsewhere."""
    if launch.world == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        control = distributed.new_group(backend="gloo")
        yield Processes(launch.rank, launch.world, control)
    finally:
        distributed.destroy_process_group()
