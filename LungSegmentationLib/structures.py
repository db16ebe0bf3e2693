"""Which structures each voxel belongs to, without loss; label maps are derived from that by the paint order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import LabelSet

__all__ = ["Labels", "Mask", "StructureMap", "label_table"]

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]

MAX_BITS = 8


def label_table(label_set: LabelSet, structures: Iterable[str] | None = None) -> Labels:
    """Return the look-up table from structure bits to labels: ``label_map = table[bits]``.

    Parameters
    ----------
    label_set
        Gives the labels and the paint order.
    structures
        Keys that take part; what is left out gives its voxels back to what lies under it. Default: all.

    Returns
    -------
    array of uint8, shape (256,)
        Entry b is the label of the last structure in the paint order among those whose bit is set in b.
    """
    _check_bits(label_set)
    chosen = set(label_set.keys) if structures is None else {label_set[key].key for key in structures}
    bits = np.arange(256)
    table = np.zeros(256, np.uint8)
    for key in label_set.paint_order:
        if key in chosen:
            label = label_set[key].label
            table[(bits >> (label - 1)) & 1 == 1] = label
    return table


@dataclass(frozen=True)
class StructureMap:
    """Every structure of a case as drawn, overlaps kept.

    Attributes
    ----------
    label_set
        Says which structure a bit is: bit ``label - 1``.
    bits
        uint8, shape (z, y, x).
    """

    label_set: LabelSet
    bits: NDArray[np.uint8]

    def __post_init__(self) -> None:
        _check_bits(self.label_set)
        if self.bits.dtype != np.uint8:
            raise TypeError(f"structure bits are uint8, not {self.bits.dtype}")

    @classmethod
    def from_masks(cls, label_set: LabelSet, masks: Mapping[str, Mask], shape: tuple[int, int, int]) -> StructureMap:
        """Join boolean masks of shape (z, y, x), one a structure key, into one map."""
        _check_bits(label_set)
        bits = np.zeros(shape, np.uint8)
        for key, mask in masks.items():
            if mask.shape != shape:
                raise ValueError(f"the mask of {key} has the shape {mask.shape}, not {shape}")
            np.bitwise_or(bits, np.uint8(1 << (label_set[key].label - 1)), out=bits, where=mask)
        return cls(label_set, bits)

    @classmethod
    def from_label_map(cls, label_set: LabelSet, labels: NDArray[np.integer]) -> StructureMap:
        """Read an exclusive label map of shape (z, y, x); a value outside the label set is refused."""
        _check_bits(label_set)
        lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
        if lowest < 0 or highest > len(label_set):
            foreign = lowest if lowest < 0 else highest
            raise BadInputError(
                f"The label map holds the value {foreign}; the label set {label_set.name} has 0 to {len(label_set)}."
            )
        table = np.zeros(len(label_set) + 1, np.uint8)
        table[1:] = 1 << np.arange(len(label_set))
        return cls(label_set, table[labels])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        z, y, x = self.bits.shape
        return z, y, x

    def mask(self, key: str) -> Mask:
        """Return the voxels of one structure as drawn, bool (z, y, x)."""
        return np.asarray(self.bits & np.uint8(1 << (self.label_set[key].label - 1)), bool)

    def label_map(self, structures: Iterable[str] | None = None) -> Labels:
        """Return one label a voxel, uint8 (z, y, x), painted in the label set's order."""
        table = label_table(self.label_set, structures)
        labels: Labels = np.zeros(self.bits.shape, np.uint8)
        rows, columns = _occupied(self.bits)
        # Slice by slice: what is in the processor's cache is looked up several times faster than a volume at once.
        for image, painted in zip(self.bits[:, rows, columns], labels[:, rows, columns], strict=True):
            painted[...] = table.take(image)
        return labels

    def box(self, key: str) -> tuple[slice, slice, slice] | None:
        """Return the smallest box (z, y, x) that holds a structure as drawn; None if it is absent."""
        bit = np.uint8(1 << (self.label_set[key].label - 1))
        rows, columns = _occupied(self.bits)
        drawn = self.bits[:, rows, columns]
        in_plane = np.bitwise_or.reduce(drawn, axis=0) & bit
        if not in_plane.any():
            return None
        z = _span(np.array([np.bitwise_or.reduce(image, axis=None) for image in drawn]) & bit)
        y, x = _span(in_plane.any(1)), _span(in_plane.any(0))
        return z, _moved(y, rows.start), _moved(x, columns.start)

    def voxel_counts(self) -> dict[str, int]:
        """Return the number of voxels of each structure as drawn; an absent structure has 0."""
        masks = 1 << np.arange(len(self.label_set), dtype=np.uint8)
        counts = np.zeros(len(self.label_set), np.int64)
        # Slice by slice: what is in the processor's cache is counted ten times faster than a volume at once.
        for image in self.bits[(slice(None), *_occupied(self.bits))]:
            if image.any():
                counts += [np.count_nonzero(image & mask) for mask in masks]
        return dict(zip(self.label_set.keys, counts.tolist(), strict=True))


def _occupied(bits: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return the rows and columns that hold all structures, most often a small part of a slice."""
    in_plane = np.bitwise_or.reduce(bits, axis=0)
    return _span(in_plane.any(1)), _span(in_plane.any(0))


def _span(values: NDArray[Any]) -> slice:
    """Return from the first to the last that is not zero; empty if all are."""
    places = np.flatnonzero(values)
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)


def _moved(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)


def _check_bits(label_set: LabelSet) -> None:
    if len(label_set) > MAX_BITS:
        raise BadInputError(
            f"The label set {label_set.name} has {len(label_set)} structures; a bit field of one byte holds {MAX_BITS}."
        )
