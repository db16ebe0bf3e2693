"""What all steps share that work through the cases of a cohort: side by side, one failure at a time, no leftovers."""

from __future__ import annotations

import shutil
import sys
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from LungSegmentationLib.errors import LungSegError, StorageError
from LungSegmentationLib.jobs.python import worker_python
from LungSegmentationLib.storage import restore_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Failure", "remove_leftovers", "side_by_side"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """Why a case could not be worked on.

    Attributes
    ----------
    reason
        For the user.
    kind
        ``data``: the files are at fault, and will be next time; ``storage``, ``memory``: the machine was; ``fault``:
        the program was.
    trace
        Only of faults of the program.
    """

    reason: str
    kind: Literal["data", "storage", "memory", "fault"]
    trace: str = ""

    @property
    def storage(self) -> bool:
        """Whether nothing can be written: then the others need not be tried."""
        return self.kind == "storage"

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe an error; to be called while it is being handled."""
        if isinstance(error, LungSegError):
            return cls(str(error), "storage" if isinstance(error, StorageError) else "data")
        if isinstance(error, MemoryError):
            return cls("Not enough memory for this case. Use fewer --jobs.", "memory")
        return cls(f"fault in the program: {type(error).__name__}: {error}", "fault", traceback.format_exc())

    @classmethod
    def of_process(cls) -> Failure:
        """Describe a process that was ended from outside, as systems do that run out of memory."""
        return cls("Its process was ended, probably for want of memory. Use fewer --jobs.", "memory")


def side_by_side(
    function: Callable[[T], R],
    items: Sequence[T],
    jobs: int,
    ended: Callable[[T], R] | None = None,
    warn: Callable[[str], object] | None = None,
) -> Iterator[R]:
    """Yield ``function(item)`` of all items as they are done, on ``jobs`` processes (1: in this one, in order).

    joblib's processes do the work; inside ``joblib.parallel_config(backend="dask")`` the workers of a Dask cluster do.

    Parameters
    ----------
    function, items, jobs
        What to do, with what, on how many processes.
    ended
        Result of an item whose process was ended from outside. When one is, what is not done yet is done again one by
        one, each in a process of its own, so that only the item that cannot be done is lost.
    warn
        Is told if no Python is found that processes can be started with; this one then does the work alone.
    """
    python = worker_python() if jobs > 1 and len(items) > 1 else None
    if python is None:
        if jobs > 1 and len(items) > 1 and warn is not None:
            warn(f"{sys.executable} is no Python that workers can be started with: the cases are done one by one.")
        yield from map(function, items)
        return
    with _started_with(str(python)):
        yield from _on_processes(function, items, jobs, ended)


def _on_processes(
    function: Callable[[T], R], items: Sequence[T], jobs: int, ended: Callable[[T], R] | None
) -> Iterator[R]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # "unordered": progress is told as soon as any case is done.
    work = Parallel(n_jobs=min(jobs, len(items)), return_as="generator_unordered", batch_size=1)
    left = dict(enumerate(items))
    try:
        for number, result in work(delayed(_numbered)(function, number, item) for number, item in left.copy().items()):
            del left[number]
            yield result
    except TerminatedWorkerError:
        if ended is None:
            raise
        for item in left.values():
            try:
                # Two processes for one item: with one, joblib would work in this process.
                yield from Parallel(n_jobs=2)([delayed(function)(item)])
            except TerminatedWorkerError:
                yield ended(item)


@contextmanager
def _started_with(python: str) -> Iterator[None]:
    """Let joblib start its processes with this Python; does nothing where that is ``sys.executable`` already.

    A launcher hands no open files on to the Python that it starts: the processes would wait for ever.
    """
    if python == sys.executable:
        yield
        return
    import multiprocessing.spawn

    from joblib.externals.loky.backend import spawn

    before = sys.executable, multiprocessing.spawn.get_executable(), spawn.get_executable
    # The workers of joblib, and the trackers of Python and of joblib that come with them.
    sys.executable, spawn.get_executable = python, lambda: python
    multiprocessing.spawn.set_executable(python)
    try:
        yield
    finally:
        sys.executable, tracker, spawn.get_executable = before
        multiprocessing.spawn.set_executable(tracker)


def _numbered(function: Callable[[T], R], number: int, item: T) -> tuple[int, R]:
    return number, function(item)


def remove_leftovers(*folders: Path) -> None:
    """Remove what a killed process left half-written; only under the cohort's lock, when it belongs to nobody.

    What it had moved aside and not replaced yet is put back first.
    """
    for folder in folders:
        restore_folders(folder)
    for entry in (entry for folder in folders for entry in folder.glob(".partial-*")):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()
