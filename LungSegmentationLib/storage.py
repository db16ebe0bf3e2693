"""Files that are whole or not there at all, and names that are safe on every file system."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LungSegmentationLib.errors import BadInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "atomic_folder",
    "atomic_path",
    "read_json",
    "replace_folder",
    "restore_folders",
    "safe_name",
    "storage_errors",
    "write_json",
    "write_text",
]

LONGEST_NAME = 64
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{device}{n}" for device in ("com", "lpt") for n in range(1, 10)}
_OLD_COPY = re.compile(r"\.partial-\d+-old-(.+)", re.DOTALL)
_CURES = {
    errno.ENOSPC: "the disk is full. Free some space and start again: what is finished is kept.",
    errno.EDQUOT: "the disk quota is used up. Free some space and start again: what is finished is kept.",
    errno.EFBIG: "it takes no file of this size. Choose a folder on another disk.",
    errno.EACCES: "writing there is not allowed. Choose a folder that you may write to.",
    errno.EPERM: "writing there is not allowed. Choose a folder that you may write to.",
    errno.EROFS: "the disk is read-only. Choose a folder that you may write to.",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another path.",
    errno.EISDIR: "a folder of that name is in the way. Choose another path.",
    errno.EEXIST: "a file of that name is in the way. Choose another path.",
    errno.ENAMETOOLONG: "the path is too long. Choose a shorter one.",
}


def safe_name(text: str) -> str:
    """Make a file or folder name of any text that comes from a file.

    Letters and digits of all scripts stay; separators, control characters and what shells or Windows treat in a
    special way become ``_``. Two texts can give one name: who needs unique names compares them with
    :meth:`str.casefold`.
    """
    cleaned = re.sub(r"[^\w.\-]+", "_", unicodedata.normalize("NFC", text)).strip("._ ")
    cleaned = re.sub(r"\.{2,}", ".", cleaned) or "unnamed"
    if cleaned.split(".")[0].casefold() in _RESERVED:
        cleaned = f"_{cleaned}"
    if len(cleaned.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        kept = cleaned.encode()[: LONGEST_NAME - 9].decode("utf-8", "ignore")
        cleaned = f"{kept}_{digest}"
    return cleaned


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing right or a wrong path into one sentence about ``path``."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(_number(error))
        if cure is None:
            raise
        raise StorageError(f"{path} cannot be written:", cure) from error


def _number(error: BaseException | None) -> int:
    """Return the number of an error, or of the one that it was made of: pydicom raises a new one without a number."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__
    return 0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; rename it into place only when the block ends well."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The ending stays last: writers choose the format by it.
        partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
        try:
            yield partial
            _flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` to fill; it takes the place of ``folder`` only if the block ends well."""
    with storage_errors(folder):
        partial = folder.with_name(f".partial-{os.getpid()}-new-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            for file in partial.iterdir():
                _flush(file)
            replace_folder(partial, folder)
        except StorageError as error:
            # The hidden folder means nothing to a user.
            raise StorageError(error.message.replace(str(partial), str(folder)), error.hint) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; killed in between, ``folder`` is old, new or missing, never mixed.

    Where it is missing, :func:`restore_folders` puts the old one back.
    """
    old = folder.with_name(f".partial-{os.getpid()}-old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore_folders(parent: Path) -> list[Path]:
    """Put back the old folders whose successors a killed :func:`replace_folder` did not get into place.

    To be called only when nobody else works in ``parent``.
    """
    restored = []
    copies = [(entry, match[1]) for entry in parent.glob(".partial-*") if (match := _OLD_COPY.match(entry.name))]
    # The newest first: it is the one that was in place last.
    for copy, name in sorted(copies, key=lambda one: one[0].stat().st_mtime_ns, reverse=True):
        target = parent / name
        if copy.is_dir() and not target.exists():
            with storage_errors(target):
                copy.replace(target)
            restored.append(target)
    return restored


def _flush(file: Path) -> None:
    # Renamed but not yet on the disk would mean an empty file after a power cut.
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write strict, readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file that this software wrote; ``what`` names it in the error, for example ``"cohort"``."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(f"There is no {what} at {path}.") from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise BadInputError(f"{path} is damaged: {error}.", "Remove it and run the step that made it.") from error
