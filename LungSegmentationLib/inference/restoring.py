"""From probabilities on the network's slices to decisions on the image's own pixels, slice by slice.

Probabilities are interpolated first and compared after that, so that outlines are as smooth as the image allows. Only
the part of a slice in which a structure can win is interpolated; nothing of the image's size is held but the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.cohort.axis_mapping import AxisMapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from LungSegmentationLib.cohort.resampling import InPlaneMapping

__all__ = ["KeptProbabilities", "Restored", "Restorer"]

_ROUNDING: Final = 1e-4  # what sums of float32 probabilities may miss
_UNSEEN: Final = 0.004  # below half a percent nothing changes in the confidence map

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class KeptProbabilities:
    """Probabilities of the structures on the network's slices, in steps of 1/255.

    Attributes
    ----------
    mapping
        From them to the image.
    values
        uint8, (structures, slices, S, S). Slices on which a structure is absent take no memory on most systems; a
        structure on all 134 slices of 256² takes 8.8 MB.
    exclusive
        Whether structures and background add up to 1.
    """

    mapping: InPlaneMapping
    values: NDArray[np.uint8]
    exclusive: bool

    def field(self, structure: int, z: int) -> Floats | None:
        """Return how far a structure's probability is above what it has to beat, on a slice of the native array.

        Parameters
        ----------
        structure
            Its index.
        z
            Index of the slice along the native array's first axis.

        Returns
        -------
        float32 array (rows, columns)
            Exclusive: its probability minus the largest other one; else minus 0.5. Positive inside, −1 far away.
            ``None`` where the native slices are not axial, so that no plane of the network is one of them.
        """
        turn = self.mapping.reorientation
        if turn.axes[2] != 2:
            return None
        place = self.mapping.slices - 1 - z if turn.flips[2] else z
        plane = np.full(self.mapping.axial.shape[1:], -1.0, np.float32)
        block = _block(self.mapping, self.values[structure, place] > 0)
        if block is not None:
            planes = self.values[:, place, block.cached_rows, block.cached_columns]
            present = [index for index in range(len(planes)) if planes[index].any()]
            found = {index: block.interpolate(planes[index]) * np.float32(1 / 255) for index in present}
            if self.exclusive:
                # What is missing from 1 is background.
                rivals = [other for index, other in found.items() if index != structure]
                background = 1 - np.sum(list(found.values()), axis=0)
                plane[block.rows, block.columns] = found[structure] - np.max([background, *rivals], axis=0)
            else:
                plane[block.rows, block.columns] = found[structure] - np.float32(0.5)
        result: Floats = turn.undo(plane[None])[0]
        return result


@dataclass(frozen=True)
class Restored:
    """What became of all slices.

    Attributes
    ----------
    bits
        uint8, (z, y, x) of the native grid: bit ``label − 1`` of each structure.
    confidence
        uint8, of the same shape, percent; ``None`` if it was not asked for.
    means
        Mean probability of each structure over the voxels that it got; ``None`` if it got none.
    probabilities
        Kept for contours; ``None`` if not asked for.
    """

    bits: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    means: tuple[float | None, ...]
    probabilities: KeptProbabilities | None


class Restorer:
    """Takes the probabilities of the slices in their order, from feet to head.

    Parameters
    ----------
    mapping
        From the image to the network's slices.
    labels
        Label of each channel; 0 is background.
    exclusive
        Whether a voxel gets one label, the most probable, or each structure above one half.
    smoothing
        Standard deviation in mm of a Gaussian over each slice and its two neighbors; 0 for none.
    confidence, keep
        Whether to make the confidence map, and to keep the probabilities.
    """

    def __init__(
        self,
        mapping: InPlaneMapping,
        labels: Sequence[int],
        *,
        exclusive: bool,
        smoothing: float = 0.0,
        confidence: bool = True,
        keep: bool = True,
    ) -> None:
        self._mapping = mapping
        self._exclusive = exclusive
        self._first = 1 if exclusive else 0
        self._table = np.array([1 << (label - 1) if label else 0 for label in labels], np.uint8)
        self._bits = np.zeros(mapping.native.shape, np.uint8)
        # Views in the order of the slices: what is written there lies at once where it belongs.
        self._axial_bits = mapping.reorientation.apply(self._bits)
        self._confidence = np.zeros(mapping.native.shape, np.uint8) if confidence else None
        self._axial_confidence = None if self._confidence is None else mapping.reorientation.apply(self._confidence)
        structures = len(labels) - self._first
        size = mapping.y.cached, mapping.x.cached
        self._kept = np.zeros((structures, mapping.slices, *size), np.uint8) if keep else None
        self._sums = np.zeros(structures)
        self._counts = np.zeros(structures, np.int64)
        self._covered = mapping.y.covered[:, None] & mapping.x.covered
        self._whole = bool(self._covered.all())
        self._weight = _neighbor_weight(smoothing, mapping.axial.spacing[2])
        self._waiting: list[Floats] = []
        self._done = 0

    def add(self, probabilities: Floats) -> None:
        """Take the next slices, float32 (B, classes, S, S)."""
        for planes in probabilities:
            if not self._weight:
                self._restore(planes)
                continue
            self._waiting.append(planes)
            if len(self._waiting) >= 2:
                self._restore(self._smoothed(len(self._waiting) - 2))
                self._waiting = self._waiting[-2:]

    def finish(self) -> Restored:
        """Return the result, after the last slice.

        Raises
        ------
        ValueError
            If slices are missing.
        """
        if self._waiting:
            self._restore(self._smoothed(len(self._waiting) - 1))
        if self._done != self._mapping.slices:
            raise ValueError(f"{self._done} slices of {self._mapping.slices} were restored")
        means = tuple(
            float(total / count) if count else None for total, count in zip(self._sums, self._counts, strict=True)
        )
        kept = None if self._kept is None else KeptProbabilities(self._mapping, self._kept, self._exclusive)
        return Restored(self._bits, self._confidence, means, kept)

    def _smoothed(self, place: int) -> Floats:
        """Return the weighted mean of a waiting slice and its neighbors, as far as there are any."""
        total, weights = self._waiting[place].copy(), 1.0
        for other in (place - 1, place + 1):
            if 0 <= other < len(self._waiting):
                total += np.float32(self._weight) * self._waiting[other]
                weights += self._weight
        total /= np.float32(weights)
        return total

    def _restore(self, planes: Floats) -> None:
        if self._kept is not None:
            for index, plane in enumerate(planes[self._first :]):
                extent = _extent(plane >= 0.5 / 255)
                if extent is not None:
                    self._kept[(index, self._done, *extent)] = np.rint(plane[extent] * np.float32(255))
        if self._exclusive:
            self._restore_exclusive(planes)
        else:
            self._restore_overlapping(planes)
        self._done += 1

    def _restore_exclusive(self, planes: Floats) -> None:
        # Where all shares add up to 1, none below 1 / classes can be the largest.
        least = np.float32(1 / len(planes) - _ROUNDING)
        blocks = [_block(self._mapping, plane >= least) for plane in planes[1:]]
        if self._axial_confidence is None and not any(blocks):
            return
        whole = _whole_block(self._mapping)
        best = whole.interpolate(planes[0])
        labels = np.zeros(best.shape, np.uint8)
        for channel, (plane, block) in enumerate(zip(planes[1:], blocks, strict=True), start=1):
            if block is None:
                continue
            here = block.interpolate(plane[block.cached_rows, block.cached_columns])
            leading = best[block.rows, block.columns]
            wins = here > leading
            np.copyto(leading, here, where=wins)
            labels[block.rows, block.columns][wins] = channel
        for index, block in enumerate(blocks):
            if block is not None:
                held = labels[block.rows, block.columns] == index + 1
                self._count(index, best[block.rows, block.columns], held)
        self._axial_bits[self._done] = self._table.take(labels)
        if self._axial_confidence is not None:
            self._axial_confidence[self._done] = _percent(best)

    def _restore_overlapping(self, planes: Floats) -> None:
        bits = self._axial_bits[self._done]
        certainty = None
        if self._axial_confidence is not None:
            certainty = np.ones(bits.shape, np.float32)
        least = np.float32(_UNSEEN if certainty is not None else 0.5 - _ROUNDING)
        for index, plane in enumerate(planes):
            block = _block(self._mapping, plane >= least)
            if block is None:
                continue
            here = block.interpolate(plane[block.cached_rows, block.cached_columns])
            held = here > np.float32(0.5)
            bits[block.rows, block.columns] |= held * self._table[index]
            self._count(index, here, held)
            if certainty is not None:
                part = certainty[block.rows, block.columns]
                np.minimum(part, np.maximum(here, 1 - here), out=part)
        if self._axial_confidence is not None and certainty is not None:
            percent = _percent(certainty)
            self._axial_confidence[self._done] = percent if self._whole else np.where(self._covered, percent, 0)

    def _count(self, index: int, probabilities: Floats, held: NDArray[np.bool_]) -> None:
        self._counts[index] += np.count_nonzero(held)
        self._sums[index] += float(probabilities[held].sum(dtype=np.float64))


@dataclass(frozen=True)
class _Block:
    """A part of the image's slice, the cached pixels that it depends on, and the weights between them."""

    rows: slice
    columns: slice
    cached_rows: slice
    cached_columns: slice
    along_y: Any
    along_x: Any

    def interpolate(self, plane: NDArray[Any]) -> Floats:
        """Return the cached pixels ``plane`` of this block on the image's pixels, float32 (rows, columns)."""
        columns_first = np.ascontiguousarray((self.along_y @ plane.astype(np.float32, copy=False)).T)
        result: Floats = np.ascontiguousarray((self.along_x @ columns_first).T)
        return result


def _whole_block(mapping: InPlaneMapping) -> _Block:
    y, x = mapping.y, mapping.x
    return _Block(
        slice(0, y.native), slice(0, x.native), slice(0, y.cached), slice(0, x.cached), y.linear_back, x.linear_back
    )


def _block(mapping: InPlaneMapping, flags: NDArray[np.bool_]) -> _Block | None:
    """Return the smallest block that holds every image pixel to which a flagged cached pixel gives a share."""
    extent = _extent(flags)
    if extent is None:
        return None
    rows, cached_rows = _reach(mapping.y, extent[0])
    columns, cached_columns = _reach(mapping.x, extent[1])
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return None
    return _Block(
        rows,
        columns,
        cached_rows,
        cached_columns,
        mapping.y.linear_back[rows, cached_rows],
        mapping.x.linear_back[columns, cached_columns],
    )


def _reach(axis: AxisMapping, cached: slice) -> tuple[slice, slice]:
    """Return the image pixels that depend on some cached ones, and all cached ones that these depend on."""
    places = axis.to_cached(np.arange(axis.native)).clip(0, axis.cached - 1)
    start = int(np.searchsorted(places, cached.start - 1, "left"))
    stop = int(np.searchsorted(places, cached.stop, "right"))
    return slice(start, stop), slice(max(0, cached.start - 2), min(axis.cached, cached.stop + 2))


def _extent(flags: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Return the rows and columns from the first to the last flag; ``None`` if there is none."""
    rows = np.flatnonzero(flags.any(1))
    if not rows.size:
        return None
    columns = np.flatnonzero(flags[rows[0] : rows[-1] + 1].any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _percent(probabilities: Floats) -> NDArray[np.uint8]:
    percent: NDArray[np.uint8] = np.rint(probabilities * np.float32(100)).astype(np.uint8)
    return percent


def _neighbor_weight(smoothing: float, distance: float) -> float:
    """Return the weight of a neighboring slice where the slice itself has 1."""
    return math.exp(-0.5 * (distance / smoothing) ** 2) if smoothing > 0 else 0.0
