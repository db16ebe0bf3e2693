"""What a prepared cohort holds, part by part: read from the records in milliseconds, no voxel is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from LungSegmentationLib.cohort.cache import read_cache_record
from LungSegmentationLib.cohort.records import CohortRecord, read_record
from LungSegmentationLib.cohort.splits import PARTS, read_splits
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import LabelSet, label_set_from_dict

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.cache import CacheRecord
    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.cohort.splits import Part

__all__ = ["CohortStatistics", "PartStatistics", "cohort_statistics"]


@dataclass(frozen=True)
class PartStatistics:
    """What one part of the split holds.

    Attributes
    ----------
    patients, cases, slices
        How many.
    structures_per_case
        Number of annotated structures of each case.
    cases_with
        Cases in which each structure was annotated, by key.
    slices_with
        Cached slices that show each structure as drawn, by key.
    empty_slices
        Cached slices without any structure.
    label_voxels
        Cached voxels of each label of the label map, background first; shape (n + 1,).
    """

    patients: int
    cases: int
    slices: int
    structures_per_case: tuple[int, ...]
    cases_with: dict[str, int]
    slices_with: dict[str, int]
    empty_slices: int
    label_voxels: tuple[int, ...]


@dataclass(frozen=True)
class CohortStatistics:
    """What a prepared cohort holds."""

    label_set: LabelSet
    parts: dict[Part, PartStatistics]

    @property
    def patients(self) -> int:
        """Patients of all parts."""
        return sum(part.patients for part in self.parts.values())

    @property
    def cases(self) -> int:
        """Cases of all parts."""
        return sum(part.cases for part in self.parts.values())

    @property
    def slices(self) -> int:
        """Cached slices of all parts."""
        return sum(part.slices for part in self.parts.values())


def cohort_statistics(paths: CohortPaths) -> CohortStatistics:
    """Count what the parts of the split hold. Cases that the split names but the cache lacks are not counted.

    Raises
    ------
    BadInputError
        If the cohort is not prepared.
    """
    paths.require()
    split = read_splits(paths)
    if split is None:
        raise BadInputError(f"{paths.root} is not prepared.", "Run: lungseg prepare COHORT")
    label_set = label_set_from_dict(read_record(CohortRecord, paths.cohort).label_set, paths.cohort)
    known = set(paths.cached_names())
    return CohortStatistics(
        label_set,
        {
            part: _count([read_cache_record(paths, name) for name in split.part(part) if name in known], label_set)
            for part in PARTS
        },
    )


def _count(records: list[CacheRecord], label_set: LabelSet) -> PartStatistics:
    keys = label_set.keys
    slices_with = np.zeros(len(keys), np.int64)
    labels = np.zeros(len(keys) + 1, np.int64)
    empty = 0
    for record in records:
        drawn = np.array(record.structure_counts).reshape(-1, len(keys)) > 0
        slices_with += drawn.sum(axis=0)
        empty += int((~drawn.any(axis=1)).sum())
        labels += np.array(record.label_counts).reshape(-1, len(keys) + 1).sum(axis=0)
    return PartStatistics(
        patients=len({record.patient_id for record in records}),
        cases=len(records),
        slices=sum(record.slices for record in records),
        structures_per_case=tuple(len(record.annotated) for record in records),
        cases_with={key: sum(key in record.annotated for record in records) for key in keys},
        slices_with=dict(zip(keys, slices_with.tolist(), strict=True)),
        empty_slices=empty,
        label_voxels=tuple(labels.tolist()),
    )
