"""What all steps share that work through the cases of a cohort: side by side, one failure at a time, no leftovers."""

from __future__ import annotations

import shutil
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from LungSegmentationLib.errors import LungSegError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Failure", "remove_leftovers", "side_by_side"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """Why a case could not be worked on; ``trace`` is there only for faults of the program."""

    reason: str
    trace: str = ""
    storage: bool = False

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe an error; to be called while it is being handled."""
        if isinstance(error, LungSegError):
            return cls(str(error), storage=isinstance(error, StorageError))
        if isinstance(error, MemoryError):
            return cls("Not enough memory for this case. Use fewer --jobs.")
        return cls(f"fault in the program: {type(error).__name__}: {error}", traceback.format_exc())


def side_by_side(function: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """Yield ``function(item)`` of all items as they are done, on ``jobs`` processes (1: in this one, in order).

    joblib's processes do the work; inside ``joblib.parallel_config(backend="dask")`` the workers of a Dask cluster do.
    """
    if jobs == 1 or len(items) < 2:
        yield from map(function, items)
        return
    from joblib import Parallel, delayed

    # "unordered": progress is told as soon as any case is done.
    work = Parallel(n_jobs=min(jobs, len(items)), return_as="generator_unordered", batch_size=1)
    yield from work(delayed(function)(item) for item in items)


def remove_leftovers(*folders: Path) -> None:
    """Remove what a killed process left half-written; only under the cohort's lock, when it belongs to nobody."""
    for entry in (entry for folder in folders for entry in folder.glob(".partial-*")):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()
