"""Several processes that train one network together (``torchrun``), and the one process that is alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from LungSegmentationLib.errors import UsageError

__all__ = ["Processes", "joined_processes", "launched"]


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
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self.control)
        return int(shared)

    def gathered(self, value: Any) -> list[Any]:
        """Return all processes' values, in the order of their numbers; plain values, pickled between own processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network as it is trained: gradients averaged over the processes."""
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[device.index] if device.type == "cuda" else None
        )

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's buffers (running means of batch norm), so that they validate the same."""
        if self.world > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def without_exchange(self, model: nn.Module, quiet: bool) -> AbstractContextManager[Any]:
        """Keep gradients to oneself while ``quiet``: only a step's last micro-batch averages them."""
        if quiet and isinstance(model, nn.parallel.DistributedDataParallel):
            return model.no_sync()
        return nullcontext()


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
