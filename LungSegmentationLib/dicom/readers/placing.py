"""Where one grid lies on another, voxel on voxel: nothing here is resampled."""

from __future__ import annotations

from typing import Final

import numpy as np

from LungSegmentationLib.geometry import Grid

__all__ = ["GRID_TOLERANCE", "common_part", "described", "lies_inside", "offset_of"]

GRID_TOLERANCE: Final = 0.01
"""mm by which corners may differ: NIfTI keeps 32-bit numbers, and a hundredth of a millimeter changes no score."""

Offset = tuple[int, int, int]
Box = tuple[slice, ...]


def offset_of(part: Grid, whole: Grid) -> Offset | None:
    """Return where a grid's first voxel lies on another one (x, y, z), inside or not; None if not voxel on voxel."""
    last = np.array(part.size) - 1
    corners = np.array([[0, 0, 0], [last[0], 0, 0], [0, last[1], 0], [0, 0, last[2]]])
    points = part.to_physical(corners)
    found = np.round(whole.to_index(points))
    if np.abs(whole.to_physical(found) - points).max() > GRID_TOLERANCE:
        return None
    if not np.array_equal(found - found[0], corners):
        return None
    x, y, z = (int(value) for value in found[0])
    return x, y, z


def lies_inside(part: Grid, whole: Grid, offset: Offset) -> bool:
    """Whether a grid lies on another one as a whole."""
    return all(
        start >= 0 and start + size <= limit for start, size, limit in zip(offset, part.size, whole.size, strict=True)
    )


def common_part(part: Grid, whole: Grid, offset: Offset) -> tuple[Box, Box]:
    """Return what both share, in the order of arrays (z, y, x): in the part and in the whole."""
    theirs, ours = [], []
    for start, size, limit in zip(offset, part.size, whole.size, strict=True):
        low = max(start, 0)
        high = max(min(start + size, limit), low)
        theirs.append(slice(low - start, high - start))
        ours.append(slice(low, high))
    return tuple(reversed(theirs)), tuple(reversed(ours))


def described(grid: Grid) -> str:
    """Return size, spacing, origin and axes for a message."""
    size = "×".join(map(str, grid.size))
    spacing = "×".join(f"{step:.4g}" for step in grid.spacing)
    origin = ", ".join(f"{value:.4g}" for value in grid.origin)
    x, y, z = (" ".join(f"{part:.3g}" for part in axis) for axis in grid.axes.T)
    return f"{size} voxels of {spacing} mm from ({origin}), axes ({x}), ({y}), ({z})"
