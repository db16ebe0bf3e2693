"""The slices that a training reads: memory-mapped, opened only when asked for, never trusted blindly."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from LungSegmentationLib import __version__
from LungSegmentationLib.cohort.axis_mapping import AxisMapping
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, Geometry, Record, read_record
from LungSegmentationLib.cohort.resampling import InPlaneMapping
from LungSegmentationLib.cohort.splits import read_split
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.geometry import Reorientation

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from LungSegmentationLib.cohort.paths import CachePaths, CohortPaths
    from LungSegmentationLib.cohort.splits import Part

__all__ = [
    "AxisRecord",
    "CacheRecord",
    "CachedCase",
    "cached_cases",
    "open_case",
    "open_split",
    "read_cache_record",
    "refuse_flat",
]

PREPARE = "Run: lungseg prepare COHORT"


class AxisRecord(Record):
    """See :class:`LungSegmentationLib.cohort.axis_mapping.AxisMapping`."""

    native: int
    cached: int
    scale: float
    offset: float

    @classmethod
    def of(cls, axis: AxisMapping) -> AxisRecord:
        """Take over a mapping."""
        return cls(native=axis.native, cached=axis.cached, scale=axis.scale, offset=axis.offset)

    @property
    def mapping(self) -> AxisMapping:
        """The mapping."""
        return AxisMapping(self.native, self.cached, self.scale, self.offset)


class CacheRecord(Record):
    """``cache/<case>.json``: what the cached slices are and where they come from.

    Attributes
    ----------
    case, patient_id
        Whose they are.
    annotated
        Keys of the structures that were drawn; one that is not listed is unknown, not absent.
    structures
        Keys of the label set; bit and column ``k`` belong to ``structures[k]``.
    mean, std
        HU, of all cached voxels after clipping to ``window``.
    window
        Lowest and highest HU.
    slice_size, slices
        Rows and columns of a cached slice, and how many there are.
    field_of_view, label_resampling
        See :mod:`LungSegmentationLib.cohort.resampling`.
    native, axes, flips, y, x
        The case's own grid and everything that leads back to it (:attr:`mapping`).
    grid
        Grid of the cached volume in LPS, mm.
    structure_counts
        Cached voxels of each structure as drawn, a row a slice, a column a structure.
    label_counts
        Cached voxels of each label of the label map painted with all structures, a row a slice, the first column
        background.
    bit_counts
        Cached voxels of each value of the structure bits that occurs: enough for the label map of any choice of
        structures.
    warnings
        What a person should know of this case.
    case_fingerprint
        That of ``case.json`` when the slices were made.
    fingerprint
        SHA-256 (hexadecimal) of what a network can learn from them: voxels, structure bits, geometry, window and which
        structures were drawn. The same slices have the same one, wherever and whenever they were made.
    made_from
        Digest of all that they were made from, volumes by size and time: whether they have to be made anew.
    """

    cure: ClassVar[str] = PREPARE

    schema_version: Literal[1] = 1
    software_version: str = __version__
    case: str
    patient_id: str
    annotated: tuple[str, ...]
    structures: tuple[str, ...]
    mean: Annotated[float, Field(allow_inf_nan=False)]
    std: Annotated[float, Field(allow_inf_nan=False, ge=0)]
    window: tuple[float, float]
    slice_size: int
    slices: int
    field_of_view: Literal["full", "body"]
    label_resampling: Literal["coverage", "nearest"]
    native: Geometry
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    y: AxisRecord
    x: AxisRecord
    grid: Geometry
    structure_counts: tuple[tuple[int, ...], ...]
    label_counts: tuple[tuple[int, ...], ...]
    bit_counts: dict[int, int]
    warnings: tuple[str, ...] = ()
    case_fingerprint: str
    fingerprint: str
    made_from: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the cached arrays."""
        return self.slices, self.slice_size, self.slice_size

    @property
    def mapping(self) -> InPlaneMapping:
        """The way between the case's grid and the cached slices, exact in both directions."""
        return InPlaneMapping(self.native.grid, Reorientation(self.axes, self.flips), self.y.mapping, self.x.mapping)


class CachedCase:
    """The cached slices of one case.

    The arrays are mapped when first asked for, and again in a process to which this object was sent.

    Parameters
    ----------
    record
        What is known of the case.
    files
        Where its arrays lie.

    Raises
    ------
    BadInputError
        If an array is missing, cut off or not of the record's shape.
    """

    def __init__(self, record: CacheRecord, files: CachePaths) -> None:
        self.record = record
        self._files = files
        for path, dtype in ((files.ct, np.int16), (files.structures, np.uint8)):
            _offset(path, record.shape, np.dtype(dtype))

    def __repr__(self) -> str:
        return f"CachedCase({self.name!r}, {self.record.slices} slices of {self.record.slice_size}²)"

    def __len__(self) -> int:
        return self.record.slices

    def __getstate__(self) -> dict[str, Any]:
        return {"record": self.record, "_files": self._files}

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.record.case

    @cached_property
    def ct(self) -> NDArray[np.int16]:
        """HU, int16 (slices, slice_size, slice_size), a read-only memory map."""
        return _mapped(self._files.ct, self.record.shape, np.dtype(np.int16))

    @cached_property
    def structures(self) -> NDArray[np.uint8]:
        """Structure bits, uint8 (slices, slice_size, slice_size), a read-only memory map."""
        return _mapped(self._files.structures, self.record.shape, np.dtype(np.uint8))


def cached_cases(paths: CohortPaths) -> tuple[str, ...]:
    """Return the names of the cases that are in the cache, sorted."""
    return paths.cached_names()


def read_cache_record(paths: CohortPaths, name: str) -> CacheRecord:
    """Read ``cache/<case>.json``.

    Raises
    ------
    BadInputError
        If there is none, or it is damaged or another case's.
    """
    path = paths.cached(name).record
    if not path.is_file():
        raise BadInputError(f"The case “{name}” of {paths.root} is not in the cache.", PREPARE)
    record = read_record(CacheRecord, path)
    rows = {len(record.structure_counts), len(record.label_counts), record.grid.size[2]}
    if record.case != name or rows != {record.slices}:
        raise BadInputError(f"{path} contradicts itself: it was changed or belongs to another case.", PREPARE)
    return record


def open_case(paths: CohortPaths, name: str) -> CachedCase:
    """Open the cached slices of one case.

    Raises
    ------
    BadInputError
        If the case is not in the cache, was prepared with other settings than the cohort, was converted anew since
        then, or its arrays are damaged.
    """
    paths.require()
    return _open(paths, name, read_record(CohortRecord, paths.cohort))


def open_split(paths: CohortPaths, part: Part) -> list[CachedCase]:
    """Open all cases of one part of the split, sorted by name: the order of the lines of its file means nothing.

    Raises
    ------
    BadInputError
        If the cohort was not prepared, the split names a case that is not in the cache, or one that
        :func:`open_case` refuses.
    """
    paths.require()
    cohort = read_record(CohortRecord, paths.cohort)
    names = sorted(read_split(paths, part))
    known = set(paths.cached_names())
    missing = [name for name in names if name not in known]
    if missing:
        raise BadInputError(
            f"{paths.split(part)} names {len(missing)} case(s) that are not in the cache, the first: {missing[0]}.",
            f"{PREPARE} — if the case is gone for good, remove its line.",
        )
    return [_open(paths, name, cohort) for name in names]


def refuse_flat(cases: Iterable[CachedCase]) -> None:
    """Refuse cases whose intensities cannot be normalized by their standard deviation, which is 0.

    Raises
    ------
    BadInputError
        Names the first one.
    """
    for case in cases:
        record = case.record
        if record.std == 0:
            raise BadInputError(
                f"The CT of the case “{case.name}” has one value only between {record.window[0]:g} and "
                f"{record.window[1]:g} HU, so it has no z-score.",
                "Remove its line from the files in splits, or train with --set normalization=window.",
            )


def _open(paths: CohortPaths, name: str, cohort: CohortRecord) -> CachedCase:
    record = read_cache_record(paths, name)
    settings = (record.slice_size, record.window, record.field_of_view, record.label_resampling)
    if settings != (cohort.slice_size, cohort.window, cohort.field_of_view, cohort.label_resampling):
        raise BadInputError(
            f"The case “{name}” was prepared with other settings than the cohort: a preparation was interrupted.",
            PREPARE,
        )
    source = paths.case(name).record
    # A cohort may be taken elsewhere without its cases; where they are, they have to be the ones that were prepared.
    if source.is_file() and read_record(CaseRecord, source).fingerprint != record.case_fingerprint:
        raise BadInputError(f"The case “{name}” was converted anew since it was prepared.", PREPARE)
    return CachedCase(record, paths.cached(name))


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    offset = _offset(path, shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def _offset(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return where the values of an ``.npy`` file begin, after checking that it holds just what it has to."""
    try:
        with path.open("rb") as stream:
            major, _ = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            found_shape, fortran, found_dtype = read_header(stream)
            offset = stream.tell()
            size = stream.seek(0, 2)
    except FileNotFoundError:
        raise BadInputError(f"{path} is missing.", PREPARE) from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise BadInputError(f"{path} is damaged: it has no array header.", PREPARE) from error
    if (found_shape, found_dtype, fortran) != (shape, dtype, False):
        raise BadInputError(f"{path} holds {found_dtype} {found_shape}, but its record says {dtype} {shape}.", PREPARE)
    expected = offset + int(np.prod(shape)) * dtype.itemsize
    if size != expected:
        raise BadInputError(f"{path} has {size} bytes where {expected} belong: it was cut off or changed.", PREPARE)
    return offset
