"""Logs for TensorBoard, for those who have it: the same numbers as in the training history."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Self

from LungSegmentationLib.errors import InstallationError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from LungSegmentationLib.training.history import EpochRecord

__all__ = ["TENSORBOARD_FOLDER", "TensorBoardLog"]

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes epochs, and losses of steps, into ``tensorboard`` in a run's folder.

    Parameters
    ----------
    run_folder
        Of the run; look at one or many with ``tensorboard --logdir COHORT/runs``.
    resumed_at
        Epochs that were done before: what an interrupted run logged after them is hidden.

    Raises
    ------
    InstallationError
        If the package ``tensorboard`` is not installed.
    """

    def __init__(self, run_folder: Path, *, resumed_at: int = 0) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise InstallationError(
                "TensorBoard logs were asked for, but the package tensorboard is not installed.",
                "Install the group tensorboard of this software, or pip install tensorboard, "
                "or train without: training_history.json has the same numbers.",
            ) from error
        self._writer: Any = module.SummaryWriter(
            str(run_folder / TENSORBOARD_FOLDER), purge_step=resumed_at + 1 if resumed_at else None
        )

    def epoch(self, record: EpochRecord) -> None:
        """Write one epoch: losses, Dice of each structure, learning rate, time and memory; ``None`` is left out."""
        values = {
            "loss/train": record.train_loss,
            "loss/validation": record.val_loss,
            "dice/mean": record.mean_dice,
            "learning_rate": record.lr,
            "seconds": record.seconds,
            "memory_mb": record.memory_mb,
        } | {f"dice/{key}": value for key, value in record.dice.items()}
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
