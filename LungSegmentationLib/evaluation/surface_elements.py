"""How much surface a cell of eight neighboring voxel centers holds, worked out once for each of its 256 patterns.

The surface of a binary volume is the one that marching cubes draws at half height (Lorensen and Cline, Computer
Graphics 21, 1987): its corners are the midpoints between a voxel inside and a neighbor outside.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORNERS", "surface_areas"]

CORNERS = tuple(product((0, 1), repeat=3))
"""Offsets (z, y, x) of a cell's corners; corner i is bit i of the cell's pattern."""

Point = tuple[float, float, float]


@lru_cache(maxsize=16)
def surface_areas(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area in mm² of the surface in a cell, for each pattern of corners inside.

    Parameters
    ----------
    spacing
        Distance of voxel centers in mm along x, y, z.

    Returns
    -------
    array of float64, shape (256,)
        0 for the patterns 0 (all corners outside) and 255 (all inside).
    """
    x, y, z = spacing
    # An area vector's component along an axis scales with the two other axes.
    scale = np.array([x * y, x * z, y * z])
    areas = np.array([np.linalg.norm(vectors * scale, axis=1).sum() for vectors in _area_vectors()])
    areas.flags.writeable = False
    return areas


@lru_cache(maxsize=1)
def _area_vectors() -> tuple[NDArray[np.float64], ...]:
    """Return, for each pattern, the area vectors (z, y, x) of its triangles in a cell of edge 1, shape (n, 3)."""
    return tuple(
        np.array([v for loop in _loops(pattern) for v in _triangles(loop)], float).reshape(-1, 3)
        for pattern in range(256)
    )


def _loops(pattern: int) -> list[list[Point]]:
    """Return the closed polygons in which the surface meets the cell: midpoints of cut edges, linked along faces."""
    if pattern.bit_count() > 4:
        pattern = 255 - pattern
    inside = {corner: bool(pattern >> i & 1) for i, corner in enumerate(CORNERS)}
    links: dict[Point, list[Point]] = {}
    for axis, side in product(range(3), (0, 1)):
        others = [a for a in range(3) if a != axis]
        ring = []
        for u, v in ((0, 0), (0, 1), (1, 1), (1, 0)):
            corner = [0, 0, 0]
            corner[axis], corner[others[0]], corner[others[1]] = side, u, v
            ring.append((corner[0], corner[1], corner[2]))
        edges = [(ring[i], ring[(i + 1) % 4]) for i in range(4)]
        cuts = [_middle(a, b) if inside[a] != inside[b] else None for a, b in edges]
        found = [cut for cut in cuts if cut is not None]
        if len(found) == 4:
            # Of the fewer ones, inside or outside, two that touch along an edge only are taken as apart.
            first = 0 if inside[ring[0]] else 1
            pairs = [((first - 1) % 4, first), ((first + 1) % 4, first + 2)]
            segments = [(edges[a], edges[b % 4]) for a, b in pairs]
            joined = [(_middle(*a), _middle(*b)) for a, b in segments]
        else:
            joined = [(found[0], found[1])] if found else []
        for a, b in joined:
            links.setdefault(a, []).append(b)
            links.setdefault(b, []).append(a)
    return _closed(links)


def _closed(links: dict[Point, list[Point]]) -> list[list[Point]]:
    loops = []
    left = set(links)
    while left:
        start = min(left)
        loop, before, here = [start], None, start
        while True:
            ahead = next(p for p in links[here] if p != before)
            if ahead == start:
                break
            loop.append(ahead)
            before, here = here, ahead
        loops.append(loop)
        left -= set(loop)
    return loops


def _middle(a: tuple[int, int, int], b: tuple[int, int, int]) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2


def _triangles(loop: list[Point]) -> list[NDArray[np.float64]]:
    """Return the area vectors of the triangles of a polygon; of all ways to cut it the one with the fewest planes.

    Corners of a cell's polygon need not lie in one plane, and the area depends on the cut. Fewest planes means that
    what is flat stays flat, whatever the spacing.
    """
    points = np.array(loop)
    ways = [
        [np.cross(points[k] - points[i], points[j] - points[i]) / 2 for i, k, j in way]
        for way in _cuts(0, len(loop) - 1)
    ]
    return min(ways, key=lambda vectors: (_planes(vectors), round(float(np.linalg.norm(vectors, axis=1).sum()), 9)))


def _cuts(i: int, j: int) -> list[list[tuple[int, int, int]]]:
    if j - i < 2:
        return [[]]
    return [[*left, (i, k, j), *right] for k in range(i + 1, j) for left in _cuts(i, k) for right in _cuts(k, j)]


def _planes(vectors: list[NDArray[np.float64]]) -> int:
    normals = [vector / np.linalg.norm(vector) for vector in vectors if np.linalg.norm(vector) > 0]
    return len({tuple(np.round(normal, 6).tolist()) for normal in normals})
