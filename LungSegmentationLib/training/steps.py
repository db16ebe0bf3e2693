"""One step of learning: forward, backward, update; in smaller parts where memory is short, ended where numbers end.

A batch in parts has the loss of the whole batch, also where that is no sum over samples (a weighted mean, Dice): the
network runs over the parts without a graph, the loss is taken of all outputs together, and its slope at the outputs is
what each part is then differentiated with (Gao et al. 2021, arXiv:2101.06983, for another loss). It costs one more
forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from LungSegmentationLib.errors import BadInputError, MemoryLimitError
from LungSegmentationLib.training.devices import is_out_of_memory
from LungSegmentationLib.training.distributed import GradientExchange, OtherProcessFailedError, OtherProcessShortError
from LungSegmentationLib.training.memory import release_freed_memory
from LungSegmentationLib.training.optimization import clip_gradients
from LungSegmentationLib.training.task import Batch, Forward

if TYPE_CHECKING:
    from LungSegmentationLib.jobs.reporter import Reporter
    from LungSegmentationLib.training.config import TrainingConfig
    from LungSegmentationLib.training.distributed import Processes
    from LungSegmentationLib.training.precision import Precision
    from LungSegmentationLib.training.sampling import Step
    from LungSegmentationLib.training.task import Task

__all__ = ["SMALLER", "LossReading", "StepRunner"]

B = TypeVar("B", bound=Batch)
SMALLER = "Choose a smaller network (--set network=lite), --set gradient_checkpointing=true, or prepare smaller slices."


class LossReading:
    """A loss on its way from the device, so that the next step can start before it is known."""

    def __init__(self, loss: Tensor, weight: int, where: str) -> None:
        self.weight = weight
        self._where = where
        self._event: Any = None
        if loss.device.type == "cuda":
            self._value = torch.empty((), dtype=loss.dtype, pin_memory=True)
            self._value.copy_(loss, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._value = loss.clone()

    def value(self) -> float:
        """Return the loss.

        Raises
        ------
        BadInputError
            If it is no finite number: with the slices of its batch.
        """
        if self._event is not None:
            self._event.synchronize()
        value = float(self._value)
        if not math.isfinite(value):
            raise BadInputError(
                f"The loss is not a finite number ({value}) in {self._where}.",
                "Look at these slices. If they are as they should be, start a run with a lower learning rate, "
                "--set gradient_clip=1 or --set precision=float32. What was saved before is kept.",
            )
        return value


@dataclass
class StepRunner(Generic[B]):
    """Runs steps.

    Attributes
    ----------
    task, config
        What is trained, and how.
    network, model
        The network, and as it is called (compiled).
    optimizer, scaler
        What changes the weights.
    device, precision
        Where, and with which numbers.
    processes, reporter
        Who trains with this process, and who is told.
    parts
        Micro-batches that a full batch is cut into.
    """

    task: Task[B]
    config: TrainingConfig
    network: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: Precision
    processes: Processes
    reporter: Reporter
    parts: int = 1
    _exchange: GradientExchange = field(init=False)

    def __post_init__(self) -> None:
        self._exchange = GradientExchange(self.network, self.processes)

    def forward(self, model: nn.Module, images: Tensor) -> Tensor | list[Tensor]:
        """Call a network in the precision and memory layout of the training."""
        if self.config.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.precision.dtype, enabled=self.precision.autocast):
            result: Tensor | list[Tensor] = model(images)
        return result

    def run(self, batch: B, step: Step, seed: int, epoch: int) -> LossReading:
        """Learn from a batch; if memory is short in a process, in smaller parts with the same loss and gradient.

        Raises
        ------
        MemoryLimitError
            If a single sample does not fit, in all processes together.
        """
        batch = batch.to(self.device)
        while True:
            loss = self._attempt(batch, seed)
            if loss is not None:
                break
            # Here the error is gone, and with it what its frames held.
            self._halve()
        self._exchange.average()
        self._update()
        shown = ", ".join(batch.names[:8]) + (" …" if len(batch) > 8 else "")
        shown += ", or what the other processes had in this step" if self.processes.world > 1 else ""
        return LossReading(loss, len(step.samples), f"epoch {epoch + 1}, step {step.number + 1}: {shown}")

    def _attempt(self, batch: B, seed: int) -> Tensor | None:
        """Return the loss, with gradients in the weights; ``None`` if memory was too short in one of the processes."""
        try:
            loss = self._gradients(batch, seed)
            self.processes.agree()
        except OtherProcessShortError:
            return None
        except OtherProcessFailedError:
            raise
        except Exception as error:
            short = is_out_of_memory(error)
            self.processes.agree(short=short, problem=None if short else error)
            if not short:
                raise
            return None
        return loss

    def _gradients(self, batch: B, seed: int) -> Tensor:
        # The loss is taken of all parts at once, so each process may cut its share into as many as it needs.
        parts = math.ceil(len(batch) / self._part_size())
        pieces = _Pieces(lambda images: self.forward(self.model, images), parts, seed)
        if parts == 1:
            loss = self.task.loss(pieces.whole, batch).total
            torch.autograd.backward(self.scaler.scale(loss))
            return loss.detach()
        # Running means of norms must not learn from the first pass what the second one teaches them again.
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        try:
            loss = self.task.loss(pieces.joined, batch).total
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.autograd.backward(self.scaler.scale(loss))
        pieces.backward()
        return loss.detach()

    def _part_size(self) -> int:
        return math.ceil(self.config.batch_size / self.parts)

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            release_freed_memory()
        size = self._part_size()
        if size == 1:
            raise MemoryLimitError(f"Not even one sample fits into the memory of {self.device}.", SMALLER)
        self.parts = math.ceil(self.config.batch_size / (size // 2))
        self.reporter.warning(
            f"{size} samples at a time do not fit into memory; going on with {self._part_size()} at a time, "
            f"and still {self.config.batch_size} a step."
        )

    def _update(self) -> None:
        try:
            if self.config.gradient_clip is not None:
                self.scaler.unscale_(self.optimizer)
                clip_gradients(self.network.parameters(), self.config.gradient_clip)
            self.scaler.step(self.optimizer)
            self.processes.agree()
        except OtherProcessFailedError:
            raise
        except OtherProcessShortError as error:
            raise MemoryLimitError(
                "The optimizer's state does not fit into memory in another process.", SMALLER
            ) from error
        except Exception as error:
            if is_out_of_memory(error):
                # Some weights may be changed and others not: nothing can be done again here.
                self.processes.agree(short=True)
                raise MemoryLimitError(f"The optimizer's state does not fit into {self.device}.", SMALLER) from error
            self.processes.agree(problem=error)
            raise
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


class _Pieces:
    """Calls a network on a batch as a whole, or on parts of it: first for the loss of all, then for the slopes.

    What the network draws itself (dropout) follows from the seed, so it is the same in both passes, and when a step is
    done again.
    """

    def __init__(self, network: Forward, parts: int, seed: int) -> None:
        self._network = network
        self._parts = parts
        self._seed = seed
        self._calls: list[tuple[Tensor, list[Tensor]]] = []

    def whole(self, images: Tensor) -> Tensor | list[Tensor]:
        torch.manual_seed(self._seed)
        return self._network(images)

    def joined(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return the outputs for all images; what is differentiated ends at them."""
        with torch.no_grad():
            outputs = [self._part(images, number) for number in range(self._parts)]
        levels = [[output] if isinstance(output, Tensor) else output for output in outputs]
        leaves = [torch.cat(level).requires_grad_() for level in zip(*levels, strict=True)]
        self._calls.append((images, leaves))
        return leaves[0] if isinstance(outputs[0], Tensor) else leaves

    def backward(self) -> None:
        """Differentiate the network at each part."""
        for images, leaves in self._calls:
            slopes = [None if leaf.grad is None else leaf.grad.tensor_split(self._parts) for leaf in leaves]
            for number in range(self._parts):
                outputs = self._part(images, number)
                levels = [outputs] if isinstance(outputs, Tensor) else outputs
                used = [(level, slope[number]) for level, slope in zip(levels, slopes, strict=True) if slope]
                torch.autograd.backward([level for level, _ in used], [slope for _, slope in used])

    def _part(self, images: Tensor, number: int) -> Tensor | list[Tensor]:
        torch.manual_seed(self._seed + number)
        return self._network(images.tensor_split(self._parts)[number])
