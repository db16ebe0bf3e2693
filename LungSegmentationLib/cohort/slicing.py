"""One case becomes the slices that a training reads: resampled, counted, described."""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np

from LungSegmentationLib.cohort.cache import AxisRecord, CacheRecord
from LungSegmentationLib.cohort.records import Geometry
from LungSegmentationLib.cohort.resampling import FieldOfView, LabelResampling, plan_mapping
from LungSegmentationLib.errors import BadInputError, GeometryError, UsageError
from LungSegmentationLib.storage import atomic_path, write_text
from LungSegmentationLib.structures import label_table
from LungSegmentationLib.volumes import read_array

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from LungSegmentationLib.cohort.paths import CachePaths, CasePaths
    from LungSegmentationLib.cohort.records import CaseRecord
    from LungSegmentationLib.geometry import Grid
    from LungSegmentationLib.labels import LabelSet

__all__ = ["SliceSettings", "make_slices", "mean_and_std", "write_slices"]

SLICE_STEP: Final = 16  # a U-Net halves four times
SMALLEST_SLICE, LARGEST_SLICE = 32, 1024
LOWEST_HU, HIGHEST_HU = -1024.0, 32767.0


@dataclass(frozen=True)
class SliceSettings:
    """What the cached slices of all cases share.

    Attributes
    ----------
    slice_size
        Rows and columns of a slice, a multiple of 16.
    window
        Lowest and highest HU that a network sees; mean and standard deviation are those of the clipped voxels.
    field_of_view
        ``full``, or ``body``: crop to the body in plane, more pixels an organ.
    label_resampling
        ``coverage`` or ``nearest``, see :meth:`LungSegmentationLib.cohort.resampling.InPlaneMapping.bits_to_cache`.

    Raises
    ------
    UsageError
        If a value is impossible.
    """

    slice_size: int = 256
    window: tuple[float, float] = (-1000.0, 400.0)
    field_of_view: FieldOfView = "full"
    label_resampling: LabelResampling = "coverage"

    def __post_init__(self) -> None:
        # 1 and 1.0 are one window, and one fingerprint.
        object.__setattr__(self, "window", tuple(float(value) for value in self.window))
        if not SMALLEST_SLICE <= self.slice_size <= LARGEST_SLICE or self.slice_size % SLICE_STEP:
            raise UsageError(
                f"Slices of {self.slice_size} pixels cannot be used.",
                f"Choose a multiple of {SLICE_STEP} from {SMALLEST_SLICE} to {LARGEST_SLICE}; 256 is usual.",
            )
        low, high = self.window
        if not (math.isfinite(low) and math.isfinite(high) and LOWEST_HU <= low < high <= HIGHEST_HU):
            raise UsageError(
                f"{low:g} to {high:g} HU is no window.", f"Give the lower value first, from {LOWEST_HU:g} on."
            )
        for value, kind in ((self.field_of_view, FieldOfView), (self.label_resampling, LabelResampling)):
            if value not in get_args(kind):
                raise UsageError(f"“{value}” is unknown.", f"Choose one of: {', '.join(get_args(kind))}.")


def make_slices(
    case: CaseRecord, files: CasePaths, label_set: LabelSet, settings: SliceSettings, made_from: str
) -> tuple[CacheRecord, NDArray[np.int16], NDArray[np.uint8]]:
    """Read the volumes of a case and make its slices; ``made_from`` is kept in the record.

    Returns
    -------
    record
        What is known of the slices.
    ct
        HU, int16 (slices, slice_size, slice_size).
    bits
        Structures as drawn, uint8, of the same shape.

    Raises
    ------
    BadInputError
        If a volume is missing, damaged, does not lie on the case's grid or holds values that cannot be meant.
    """
    grid = case.geometry.grid
    # Reading is decompression, which leaves Python free: the small volume costs no time beside the large one.
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(_read_bits, files.structures, grid, label_set)
        native_ct = _read_ct(files.ct, grid)
        native_bits = reading.result()
    mapping = plan_mapping(native_ct, grid, settings.slice_size, settings.field_of_view, native_bits)
    ct = mapping.to_cache(native_ct)
    bits = mapping.bits_to_cache(native_bits, settings.label_resampling)

    histogram = np.array([np.bincount(plane.ravel(), minlength=256) for plane in bits])
    values = np.arange(256)
    has_bit = np.array([(values >> (structure.label - 1)) & 1 for structure in label_set.structures]).T
    is_label = (label_table(label_set)[:, None] == np.arange(len(label_set) + 1)).astype(np.int64)
    structure_counts, totals = histogram @ has_bit, histogram.sum(axis=0)
    mean, std = mean_and_std(ct, settings.window)

    warnings = [
        f"The {structure.name} is too small for slices of {settings.slice_size} pixels: nothing is left of it."
        for structure, count in zip(label_set.structures, structure_counts.sum(axis=0), strict=True)
        if structure.key in case.annotated and count == 0
    ]
    if std == 0:
        warnings.append(f"The CT shows nothing between {settings.window[0]:g} and {settings.window[1]:g} HU.")
    record = CacheRecord(
        case=case.case,
        patient_id=case.source.patient_id,
        annotated=case.annotated,
        structures=label_set.keys,
        mean=mean,
        std=std,
        window=settings.window,
        slice_size=settings.slice_size,
        slices=mapping.slices,
        field_of_view=settings.field_of_view,
        label_resampling=settings.label_resampling,
        native=case.geometry,
        axes=mapping.reorientation.axes,
        flips=mapping.reorientation.flips,
        y=AxisRecord.of(mapping.y),
        x=AxisRecord.of(mapping.x),
        grid=Geometry.of(mapping.cached),
        structure_counts=tuple(map(tuple, structure_counts.tolist())),
        label_counts=tuple(map(tuple, (histogram @ is_label).tolist())),
        bit_counts={int(value): int(totals[value]) for value in np.flatnonzero(totals)},
        warnings=tuple(warnings),
        case_fingerprint=case.fingerprint,
        fingerprint="",
        made_from=made_from,
    )
    return record.model_copy(update={"fingerprint": _fingerprint(record, ct, bits)}), ct, bits


def write_slices(record: CacheRecord, ct: NDArray[np.int16], bits: NDArray[np.uint8], files: CachePaths) -> None:
    """Write the three files of a cached case, each whole or not at all; the record comes last."""
    for path, array in ((files.ct, ct), (files.structures, bits)):
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.save(stream, array)
    # On one line: with a line a number, the counts would take more room than the slices allow.
    write_text(files.record, json.dumps(record.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n")


def _fingerprint(record: CacheRecord, ct: NDArray[np.int16], bits: NDArray[np.uint8]) -> str:
    facts = {"annotated", "structures", "window", "native", "axes", "flips", "y", "x", "label_counts"}
    digest = hashlib.sha256(record.model_dump_json(include=facts).encode())
    for array, kind in ((ct, "<i2"), (bits, "u1")):
        digest.update(np.ascontiguousarray(array, kind).data)
    return digest.hexdigest()


def mean_and_std(ct: NDArray[np.int16], window: tuple[float, float]) -> tuple[float, float]:
    """Return mean and standard deviation (HU, of the whole population) of a CT clipped to a window."""
    low, high = window
    total = squares = 0.0
    for plane in ct:
        clipped = np.clip(plane.astype(np.float64), low, high)
        total += float(clipped.sum())
        # No dot product: threads of a BLAS would cost more here than they bring.
        squares += float(np.square(clipped, out=clipped).sum())
    mean = total / ct.size
    variance = max(0.0, squares / ct.size - mean * mean)
    # What is left of a constant image is rounding.
    return mean, math.sqrt(variance) if variance > 1e-6 else 0.0


def _read_ct(path: Path, grid: Grid) -> NDArray[np.int16]:
    array = _read_on(path, grid)
    if array.dtype == np.int16:
        return array
    if not np.isfinite(array).all():
        raise BadInputError(f"{path} holds values that are no numbers.", "Convert this case again.")
    rounded: NDArray[np.int16] = np.rint(np.clip(array, LOWEST_HU, HIGHEST_HU)).astype(np.int16)
    return rounded


def _read_bits(path: Path, grid: Grid, label_set: LabelSet) -> NDArray[np.uint8]:
    array = _read_on(path, grid)
    lowest, highest = array.min(), array.max()
    if not (lowest >= 0 and highest < 1 << len(label_set)) or (array.dtype.kind == "f" and (array % 1 != 0).any()):
        raise BadInputError(
            f"{path} holds {lowest:g} to {highest:g}; structure bits of the label set {label_set.name} are whole "
            f"numbers from 0 to {(1 << len(label_set)) - 1}.",
            "Convert this case again.",
        )
    return array.astype(np.uint8, copy=False)


def _read_on(path: Path, grid: Grid) -> NDArray[Any]:
    found, array = read_array(path)
    if not found.matches(grid, tolerance=1e-2):
        raise GeometryError(f"{path} does not lie on the grid that case.json names.", "Convert this case again.")
    return array
