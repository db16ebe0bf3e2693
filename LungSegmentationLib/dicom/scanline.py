"""Polygons to pixels, exactly: even-odd at pixel centers, all edges of all polygons at once.

Vertices are snapped to 2⁻¹⁶ of a pixel (some 15 nm), from where the arithmetic is in integers. So no rounding decides
about a pixel center that lies on an edge: it belongs to the polygon on the side of greater x (of greater y, where the
edge is horizontal). Polygons that share an edge neither overlap nor leave a gap, and an edge that is walked there and
back cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["REACH", "Patch", "fill"]

SNAP = 1 << 16
REACH = 1 << 14
"""Farthest coordinate in pixels: the product of two edge lengths then fits 63 bits."""

MAX_CROSSINGS = 1 << 21
"""Crossings of edges and pixel rows that are worked on at once: bounds the memory."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of one polygon within its bounding box.

    Attributes
    ----------
    row, column
        Pixel that the first element lies on.
    pixels
        bool, shape (rows, columns); empty where the box meets no pixel center of the grid.
    """

    row: int
    column: int
    pixels: NDArray[np.bool_]

    @property
    def end(self) -> tuple[int, int]:
        """Row and column behind the last."""
        return self.row + self.pixels.shape[0], self.column + self.pixels.shape[1]


def fill(polygons: Sequence[NDArray[np.float64]], rows: int, columns: int) -> list[Patch]:
    """Fill closed polygons by the even-odd rule.

    Parameters
    ----------
    polygons
        Vertices (n, 2), x then y, in pixels: pixel (row j, column i) has its center at (i, j). The last vertex is
        joined to the first. All finite and within ±``REACH``; n ≥ 1.
    rows, columns
        Size of the grid; what lies outside is cut off.

    Returns
    -------
    list of Patch
        One for each polygon.
    """
    if not polygons:
        return []
    counts = np.array([len(polygon) for polygon in polygons])
    starts = np.cumsum(counts) - counts
    vertices = np.rint(np.concatenate(polygons) * SNAP).astype(np.int64)
    x, y = np.ascontiguousarray(vertices.T)

    left, top = (_ceil(np.minimum.reduceat(values, starts)).clip(0) for values in (x, y))
    right, bottom = (
        _ceil(np.maximum.reduceat(values, starts)).clip(0, limit) for values, limit in ((x, columns), (y, rows))
    )
    heights = np.maximum(bottom - top, 0)
    widths = np.where(heights > 0, np.maximum(right - left, 0), 0)
    heights = np.where(widths > 0, heights, 0)
    # One column more than the polygon needs takes the crossings on its right border, so that the parity is even again
    # at the end of each row and all patches can lie one behind the other.
    strides = widths + 1
    sizes = heights * strides
    offsets = np.cumsum(sizes) - sizes

    following = np.arange(1, len(x) + 1)
    following[starts + counts - 1] = starts
    owner = np.repeat(np.arange(len(polygons)), counts)
    upward = y <= y[following]
    x0, y0 = np.where(upward, x, x[following]), np.where(upward, y, y[following])
    x1, y1 = np.where(upward, x[following], x), np.where(upward, y[following], y)
    first = np.maximum(_ceil(y0), top[owner])
    crossings = np.minimum(_ceil(y1), bottom[owner]) - first
    crossings[widths[owner] == 0] = 0
    kept = np.flatnonzero(crossings > 0)

    parity = np.zeros(int(sizes.sum()), np.uint8)
    for part in _parts(crossings[kept]):
        edge = kept[part]
        number = crossings[edge]
        row = np.repeat(first[edge] - (np.cumsum(number) - number), number) + np.arange(int(number.sum()))
        edge = np.repeat(edge, number)
        of = owner[edge]
        rise = -((y0[edge] - row * SNAP) * (x1 - x0)[edge] // (y1 - y0)[edge])
        column = np.clip(_ceil(x0[edge] + rise), left[of], right[of])
        np.bitwise_xor.at(parity, offsets[of] + (row - top[of]) * strides[of] + column - left[of], np.uint8(1))
    filled = np.bitwise_xor.accumulate(parity).view(np.bool_)
    return [
        Patch(row, column, filled[offset : offset + height * (width + 1)].reshape(height, width + 1)[:, :width])
        for row, column, offset, height, width in zip(
            top.tolist(), left.tolist(), offsets.tolist(), heights.tolist(), widths.tolist(), strict=True
        )
    ]


def _ceil(values: Integers) -> Integers:
    """Return the first pixel at or behind a snapped coordinate."""
    return -(-values // SNAP)


def _parts(numbers: Integers) -> list[slice]:
    """Cut a list of numbers into pieces that add up to about ``MAX_CROSSINGS``."""
    group = np.cumsum(numbers) // MAX_CROSSINGS
    borders = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(numbers)]
    return [slice(begin, end) for begin, end in pairwise(borders) if end > begin]
