"""The events of a job as typed models: one JSON object a line (``Docs/events.md``).

Reading never raises: a line that is broken, half written or of a later version is no event.
"""

from __future__ import annotations

import errno
import json
import math
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from LungSegmentationLib.errors import CancelledError, ExitCode, LungSegError, MemoryLimitError, StorageError

SCHEMA_VERSION: Literal[1] = 1
"""Rises only when an older reader would misunderstand; new fields and new events do not raise it."""

FULL_DISK_ERRORS = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


def _plain(value: object) -> object:
    """Reduce a value to what strict JSON can say: no NaN, no infinity, no half characters, no numpy."""
    if value is None or isinstance(value, bool | int | datetime):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        # File names that are not UTF-8 reach Python as lone surrogates, which no JSON reader accepts.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, PurePath):
        return _plain(str(value))
    if isinstance(value, Mapping):
        return {str(_plain(key if isinstance(key, str) else str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy
        return _plain(value.tolist())
    return _plain(str(value))


class BaseEvent(BaseModel):
    """What every event carries: the schema version ``v`` and the moment (UTC)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = SCHEMA_VERSION
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="before")
    @classmethod
    def _strict_json(cls, data: object) -> object:
        return _plain(data) if isinstance(data, dict) else data

    def to_line(self) -> bytes:
        r"""Return the event as one line of ASCII JSON that ends with ``\n``."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


class Started(BaseEvent):
    """The first event of a job."""

    event: Literal["started"] = "started"
    command: str
    pid: int
    pid_created: float | None = None
    """When the process was created, as psutil says it (s since 1970): tells it from a later one of the same pid."""
    host: str | None = None
    software_version: str = ""
    run: str | None = None
    """Folder of the run, where the job has one."""
    total: dict[str, int] = Field(default_factory=dict)
    """How much there is to do as far as it is known, for example ``{"cases": 12}``."""


class Progress(BaseEvent):
    """How far one stage has come."""

    event: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int | None = None
    eta_s: float | None = None
    """Seconds that the stage will still take; null while unknown."""
    message: str = ""


class Epoch(BaseEvent):
    """One epoch of a training. Numbers that are not finite are null."""

    event: Literal["epoch"] = "epoch"
    epoch: int
    """Counts from 1."""
    epochs: int
    train_loss: float | None = None
    val_loss: float | None = None
    dice: dict[str, float | None] = Field(default_factory=dict)
    """Dice of each structure; null where nobody drew it."""
    mean_dice: float | None = None
    best_mean_dice: float | None = None
    """The best ``mean_dice`` of the run so far, so that a reader of the last lines knows it."""
    lr: float | None = None
    seconds: float | None = None
    memory_mb: float | None = None


class Warning_(BaseEvent):  # noqa: N801 - "Warning" is Python's own
    """Something that a person should look at; the job goes on."""

    event: Literal["warning"] = "warning"
    message: str
    subject: str = ""
    """What it is about: a case, a file, a structure."""


class Log(BaseEvent):
    """A line for those who want to know more."""

    event: Literal["log"] = "log"
    message: str
    level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""


class Result(BaseEvent):
    """What the job made."""

    event: Literal["result"] = "result"
    paths: dict[str, str] = Field(default_factory=dict)
    summary: dict[str, JsonValue] = Field(default_factory=dict)


class Failed(BaseEvent):
    """Why the job could not do its work."""

    event: Literal["failed"] = "failed"
    kind: str
    message: str
    hint: str = ""
    exit_code: int = int(ExitCode.FAULT)
    traceback: str | None = None
    """Only for faults of the program."""

    @classmethod
    def from_error(cls, error: BaseException) -> Failed:
        """Say what an exception means to a user: kind, sentence, cure and exit code."""
        if not isinstance(error, LungSegError):
            error_of_ours = _translated(error)
            if error_of_ours is None:
                return cls(
                    kind="fault",
                    message=f"{type(error).__name__}: {error}".rstrip(": "),
                    hint="This is a fault of the program; please report it with the text below.",
                    exit_code=int(ExitCode.FAULT),
                    traceback="".join(traceback.format_exception(error)),
                )
            error = error_of_ours
        return cls(kind=error.kind, message=error.message, hint=error.hint, exit_code=int(error.exit_code))


class Cancelled(BaseEvent):
    """The job was asked to stop, and stopped cleanly."""

    event: Literal["cancelled"] = "cancelled"
    message: str = ""


class Finished(BaseEvent):
    """The last event of every job that ended by itself, also after ``failed`` and ``cancelled``."""

    event: Literal["finished"] = "finished"
    seconds: float | None = None
    exit_code: int = int(ExitCode.DONE)


Event = Started | Progress | Epoch | Warning_ | Log | Result | Failed | Cancelled | Finished
END_EVENTS = (Failed, Cancelled, Finished)

_READER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: str | bytes) -> Event | None:
    """Return the event that a line holds, or None where it holds none.

    Parameters
    ----------
    line
        One line, with or without its end. Bytes that are no UTF-8 are replaced.

    Returns
    -------
    Event or None
        None for an empty, foreign, broken or half-written line, an unknown event, and another schema version.
    """
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    if not text.lstrip("\ufeff \t").startswith("{"):
        return None
    try:
        return _READER.validate_python(json.loads(text.lstrip("\ufeff")))
    except (ValueError, RecursionError):  # pydantic's and json's errors are ValueErrors
        return None


def _translated(error: BaseException) -> LungSegError | None:
    if isinstance(error, KeyboardInterrupt):
        return CancelledError("Interrupted.")
    if isinstance(error, MemoryError):
        return MemoryLimitError("There is not enough memory.", "Close other programs, or choose fewer parallel jobs.")
    if isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS:
        where = f" ({error.filename})" if error.filename else ""
        return StorageError(f"The disk is full{where}.", "Free some space, then run the same command again.")
    if isinstance(error, PermissionError) and error.filename:
        return StorageError(f"{error.filename} cannot be used: {error.strerror}.", "Choose another file or folder.")
    return None
