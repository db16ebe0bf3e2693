"""What resumes a training: one file, replaced only when the new one is whole on the disk, read without running code.

Random states are not in it, because there are none: the order of the samples and all that is drawn for a step follow
from the seed, the epoch and the step (:mod:`.sampling`), so the position says them.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import torch

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.storage import atomic_path

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.paths import RunPaths

__all__ = [
    "Checkpoint",
    "DamagedCheckpointError",
    "load_checkpoint",
    "load_latest",
    "prune_checkpoints",
    "remove_partial_files",
    "save_checkpoint",
]

SCHEMA: Literal[1] = 1
CURE = "Copy one of the kept checkpoints (epoch_*.pt) over it, or start a new run."

# What PyTorch and zipfile raise on bytes that are not what was written.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    MemoryError,
    OverflowError,
)


class DamagedCheckpointError(BadInputError):
    """A checkpoint is not what was written, or cannot be read; an older one may do."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a training between two steps: tensors and plain values only.

    Attributes
    ----------
    config, identity
        Settings, and what the task must be to go on.
    processes
        How many train together.
    epoch, step
        Epochs done, and steps done in the next one.
    loss_sum, loss_weight
        Of the steps done in that epoch.
    parts
        Micro-batches that a batch is cut into, after what memory allowed.
    seconds, epoch_seconds
        Time spent so far, and in the epoch that runs.
    best
        Epoch, monitored value and mean score of the best network.
    network, optimizer, schedule, scaler, average, stopping, history
        States of these; ``average`` is ``None`` without one.
    """

    config: dict[str, Any]
    identity: dict[str, str]
    processes: int
    epoch: int
    step: int
    loss_sum: float
    loss_weight: float
    parts: int
    seconds: float
    epoch_seconds: float
    best: dict[str, Any]
    network: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None
    stopping: dict[str, Any]
    history: Any = field(default_factory=list)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; killed at any moment, the file is the old one or the new one.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written.
    """
    content = {"schema": SCHEMA} | {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    with atomic_path(path) as partial, partial.open("wb") as stream:
        sink = _Sink(stream)
        try:
            torch.save(content, sink)  # type: ignore[arg-type]
        except RuntimeError as error:
            # PyTorch tells that writing failed, but not why.
            if sink.error is not None:
                raise sink.error from error
            raise


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, to the CPU.

    Raises
    ------
    DamagedCheckpointError
        If it is damaged, or cannot be read. Each byte of the tensors and of the plain values counts: PyTorch writes
        checksums (CRC-32 of the ZIP format) and does not look at them when it reads, so that is done here.
    BadInputError
        If it is missing, no checkpoint of this software, or written by a newer one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise DamagedCheckpointError(f"{path} is damaged: {wrong} is not what was written.", CURE)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadInputError(f"There is no checkpoint at {path}.", "Start the run without --resume.") from error
    except _DAMAGE as error:
        raise DamagedCheckpointError(f"{path} is damaged, or no checkpoint.", CURE) from error
    except OSError as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error.strerror}.", CURE) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadInputError(f"{path} was written by a newer LungSegmentation.", "Update the software.")
    names = {item.name for item in fields(Checkpoint)}
    if schema != SCHEMA or content.keys() - {"schema"} != names:
        raise BadInputError(f"{path} is no checkpoint of this LungSegmentation.", CURE)
    return Checkpoint(**{name: content[name] for name in names})


def load_latest(run: RunPaths) -> tuple[Checkpoint, str]:
    """Read a run's last checkpoint, or the latest of the kept ones where that is damaged, with a sentence about it.

    Raises
    ------
    DamagedCheckpointError
        If it is damaged and so are all that were kept, or none was.
    BadInputError
        As :func:`load_checkpoint`.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in (run.checkpoint, *reversed(run.epoch_checkpoints())):
        try:
            found = load_checkpoint(path)
        except DamagedCheckpointError as error:
            damaged.append(error)
        else:
            sentences = " ".join(error.message for error in damaged)
            after = f"{sentences} Going on from {path.name}: what was learned after it is learned again."
            return found, after if damaged else ""
    raise DamagedCheckpointError(
        " ".join(error.message for error in damaged),
        "There is no older checkpoint: start a new run. The best model so far is kept.",
    ) from damaged[0]


def prune_checkpoints(run: RunPaths, keep: int) -> None:
    """Delete the oldest of the kept checkpoints, so that ``keep`` stay."""
    kept = run.epoch_checkpoints()
    for path in kept[: max(0, len(kept) - keep)]:
        path.unlink(missing_ok=True)


def remove_partial_files(run: RunPaths) -> None:
    """Delete what a killed process left half written; only for who holds the run folder."""
    for path in run.folder.glob(".partial-*"):
        if path.is_file():
            path.unlink(missing_ok=True)


class _Sink:
    """Passes bytes on and remembers why that failed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all of it."""
        try:
            return self._stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Pass on what waits."""
        self._stream.flush()
