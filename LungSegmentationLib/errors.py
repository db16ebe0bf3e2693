"""What went wrong, in a user's words, and the exit code that says so to a script.

Anything that is not a :class:`LungSegError` is a fault of the program and keeps its traceback (exit code 1).
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process says when it ends (``Docs/architecture.md``, Commands)."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    BAD_INPUT = 3
    CANCELLED = 4
    OUT_OF_MEMORY = 5


class LungSegError(Exception):
    """Base of all errors that a user can understand and mend.

    Parameters
    ----------
    message
        One sentence with the file and the fact.
    hint
        One sentence with the cure; may be empty where the message already holds it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BAD_INPUT
    kind: ClassVar[str] = "bad_input"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InstallationError(LungSegError):
    """A broken installation: not the data is at fault (exit code 1)."""

    exit_code = ExitCode.FAULT
    kind = "fault"


class UsageError(LungSegError):
    """The command or function was called with values that cannot be meant."""

    exit_code = ExitCode.USAGE
    kind = "usage"


class BadInputError(LungSegError):
    """A file or folder cannot be used."""


class GeometryError(BadInputError):
    """The geometry of an image or a contour cannot be used without guessing."""

    kind = "geometry"


class UnsupportedFileError(BadInputError):
    """A file is of a kind that this software does not read."""

    kind = "unsupported"


class StorageError(BadInputError):
    """A disk is full, a folder cannot be written, a file vanished."""

    kind = "storage"


class CancelledError(LungSegError):
    """The user asked to stop."""

    exit_code = ExitCode.CANCELLED
    kind = "cancelled"


class MemoryLimitError(LungSegError):
    """Not enough memory, also after everything that can be made smaller was made smaller."""

    exit_code = ExitCode.OUT_OF_MEMORY
    kind = "out_of_memory"
