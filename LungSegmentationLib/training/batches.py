"""From the cache to batches: slices are read where they lie, the next batches while the network learns from this one.

Only the slices of a batch are read, by position: memory does not grow with the cohort, a file that vanishes is an error
with a sentence (a memory map would end the process), and no worker processes are needed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from LungSegmentationLib.errors import StorageError

if TYPE_CHECKING:
    from types import TracebackType

    from LungSegmentationLib.cohort.cache import CachedCase, CacheRecord

__all__ = ["CaseFacts", "Prefetcher", "SliceBatch", "SliceStore"]

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class SliceBatch:
    """Slices as they lie in the cache.

    Attributes
    ----------
    hounsfield
        int16, (B, C, S, S), HU; C neighboring slices from below (z − n) to above (z + n), edges repeated.
    bits
        uint8, (B, S, S), structures of the middle slice, bit ``label − 1``.
    annotated
        bool, (B, number of structures of the label set).
    mean, std
        float32, (B,), HU, of each slice's patient after windowing.
    names
        Case and slice (from 0) of each sample, for messages.
    """

    hounsfield: Tensor
    bits: Tensor
    annotated: Tensor
    mean: Tensor
    std: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.hounsfield)

    def to(self, device: torch.device) -> SliceBatch:
        """Return the batch on a device; from pinned memory nobody waits for it."""
        return replace(
            self,
            **{
                name: getattr(self, name).to(device, non_blocking=True)
                for name in ("hounsfield", "bits", "annotated", "mean", "std")
            },
        )


@dataclass(frozen=True)
class _Slices:
    """Where the slices of one array lie in its file, and which file that was."""

    path: Path
    offset: int
    slice_bytes: int
    state: tuple[int, int, int]

    @classmethod
    def of(cls, array: NDArray[Any]) -> _Slices:
        if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
            raise TypeError("slices are read from memory-mapped arrays")
        path = Path(array.filename)
        try:
            with path.open("rb") as stream:
                state = _state(stream)
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}.", "Prepare the cohort again.") from error
        return cls(path, int(array.offset), int(array[0].nbytes), state)


def _state(stream: IO[bytes]) -> tuple[int, int, int]:
    """Return what changes when a file is written or replaced."""
    status = os.fstat(stream.fileno())
    return status.st_ino, status.st_mtime_ns, status.st_size


@dataclass(frozen=True)
class CaseFacts:
    """What a training keeps of a case's record.

    Attributes
    ----------
    name, patient_id, annotated, mean, std, fingerprint
        As in :class:`~LungSegmentationLib.cohort.cache.CacheRecord`.
    present
        bool, (slices, structures of the label set): where each structure has pixels.
    spacing
        mm along x, y, z of the cached slices.
    """

    name: str
    patient_id: str
    annotated: frozenset[str]
    mean: float
    std: float
    fingerprint: str
    present: NDArray[np.bool_]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, record: CacheRecord) -> CaseFacts:
        """Take over what is needed."""
        return cls(
            record.case,
            record.patient_id,
            frozenset(record.annotated),
            record.mean,
            record.std,
            record.fingerprint,
            np.array(record.structure_counts) > 0,
            record.grid.spacing,
        )


class SliceStore:
    """All slices of some cases, counted through; a case's slices are neighbors.

    Parameters
    ----------
    cases
        From :func:`LungSegmentationLib.cohort.cache.open_split`; only places and records of them are kept.
    keys
        Structures of the label set in the order of their labels.
    neighbors
        Slices on each side that come with one.
    pinned
        Whether batches lie in pinned memory, for a GPU.

    Attributes
    ----------
    cases
        What is kept of each case.
    annotated
        bool, (cases, structures of the label set).
    """

    def __init__(
        self, cases: Sequence[CachedCase], keys: Sequence[str], *, neighbors: int = 0, pinned: bool = False
    ) -> None:
        self.neighbors = neighbors
        self.pinned = pinned
        self.cases = tuple(CaseFacts.of(case.record) for case in cases)
        # A case keeps its maps open once it was asked for them: a copy is asked, and forgotten.
        self._ct = [_Slices.of(copy.copy(case).ct) for case in cases]
        self._structures = [_Slices.of(copy.copy(case).structures) for case in cases]
        self._counts = np.array([len(case.present) for case in self.cases], np.int64)
        self._ends = np.cumsum(self._counts)
        self._size = cases[0].record.slice_size if cases else 0
        self.annotated = torch.tensor([[key in case.annotated for key in keys] for case in self.cases])
        self._mean = torch.tensor([case.mean for case in self.cases], dtype=torch.float32)
        self._std = torch.tensor([case.std for case in self.cases], dtype=torch.float32)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def span(self, case: int) -> range:
        """Return the indices of a case's slices."""
        return range(int(self._ends[case] - self._counts[case]), int(self._ends[case]))

    def gather(self, indices: Iterable[int]) -> SliceBatch:
        """Read slices.

        Raises
        ------
        StorageError
            If a file of the cache cannot be read any more, or is another one than at the beginning.
        """
        wanted = np.fromiter(indices, np.int64)
        cases = np.searchsorted(self._ends, wanted, side="right")
        slices = wanted - (self._ends - self._counts)[cases]
        channels = 2 * self.neighbors + 1
        hounsfield = torch.empty(
            (len(wanted), channels, self._size, self._size), dtype=torch.int16, pin_memory=self.pinned
        )
        bits = torch.empty((len(wanted), self._size, self._size), dtype=torch.uint8, pin_memory=self.pinned)
        to_hounsfield, to_bits = hounsfield.numpy(), bits.numpy()
        for case in np.unique(cases):
            rows = np.flatnonzero(cases == case)
            self._read(self._structures[case], case, slices[rows], [to_bits[row] for row in rows])
            places = slices[rows, None] + np.arange(-self.neighbors, self.neighbors + 1)
            places = places.clip(0, self._counts[case] - 1)
            self._read(
                self._ct[case],
                case,
                places.ravel(),
                [to_hounsfield[row, channel] for row in rows for channel in range(channels)],
            )
        index = torch.from_numpy(cases)
        return SliceBatch(
            hounsfield,
            bits,
            self.annotated[index],
            self._mean[index],
            self._std[index],
            tuple(f"{self.cases[case].name} slice {z}" for case, z in zip(cases, slices, strict=True)),
        )

    def _read(self, source: _Slices, case: int, places: NDArray[np.int64], targets: Sequence[NDArray[Any]]) -> None:
        try:
            with source.path.open("rb", buffering=0) as stream:
                if _state(stream) != source.state:
                    raise StorageError(
                        f"{source.path}, the cache of {self.cases[case].name}, was prepared anew or changed while the"
                        " training ran.",
                        "Go on with --resume; if that says that the cohort changed, start a new run.",
                    )
                for place, target in zip(places, targets, strict=True):
                    stream.seek(source.offset + int(place) * source.slice_bytes)
                    view = memoryview(target.data).cast("B")
                    done = 0
                    while done < len(view):
                        count = stream.readinto(view[done:])
                        if not count:
                            raise StorageError(
                                f"{source.path}, the cache of {self.cases[case].name}, is cut off.",
                                "Prepare the cohort again, then go on with --resume.",
                            )
                        done += count
        except OSError as error:
            raise StorageError(
                f"{source.path}, the cache of {self.cases[case].name}, cannot be read any more: {error.strerror}.",
                "Bring the cohort back (its disk, its network), or prepare it again, then go on with --resume.",
            ) from error


class Prefetcher(Generic[Item, Made]):
    """Makes things in a thread, some ahead of who takes them; in order, and an error comes where its thing would.

    Parameters
    ----------
    make
        Makes one.
    items
        From what.
    ahead
        How many may wait.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], ahead: int = 3) -> None:
        self._make = make
        self._items = items
        self._ready: queue.Queue[tuple[Made | None, BaseException | None, bool]] = queue.Queue(max(1, ahead))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Made]:
        while True:
            made, error, last = self._ready.get()
            if error is not None:
                raise error
            if last:
                return
            if made is not None:
                yield made

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        self._closed.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get_nowait()
            self._thread.join(0.01)

    def _work(self) -> None:
        try:
            for item in self._items:
                if self._closed.is_set():
                    return
                self._ready.put((self._make(item), None, False))
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is taken
            self._ready.put((None, error, False))
            return
        self._ready.put((None, None, True))
