"""Holes joined to the outline around them: one polygon that every reader fills alike (DICOM PS3.3 C.8.8.6.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["with_keyholes"]

Polygon = NDArray[np.float64]


def with_keyholes(outer: Polygon, holes: Sequence[Polygon]) -> Polygon:
    """Join holes to an outline by cuts of no width, each walked there and back.

    A cut runs from the leftmost vertex of a hole straight to the left until it meets the outline. Holes are taken from
    left to right, so what a cut meets is already part of the outline, and no cut crosses anything.

    Parameters
    ----------
    outer
        Vertices (n, 2), x and y; the first not repeated.
    holes
        The same, walked the other way round; inside ``outer``, apart from each other, none inside another.

    Returns
    -------
    array (m, 2)
    """
    joined = outer
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        leftmost = int(np.argmin(hole[:, 0]))
        ring = np.concatenate([hole[leftmost:], hole[: leftmost + 1]])
        place, meeting = _first_to_the_left(joined, hole[leftmost])
        joined = np.concatenate([joined[: place + 1], meeting, ring, meeting, joined[place + 1 :]])
    return joined[(joined != np.roll(joined, 1, axis=0)).any(1)] if len(holes) else joined


def _first_to_the_left(polygon: Polygon, point: Polygon) -> tuple[int, Polygon]:
    """Return the edge that a line from the point to the left meets first, and where, as an array (1, 2)."""
    (x, y), (u, v) = polygon.T, np.roll(polygon, -1, axis=0).T
    spanning = np.flatnonzero((y > point[1]) != (v > point[1]))
    at = x[spanning] + (point[1] - y[spanning]) / (v[spanning] - y[spanning]) * (u[spanning] - x[spanning])
    at = np.where(at <= point[0], at, -np.inf)
    nearest = int(np.argmax(at))
    return int(spanning[nearest]), np.array([[at[nearest], point[1]]])
