"""Which voxels two segmentations share: one pass over the volume gives every overlap score and the confusion table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.structures import Labels, Mask

__all__ = ["Layers", "Overlap", "count_pairs"]

_LEVELS = 256


@dataclass(frozen=True)
class Overlap:
    """Voxels of one structure: in the reference, in the prediction, in both."""

    reference: int
    prediction: int
    both: int

    @property
    def dice(self) -> float | None:
        """Twice the shared part over the sum of both (Dice 1945); None if both are empty."""
        return _ratio(2 * self.both, self.reference + self.prediction)

    @property
    def iou(self) -> float | None:
        """Shared part over the union (Jaccard 1901); None if both are empty."""
        return _ratio(self.both, self.reference + self.prediction - self.both)

    @property
    def sensitivity(self) -> float | None:
        """Part of the reference that was found; None if the reference is empty."""
        return _ratio(self.both, self.reference)

    @property
    def precision(self) -> float | None:
        """Part of the prediction that is right; None if the prediction is empty."""
        return _ratio(self.both, self.prediction)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True)
class Layers:
    """The structures of one side of a comparison: one label a voxel, or one bit a structure.

    Attributes
    ----------
    label_set
        Says which label or bit a structure is.
    values
        uint8 (z, y, x).
    exclusive
        Whether ``values`` are labels; otherwise bits, bit ``label - 1``.
    """

    label_set: LabelSet
    values: Labels
    exclusive: bool

    def members(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Return which value belongs to which of the structures, bool (256, n)."""
        labels = np.array([self.label_set[key].label for key in keys], int)
        values = np.arange(_LEVELS)[:, None]
        members: NDArray[np.bool_] = values == labels if self.exclusive else (values >> (labels - 1)) & 1 == 1
        return members

    def mask(self, key: str, box: tuple[slice, ...]) -> Mask:
        """Return the voxels of a structure in a box, bool (z, y, x)."""
        label = self.label_set[key].label
        part = self.values[box]
        mask: Mask = part == label if self.exclusive else (part & np.uint8(1 << (label - 1))) != 0
        return mask


def count_pairs(reference: Labels, prediction: Labels) -> NDArray[np.int64]:
    """Count how often each value of one volume meets each value of the other.

    Parameters
    ----------
    reference, prediction
        uint8 (z, y, x) of one shape.

    Returns
    -------
    array of int64, shape (256, 256)
        Row: value in the reference; column: value in the prediction.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"volumes of shapes {reference.shape} and {prediction.shape} cannot be compared")
    counts = np.zeros(_LEVELS * _LEVELS, np.int64)
    for ours, theirs in zip(reference, prediction, strict=True):
        # Most of a thorax CT is background on both sides: it is counted by what is left.
        where = np.flatnonzero(ours | theirs)
        codes = ours.ravel()[where].astype(np.intp) * _LEVELS + theirs.ravel()[where]
        counts += np.bincount(codes, minlength=counts.size)
        counts[0] += ours.size - where.size
    return counts.reshape(_LEVELS, _LEVELS)
