"""The loop: epochs of steps, validation, the best network, checkpoints, and what is told of all that."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from LungSegmentationLib.errors import BadInputError, CancelledError, LungSegError
from LungSegmentationLib.training.averaging import ExponentialMovingAverage
from LungSegmentationLib.training.batches import Prefetcher
from LungSegmentationLib.training.checkpoint import Checkpoint, prune_checkpoints, save_checkpoint
from LungSegmentationLib.training.devices import memory_mb
from LungSegmentationLib.training.distributed import Processes
from LungSegmentationLib.training.history import EpochRecord, History
from LungSegmentationLib.training.optimization import build_optimizer, has_finite_weights
from LungSegmentationLib.training.sampling import EpochSampler, Step, step_seed
from LungSegmentationLib.training.schedule import EarlyStopping, build_schedule
from LungSegmentationLib.training.steps import LossReading, StepRunner
from LungSegmentationLib.training.task import Batch, Learned, Task, Validation

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from LungSegmentationLib.cohort.paths import RunPaths
    from LungSegmentationLib.jobs.reporter import Reporter
    from LungSegmentationLib.training.config import TrainingConfig
    from LungSegmentationLib.training.precision import Precision

__all__ = ["Trained", "Trainer"]

B = TypeVar("B", bound=Batch)
SAVE_EVERY_S = 900.0
"""Long epochs are saved on the way, so that little is lost when the power goes."""

# Streams of random numbers of one step; the network's are NETWORK + rank.
CHANGES, NETWORK = 0, 1


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    Attributes
    ----------
    epochs, best_epoch
        Done, and the best one; from 1.
    best
        Its monitored value; ``None`` without validation.
    mean_score
        Mean score (Dice) of the best epoch.
    seconds
        Time spent, resumed parts counted together.
    early
        Whether it stopped because nothing became better.
    """

    epochs: int
    best_epoch: int
    best: float | None
    mean_score: float | None
    seconds: float
    early: bool


class Trainer(Generic[B]):
    """Trains a task.

    Parameters
    ----------
    task, config
        What, and how.
    run
        Where checkpoints, model and history go.
    device, precision
        Where and with which numbers it is computed.
    reporter
        Is told; also says whether somebody asked to stop.
    processes
        Who trains with this process.
    draw
        Makes the picture of the history at a path.
    on_epoch
        Hears of each epoch, for example a TensorBoard log.
    """

    def __init__(
        self,
        task: Task[B],
        config: TrainingConfig,
        run: RunPaths,
        *,
        device: torch.device,
        precision: Precision,
        reporter: Reporter,
        processes: Processes | None = None,
        draw: Callable[[History, Path], object] | None = None,
        on_epoch: Callable[[EpochRecord], object] | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.run = run
        self.device = device
        self.reporter = reporter
        self.processes = processes or Processes()
        self.history = History(tuple(task.outputs))
        self._draw = draw
        self._on_epoch = on_epoch

        torch.manual_seed(config.seed)
        self.network: nn.Module = task.build().to(device)
        if config.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._called: nn.Module = torch.compile(self.network) if config.compile else self.network  # type: ignore[assignment]
        self.processes.share_weights(self.network)
        optimizer = build_optimizer(
            config.optimizer,
            self.network.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
        higher = config.monitor == "val_dice"
        self.schedule = build_schedule(
            optimizer,
            config.schedule,
            epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            plateau_factor=config.plateau_factor,
            plateau_patience=config.plateau_patience,
            minimum_learning_rate=config.minimum_learning_rate,
            least_improvement=config.minimum_improvement,
            higher_is_better=higher,
        )
        self.stopping = EarlyStopping(config.patience, config.minimum_improvement, higher_is_better=higher)
        self.average = ExponentialMovingAverage(self.network, config.ema) if config.ema is not None else None
        self.sampler = EpochSampler(
            task.samples,
            config.batch_size,
            config.seed,
            self.processes.world,
            task.extra,
            config.steps_per_epoch,
        )
        if not self.sampler.steps:
            raise BadInputError(
                f"{task.samples} samples are too few for {self.processes.world} processes.", "Start fewer processes."
            )
        self.runner = StepRunner(
            task,
            config,
            self.network,
            self._called,
            optimizer,
            torch.amp.GradScaler(device.type, enabled=precision.scaler),
            device,
            precision,
            self.processes,
            reporter,
            parts=config.accumulation,
        )

        self.epoch = 0
        self.step = 0
        self._loss_sum = 0.0
        self._loss_weight = 0.0
        self._pending: LossReading | None = None
        self._seconds = 0.0
        self._epoch_seconds = 0.0
        self._clock = time.monotonic()
        self._saved_at = self._clock
        self._best: dict[str, Any] = {"epoch": 0, "value": None, "score": None}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was.

        Raises
        ------
        BadInputError
            If it belongs to another task, or to another number of processes.
        """
        for name, value in self.task.identity.items():
            if checkpoint.identity.get(name) != value:
                raise BadInputError(
                    f"The {name} changed since the run {self.run.name} was started.",
                    "Put it back as it was, or start a new run.",
                )
        if checkpoint.processes != self.processes.world:
            raise BadInputError(
                f"The run {self.run.name} was trained by {checkpoint.processes} process(es), "
                f"now there are {self.processes.world}.",
                "Start as many as before, or a new run.",
            )
        self.network.load_state_dict(checkpoint.network)
        self.runner.optimizer.load_state_dict(checkpoint.optimizer)
        self.schedule.load_state_dict(checkpoint.schedule)
        # Empty if the run was in a precision that needs none: then the scale is found anew.
        if checkpoint.scaler:
            self.runner.scaler.load_state_dict(checkpoint.scaler)
        self.stopping.load_state_dict(checkpoint.stopping)
        if self.average is not None and checkpoint.average is not None:
            self.average.load_state_dict(checkpoint.average)
        self.history = History.from_json(checkpoint.history, self.run.checkpoint)
        # Another device may have room for what the first one had to cut into parts.
        if checkpoint.config.get("device") == self.config.device:
            self.runner.parts = checkpoint.parts
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self._loss_sum, self._loss_weight = checkpoint.loss_sum, checkpoint.loss_weight
        self._seconds, self._epoch_seconds = checkpoint.seconds, checkpoint.epoch_seconds
        self._best = dict(checkpoint.best)

    def train(self) -> Trained:
        """Train until the last epoch, or until nothing becomes better.

        Raises
        ------
        CancelledError
            If somebody asked to stop; the checkpoint is written before.
        BadInputError
            If the loss or a weight is no finite number any more; nothing is written then.
        """
        for note in self.task.notes:
            self.reporter.warning(note)
        self._clock = self._saved_at = time.monotonic()
        if not self.epoch and not self.step:
            # The first one says at once whether there is room for it.
            self._save()
        while not self._done:
            try:
                self._learn_epoch()
                validation = self._validate()
            except CancelledError as error:
                self._save()
                raise CancelledError(
                    f"{error} {self.step} of {self.sampler.steps} steps of epoch {self.epoch + 1} are done and saved.",
                    "Go on with --resume.",
                ) from error
            self._end_epoch(validation)
        return Trained(
            epochs=self.epoch,
            best_epoch=int(self._best["epoch"]),
            best=self._best["value"],
            mean_score=self._best["score"],
            seconds=self._seconds,
            early=self.stopping.should_stop and self.epoch < self.config.epochs,
        )

    @property
    def _done(self) -> bool:
        return self.epoch >= self.config.epochs or self.stopping.should_stop

    def _learn_epoch(self) -> None:
        steps = self.sampler.epoch(self.epoch, self.step)
        self.network.train()
        with Prefetcher(self._batch, steps, self.config.prefetch) as prefetcher:
            batches = iter(prefetcher)
            for step in steps:
                batch = self._next(batches)
                reading = self.runner.run(
                    batch,
                    step,
                    # Each process has other samples, so it draws other numbers.
                    step_seed(self.config.seed, self.epoch, step.number, NETWORK + self.processes.rank),
                    self.epoch,
                )
                self._settle()
                self._pending = reading
                if self.average is not None:
                    self.average.update(self.network)
                self.step = step.number + 1
                self.schedule.step(self.epoch + self.step / self.sampler.steps)
                self.reporter.progress(
                    "training",
                    self.epoch * self.sampler.steps + self.step,
                    self.config.epochs * self.sampler.steps,
                    f"epoch {self.epoch + 1}/{self.config.epochs}",
                )
                if time.monotonic() - self._saved_at > SAVE_EVERY_S and self.processes.first:
                    self._save()
        self._settle()

    def _batch(self, step: Step) -> B:
        return self.task.batch(
            step.samples,
            step.share(self.processes.rank),
            step_seed(self.config.seed, self.epoch, step.number, CHANGES),
        )

    def _next(self, batches: Iterator[B]) -> B:
        """Return the next batch, unless one of the processes failed or was asked to stop: then all end together."""
        problem: Exception | None = None
        batch: B | None = None
        try:
            self.reporter.check_cancelled()
            batch = next(batches)
        except Exception as error:  # noqa: BLE001 - the others must hear of it, whatever it is; it is raised below
            problem = error
        try:
            self.processes.end_together(problem)
        except CancelledError:
            raise
        except Exception:  # whatever failed in whichever process: what was learned is saved, and it is raised on
            with contextlib.suppress(LungSegError, OSError):  # the disk may be what failed
                self._save()
            raise
        if batch is None:
            raise RuntimeError("there are fewer batches than steps")
        return batch

    def _settle(self) -> None:
        """Take the last step's loss into the epoch's mean; nothing is saved before it is known to be finite."""
        if self._pending is not None:
            reading, self._pending = self._pending, None
            self._loss_sum += reading.value() * reading.weight
            self._loss_weight += reading.weight

    def _validate(self) -> Validation | None:
        """Return how good the network is; ``None`` in an epoch that is not validated."""
        last = self.epoch + 1 >= self.config.epochs
        if (self.epoch + 1) % self.config.validate_every and not last:
            return None
        self.network.eval()
        with self.average.applied_to(self.network) if self.average is not None else contextlib.nullcontext():
            self.processes.share_buffers(self.network)
            return self.task.validate(self._forward, self.device, self.processes, self.reporter)

    def _forward(self, images: Tensor) -> Tensor | list[Tensor]:
        return self.runner.forward(self._called, images)

    def _end_epoch(self, validation: Validation | None) -> None:
        self._tick()
        train_loss = self._loss_sum / self._loss_weight if self._loss_weight else None
        validation = validation or Validation(scores=dict.fromkeys(self.task.outputs))
        if validation.loss is not None and not math.isfinite(validation.loss):
            raise BadInputError(
                f"The validation loss is not a finite number ({validation.loss}) after epoch {self.epoch + 1}.",
                "Start a run with a lower learning rate, --set gradient_clip=1 or --set precision=float32. "
                "What was saved before is kept.",
            )
        self.epoch += 1
        self.step, self._loss_sum, self._loss_weight = 0, 0.0, 0.0
        monitored = validation.mean if self.config.monitor == "val_dice" else validation.loss
        learning_rate = self.schedule.learning_rate
        best = self.stopping.update(monitored)
        self.schedule.step(self.epoch, monitored)
        # Without a validation set the latest network is the best guess.
        best = best or self._best["value"] is None
        if best:
            self._best = {"epoch": self.epoch, "value": monitored, "score": validation.mean}
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=train_loss,
            val_loss=validation.loss,
            dice=dict(validation.scores),
            mean_dice=validation.mean,
            best=best,
            lr=learning_rate,
            seconds=self._epoch_seconds,
            memory_mb=memory_mb(self.device),
        )
        self._epoch_seconds = 0.0
        self.history.append(record)
        if self.processes.first:
            if best:
                self._save_model(validation)
            self._save()
            if self.epoch % self.config.checkpoint_every == 0 and self.config.keep_checkpoints:
                save_checkpoint(self.run.epoch_checkpoint(self.epoch), self._checkpoint())
                prune_checkpoints(self.run, self.config.keep_checkpoints)
            self.history.write(self.run.folder, self._draw, self.reporter.warning)
            if self._on_epoch is not None:
                self._on_epoch(record)
        self.reporter.epoch(
            self.epoch,
            self.config.epochs,
            best_mean_dice=self.history.best_mean_dice,
            **record.model_dump(include={"train_loss", "val_loss", "dice", "mean_dice", "lr", "seconds", "memory_mb"}),
        )

    def _save_model(self, validation: Validation) -> None:
        with self.average.applied_to(self.network) if self.average is not None else contextlib.nullcontext():
            self._require_finite_weights()
            self.task.save(
                self.run.model,
                self.network,
                Learned(self.epoch, self.epoch, validation.loss, validation, self._seconds),
            )

    def _save(self) -> None:
        self._settle()
        self._require_finite_weights()
        if self.processes.first:
            self._tick()
            save_checkpoint(self.run.checkpoint, self._checkpoint())
        self._saved_at = time.monotonic()

    def _require_finite_weights(self) -> None:
        # A step's loss may be finite and its slope not; the old file is worth more than what follows.
        if not has_finite_weights(self.network):
            raise BadInputError(
                f"The network's weights are not finite numbers after {self.step} steps of epoch {self.epoch + 1}.",
                "Start a run with a lower learning rate, --set gradient_clip=1 or --set precision=float32. "
                "What was saved before is kept.",
            )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=self.config.model_dump(mode="json"),
            identity=dict(self.task.identity),
            processes=self.processes.world,
            epoch=self.epoch,
            step=self.step,
            loss_sum=self._loss_sum,
            loss_weight=self._loss_weight,
            parts=self.runner.parts,
            seconds=self._seconds,
            epoch_seconds=self._epoch_seconds,
            best=dict(self._best),
            network=self.network.state_dict(),
            optimizer=self.runner.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            scaler=self.runner.scaler.state_dict(),
            average=self.average.state_dict() if self.average is not None else None,
            stopping=self.stopping.state_dict(),
            history=self.history.to_json(),
        )

    def _tick(self) -> None:
        now = time.monotonic()
        self._seconds += now - self._clock
        self._epoch_seconds += now - self._clock
        self._clock = now
