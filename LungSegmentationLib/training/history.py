"""What each epoch of a run has brought: the file behind the curves, rewritten after each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.storage import read_json, write_json

__all__ = ["HISTORY_FILE", "HISTORY_PICTURE", "SCHEMA", "EpochRecord", "History"]

SCHEMA: Literal[1] = 1
HISTORY_FILE = "training_history.json"
HISTORY_PICTURE = "training_history.png"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# A loss that is no number must not make the file unreadable: JSON has no NaN.
_MaybeNumber = Annotated[float | None, BeforeValidator(_finite)]


class EpochRecord(BaseModel):
    """One epoch.

    Attributes
    ----------
    epoch
        From 1.
    train_loss, val_loss
        Means over the epoch; ``None`` where there was none or it was no finite number.
    dice
        By structure key, the mean over the validation patients in whom it was drawn; ``None`` where nobody drew it.
    mean_dice
        Over the structures that have one.
    best
        Whether this epoch's network was the best so far, by the validation loss (or what else is monitored).
    lr
        Learning rate at the end of the epoch.
    seconds
        Time that it took, validation included.
    memory_mb
        MiB, see :func:`.devices.memory_mb`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: Annotated[int, Field(ge=1)]
    train_loss: _MaybeNumber = None
    val_loss: _MaybeNumber = None
    dice: dict[str, _MaybeNumber] = Field(default_factory=dict)
    mean_dice: _MaybeNumber = None
    best: bool = False
    lr: _MaybeNumber = None
    seconds: _MaybeNumber = None
    memory_mb: _MaybeNumber = None


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1]
    structures: tuple[str, ...]
    epochs: tuple[EpochRecord, ...]


class History:
    """The epochs of a run, in their order.

    Parameters
    ----------
    structures
        Keys of what is learned, in the order of their labels.
    records
        Epochs that were done before.

    Examples
    --------
    >>> history = History(["heart"])
    >>> history.append(EpochRecord(epoch=1, train_loss=0.7, val_loss=0.8, dice={"heart": 0.5}, best=True))
    >>> len(history), history.best_epoch
    (1, 1)
    """

    def __init__(self, structures: tuple[str, ...] | list[str], records: tuple[EpochRecord, ...] = ()) -> None:
        self.structures = tuple(structures)
        self._records: list[EpochRecord] = []
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[EpochRecord]:
        return iter(self._records)

    def __getitem__(self, index: int) -> EpochRecord:
        return self._records[index]

    @property
    def records(self) -> tuple[EpochRecord, ...]:
        """All epochs."""
        return tuple(self._records)

    @property
    def best_epoch(self) -> int | None:
        """Number of the epoch whose network is kept as the best; ``None`` if there is none."""
        return next((record.epoch for record in reversed(self._records) if record.best), None)

    @property
    def best_mean_dice(self) -> float | None:
        """Highest mean Dice so far, whichever epoch was the best by the loss."""
        return max((record.mean_dice for record in self._records if record.mean_dice is not None), default=None)

    @property
    def seconds(self) -> float:
        """Time that all epochs took together."""
        return sum(record.seconds or 0.0 for record in self._records)

    def append(self, record: EpochRecord) -> None:
        """Add the next epoch.

        Raises
        ------
        ValueError
            If it does not follow the last one, or names a structure that is not learned.
        """
        after = self._records[-1].epoch if self._records else 0
        if record.epoch <= after:
            raise ValueError(f"epoch {record.epoch} does not follow epoch {after}")
        if strange := set(record.dice) - set(self.structures):
            raise ValueError(f"{sorted(strange)} are not learned")
        self._records.append(record)

    def truncated(self, epoch: int) -> History:
        """Return the history up to and including an epoch: what a run that is resumed there has behind it."""
        return History(self.structures, tuple(record for record in self._records if record.epoch <= epoch))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "schema_version": SCHEMA,
            "structures": list(self.structures),
            "epochs": [record.model_dump(mode="json") for record in self._records],
        }

    @classmethod
    def from_json(cls, content: object, source: str | Path = "the training history") -> History:
        """Read what :meth:`to_json` returned.

        Raises
        ------
        BadInputError
            If it is damaged, or was written by a newer version.
        """
        written = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(written, int) and written > SCHEMA:
            raise BadInputError(f"{source} was written by a newer LungSegmentation.", "Update the software.")
        try:
            parsed = _Content.model_validate(content)
            return cls(parsed.structures, parsed.epochs)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in detail["loc"])
            raise BadInputError(f"{source} is damaged: {place}: {detail['msg']}.", "Remove it.") from error
        except ValueError as error:
            raise BadInputError(f"{source} is damaged: {error}.", "Remove it.") from error

    @classmethod
    def read(cls, run_folder: Path) -> History:
        """Read the history of a run.

        Raises
        ------
        BadInputError
            If there is none, or it is damaged.
        """
        path = run_folder / HISTORY_FILE
        return cls.from_json(read_json(path, "training history"), path)

    def write(
        self,
        run_folder: Path,
        draw: Callable[[History, Path], object] | None = None,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        """Write ``training_history.json`` and the picture beside it, each whole or not at all.

        Parameters
        ----------
        run_folder
            Of the run.
        draw
            Makes the picture at a path, for example :func:`LungSegmentationLib.figures.training.draw_history` with
            its label set; ``None`` makes none.
        warn
            Hears why there is no picture. A picture that cannot be drawn must not end days of training.

        Raises
        ------
        StorageError
            If the JSON file cannot be written: then a checkpoint cannot be either.
        """
        write_json(run_folder / HISTORY_FILE, self.to_json())
        if draw is None:
            return
        picture = run_folder / HISTORY_PICTURE
        try:
            draw(self, picture)
        except Exception as error:  # noqa: BLE001 - fonts, libraries, a full disk: whatever it is, training goes on
            if warn is not None:
                warn(f"{picture} could not be drawn: {type(error).__name__}: {error}")
