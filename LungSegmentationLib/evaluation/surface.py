"""How far two surfaces are apart: Hausdorff percentile, mean distance, surface Dice, in mm with the real spacing.

Definitions as in Nikolov et al., Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy, J. Med.
Internet Res. 23, 2021: a surface is a set of elements, one for each cell of eight voxel centers that it cuts; an
element lies in the middle of its cell and counts with the area of the surface in it. Distances between oblique surfaces
come out up to about a voxel short by that; it is kept, so that numbers can be compared with published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from LungSegmentationLib.evaluation.surface_elements import surface_areas
from LungSegmentationLib.structures import Mask

__all__ = ["SurfaceDistances", "surface_distances"]

_ROUNDING = 1e-6
"""mm: three steps of 0.7 mm are within 2.1 mm, whatever the last bit of the product says."""

_CROWDED = 10
"""Where more than one in so many cells asks for its distance, a map of all is faster than a search for each."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances of the elements of each surface to the other one.

    Attributes
    ----------
    from_reference, from_prediction
        Distance in mm of each element to the nearest element of the other surface, sorted.
    reference_areas, prediction_areas
        Area in mm² of the same elements.
    """

    from_reference: Values
    reference_areas: Values
    from_prediction: Values
    prediction_areas: Values

    def hausdorff(self, percent: float = 95.0) -> float:
        """Return the larger of both directions' distances within which ``percent`` of the area lies, mm."""
        return max(
            _percentile(self.from_reference, self.reference_areas, percent),
            _percentile(self.from_prediction, self.prediction_areas, percent),
        )

    @property
    def mean(self) -> float:
        """Mean distance in mm over the area of both surfaces together."""
        total = self.reference_areas.sum() + self.prediction_areas.sum()
        weighted = self.from_reference @ self.reference_areas + self.from_prediction @ self.prediction_areas
        return float(weighted / total)

    def surface_dice(self, tolerance: float) -> float:
        """Return the part of the area of both surfaces that lies within ``tolerance`` mm of the other one, 0 to 1."""
        within = (
            self.reference_areas[self.from_reference <= tolerance + _ROUNDING].sum()
            + self.prediction_areas[self.from_prediction <= tolerance + _ROUNDING].sum()
        )
        return float(within / (self.reference_areas.sum() + self.prediction_areas.sum()))


def surface_distances(reference: Mask, prediction: Mask, spacing: tuple[float, float, float]) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    A structure that reaches the edge of the array has a surface there.

    Parameters
    ----------
    reference, prediction
        bool (z, y, x), of one shape, neither empty. What lies outside a common bounding box may be cut off.
    spacing
        Distance of voxel centers in mm along x, y, z.

    Raises
    ------
    ValueError
        If the shapes differ or a mask is empty: there is no surface to measure to.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"masks of shapes {reference.shape} and {prediction.shape} cannot be compared")
    shape = tuple(n + 1 for n in reference.shape)
    (cells_r, patterns_r), (cells_p, patterns_p) = _surface_cells(reference), _surface_cells(prediction)
    if not len(cells_r) or not len(cells_p):
        raise ValueError("an empty mask has no surface")
    areas = surface_areas(spacing)
    step = np.array(spacing[::-1])
    from_reference = _distances(cells_r, cells_p, shape, step)
    from_prediction = _distances(cells_p, cells_r, shape, step)
    return SurfaceDistances(*_sorted(from_reference, areas[patterns_r]), *_sorted(from_prediction, areas[patterns_p]))


def _surface_cells(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return flat indices and patterns of the cells that the surface cuts; cell 0 lies before the first voxel."""
    _, rows, columns = mask.shape
    padded = np.zeros((rows + 2, columns + 2), np.uint8)
    below = np.zeros((rows + 1, columns + 1), np.uint8)
    cells, patterns = [], []
    for z in range(mask.shape[0] + 1):
        # Slice by slice, so that the patterns stay in the processor's cache.
        padded[1:-1, 1:-1] = mask[z] if z < mask.shape[0] else 0
        above = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
        pattern = below | above << 4
        found = np.flatnonzero((pattern != 0) & (pattern != 255))
        cells.append(found + z * pattern.size)
        patterns.append(pattern.ravel()[found])
        below = above
    return np.concatenate(cells), np.concatenate(patterns)


def _distances(cells: NDArray[np.int64], others: NDArray[np.int64], shape: tuple[int, ...], step: Values) -> Values:
    """Return the distance in mm of each cell to the nearest of the others."""
    taken = np.zeros(int(np.prod(shape)), bool)
    taken[others] = True
    apart = ~taken[cells]
    distances = np.zeros(len(cells))
    asked = cells[apart]
    if len(asked) * _CROWDED > taken.size:
        distances[apart] = _by_transform(asked, taken.reshape(shape), step)
    elif len(asked):
        tree = cKDTree(_points(others, shape, step), balanced_tree=False, compact_nodes=False)
        distances[apart] = tree.query(_points(asked, shape, step))[0]
    return distances


def _by_transform(cells: NDArray[np.int64], taken: Mask, step: Values) -> Values:
    """Look up the nearest taken cell in a map of all; 12 bytes a cell."""
    nearest = ndimage.distance_transform_edt(~taken, step, return_distances=False, return_indices=True)
    squares = np.zeros(len(cells))
    places = np.unravel_index(cells, taken.shape)
    for there, here, width in zip(nearest, places, step, strict=True):
        squares += ((there.ravel()[cells] - here) * width) ** 2
    return np.sqrt(squares)


def _points(cells: NDArray[np.int64], shape: tuple[int, ...], step: Values) -> Values:
    points: Values = np.column_stack(np.unravel_index(cells, shape)) * step
    return points


def _sorted(distances: Values, areas: Values) -> tuple[Values, Values]:
    order = np.argsort(distances)
    return distances[order], areas[order]


def _percentile(distances: Values, areas: Values, percent: float) -> float:
    covered = np.cumsum(areas)
    index = int(np.searchsorted(covered, covered[-1] * percent / 100.0))
    return float(distances[min(index, len(distances) - 1)])
