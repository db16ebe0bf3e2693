"""Masks to outlines: sub-pixel polygons that hold exactly the pixel centers of the mask, with few points.

An outline crosses each grid line between a pixel center inside and its neighbor outside exactly once. Where on that
line it crosses is free: no shift along it moves a pixel center to the other side, and no two outlines can meet. So the
crossings are put where a soft field says, or else so that the outline runs smooth and encloses the area of its pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.writers.keyholes import with_keyholes

__all__ = ["trace", "trace_slices"]

Floats = NDArray[np.float64]
Polygon = NDArray[np.float64]
Mask = NDArray[np.bool_]

CLEARANCE = 0.08
"""Pixels that a crossing keeps from the centers at both ends; an outline then stays CLEARANCE / √2 from each center."""

TOLERANCE = 0.02
"""Pixels that leaving out vertices may move an outline: with all that follows well below its distance to a center."""

LAST_SHIFT = 0.03
"""Pixels that vertices may move to restore the area after others were left out."""

ROUNDS = 6
"""Of smoothing: halves the distance from a smooth boundary; more of it begins to round off small structures."""

NEWTON_STEPS = 4

FEWEST_POINTS = 8
"""Outlines of no more vertices keep all."""


@dataclass
class _Loops:
    """Closed outlines, one behind the other; all arrays have a row for each vertex.

    Attributes
    ----------
    inside
        Pixel centers inside, x and y, from which the grid lines start.
    step
        Unit vector along x or y to the neighboring center outside.
    share
        Where the outline crosses, 0 at the center inside, 1 at the one outside.
    starts, lengths
        First vertex and number of vertices of each outline.
    before, after
        Index of the neighboring vertices.
    """

    inside: Floats
    step: Floats
    share: Floats
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]

    @property
    def points(self) -> Floats:
        return self.inside + self.step * self.share[:, None]


def trace(mask: Mask, field: NDArray[np.floating] | None = None, *, smooth: bool = True) -> list[Polygon]:
    """Return the outlines of a mask on one slice.

    Parameters
    ----------
    mask
        bool, shape (rows, columns).
    field
        Positive inside, negative outside, same shape: for example a probability minus 0.5. The outline follows its
        zero line wherever that agrees with the mask; where the mask was changed afterwards, the mask decides.
        Without it the outline is smoothed.
    smooth
        ``False``: through the middle between pixel centers, without smoothing.

    Returns
    -------
    list of arrays (n, 2)
        Vertices x, y in pixels (pixel row j, column i has its center at (i, j)), the first not repeated. Filled by the
        even-odd rule they hold exactly the mask's pixels, with a distance of 0.005 pixels to spare. Parts that touch at
        corners only are outlines of their own. Holes are joined to the outline around them by a cut of no width.
    """
    return trace_slices([(mask, field)], smooth=smooth)[0]


def trace_slices(
    slices: Iterable[tuple[Mask, NDArray[np.floating] | None]], *, smooth: bool = True
) -> list[list[Polygon]]:
    """Return the outlines of many slices, as :func:`trace` does of one, faster than one by one.

    Parameters
    ----------
    slices
        Mask and field of each; taken one by one, only their outlines are kept.
    smooth
        See :func:`trace`.
    """
    found = [_found(mask, field) for mask, field in slices]
    held = [slice_ for slice_ in found if slice_ is not None]
    if not held:
        return [[] for _ in found]
    free = np.concatenate([np.full(len(slice_.loops.lengths), slice_.free) for slice_ in held])
    loops = _linked(
        np.concatenate([slice_.loops.inside for slice_ in held]),
        np.concatenate([slice_.loops.step for slice_ in held]),
        np.concatenate([slice_.loops.share for slice_ in held]),
        np.concatenate([slice_.loops.lengths for slice_ in held]),
    )
    if smooth:
        area = np.where(free, _pixel_areas(loops), _areas(loops))
        _smooth(loops, np.repeat(free, loops.lengths))
        _restore_area(loops, area, 1.0)
        loops = _thinned(loops)
    else:
        loops = _without_collinear(loops)
    rings = iter(np.split(loops.points, loops.starts[1:]))
    return [[] if slice_ is None else _joined(slice_, rings) for slice_ in found]


@dataclass
class _Found:
    """Outlines of one slice.

    Attributes
    ----------
    corner
        Where the part of the image that was looked at begins, x and y.
    loops
        Each outer outline before its holes.
    holes
        How many of them each part has.
    free
        No field says where the outlines run.
    """

    corner: tuple[int, int]
    loops: _Loops
    holes: list[int]
    free: bool


def _found(mask: Mask, field: NDArray[np.floating] | None) -> _Found | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    framed = np.pad(mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1], 1)
    loops, holes = _middle_lines(framed)
    corner = left - 1, top - 1
    if field is not None:
        _follow(loops, field, corner)
    return _Found(corner, loops, holes, field is None)


def _joined(found: _Found, rings: Iterator[Polygon]) -> list[Polygon]:
    """Take the rings of a slice and join each part's holes to its outer one."""
    polygons = []
    for holes in found.holes:
        outer, *inner = (next(rings) + found.corner for _ in range(1 + holes))
        polygons.append(with_keyholes(outer, inner))
    return polygons


def _middle_lines(framed: Mask) -> tuple[_Loops, list[int]]:
    """Return the outlines midway between pixel centers, each outer one before its holes, and how many those are."""
    generator = contourpy.contour_generator(
        z=np.where(framed, 1.0, -1.0), name="serial", fill_type=contourpy.FillType.OuterOffset
    )
    found: Any = generator.filled(0.0, 2.0)
    parts, offsets = found
    rings = [
        part[begin : end - 1]
        for part, limits in zip(parts, offsets, strict=True)
        for begin, end in zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True)
    ]
    vertices = np.concatenate(rings)
    low, high = np.floor(vertices), np.ceil(vertices)
    column, row = low.astype(np.intp).T
    inside = np.where(framed[row, column][:, None], low, high)
    lengths = np.array([len(ring) for ring in rings])
    return _linked(inside, low + high - 2 * inside, np.full(len(vertices), 0.5), lengths), [
        len(limits) - 2 for limits in offsets
    ]


def _linked(inside: Floats, step: Floats, share: Floats, lengths: NDArray[np.int64]) -> _Loops:
    starts = np.cumsum(lengths) - lengths
    indices = np.arange(len(share))
    before, after = indices - 1, indices + 1
    before[starts] = starts + lengths - 1
    after[starts + lengths - 1] = starts
    return _Loops(inside, step, share, starts, lengths, before, after)


def _follow(loops: _Loops, field: NDArray[np.floating], offset: tuple[int, int]) -> None:
    """Put the crossings where the field is zero, by linear interpolation; in the middle where it does not say."""
    inner = _values(field, loops.inside + offset)
    outer = -_values(field, loops.inside + loops.step + offset)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = inner / (inner + outer)
    # A mask that was changed afterwards: the outline goes as near as it can to where the field has its zero line.
    share = np.where((inner <= 0) & (outer > 0), 0.0, np.where((inner > 0) & (outer <= 0), 1.0, share))
    share = np.where((inner <= 0) & (outer <= 0), 0.5, share)
    loops.share = np.nan_to_num(share, nan=0.5, posinf=0.5, neginf=0.5).clip(CLEARANCE, 1 - CLEARANCE)


def _values(field: NDArray[np.floating], places: Floats) -> Floats:
    """Return the field at pixel centers, NaN beyond its border."""
    column, row = places.astype(np.intp).T
    beyond = (row < 0) | (column < 0) | (row >= field.shape[0]) | (column >= field.shape[1])
    values: Floats = np.asarray(field[np.where(beyond, 0, row), np.where(beyond, 0, column)], np.float64)
    return np.where(beyond, np.nan, values)


def _smooth(loops: _Loops, free: NDArray[np.bool_]) -> None:
    """Move each free crossing along its grid line towards the middle between its neighbors."""
    for _ in range(ROUNDS):
        points = loops.points
        pull = (points[loops.before] + points[loops.after]) / 4 - points / 2
        share = (loops.share + (pull * loops.step).sum(1)).clip(CLEARANCE, 1 - CLEARANCE)
        loops.share = np.where(free, share, loops.share)


def _areas(loops: _Loops) -> Floats:
    """Return the signed area of each outline in pixels."""
    (x, y), (u, v) = loops.points.T, loops.points[loops.after].T
    areas: Floats = np.add.reduceat((x * v - y * u) / 2, loops.starts)
    return areas


def _pixel_areas(loops: _Loops) -> Floats:
    """Return the signed area of the pixels, as squares, within each outline midway between centers.

    Such an outline cuts the corners of the squares: an eighth of a pixel less at each outward corner, more at each
    inward one, of which a closed outline has four fewer.
    """
    areas = _areas(loops)
    return areas + np.sign(areas) / 2


def _restore_area(loops: _Loops, wanted: Floats, most: float) -> None:
    """Shift all crossings of an outline by one distance, outward or inward, so that it encloses the wanted area."""
    reference = loops.share
    owner = np.repeat(np.arange(len(loops.starts)), loops.lengths)
    for _ in range(NEWTON_STEPS):
        along = loops.points[loops.after] - loops.points[loops.before]
        gain = (loops.step[:, 0] * along[:, 1] - loops.step[:, 1] * along[:, 0]) / 2
        shift = (wanted - _areas(loops)) / np.add.reduceat(gain, loops.starts)
        share = np.clip(loops.share + shift[owner], reference - most, reference + most)
        loops.share = share.clip(CLEARANCE, 1 - CLEARANCE)


def _thinned(loops: _Loops) -> _Loops:
    """Leave out vertices without which the outline moves by ``TOLERANCE`` at most, and restore the areas."""
    wanted = _areas(loops)
    error = np.zeros(len(loops.share))
    idle = 0
    parity = 1
    while idle < 2:
        points = loops.points
        place = np.arange(len(points)) - np.repeat(loops.starts, loops.lengths)
        length = np.repeat(loops.lengths, loops.lengths)
        # No two neighbors at once; in an outline of odd length the last and the first are neighbors too.
        candidate = (place % 2 == parity) & (length > FEWEST_POINTS) & ((place < length - 1) | (length % 2 == 0))
        ends = points[loops.before], points[loops.after]
        new_error = np.maximum(error, error[loops.before]) + _distance_to_segments(points, *ends)
        gone = candidate & (new_error <= TOLERANCE)
        error[loops.before[gone]] = new_error[gone]
        idle = 0 if gone.any() else idle + 1
        parity = 1 - parity
        loops, error = _without(loops, gone), error[~gone]
    _restore_area(loops, wanted, LAST_SHIFT)
    return loops


def _without_collinear(loops: _Loops) -> _Loops:
    """Leave out vertices on a straight line midway between centers."""
    points = loops.points
    first, second = points - points[loops.before], points[loops.after] - points
    return _without(loops, first[:, 0] * second[:, 1] == first[:, 1] * second[:, 0])


def _without(loops: _Loops, gone: NDArray[np.bool_]) -> _Loops:
    lengths = loops.lengths - np.add.reduceat(gone.astype(np.int64), loops.starts)
    kept = ~gone
    return _linked(loops.inside[kept], loops.step[kept], loops.share[kept], lengths)


def _distance_to_segments(points: Floats, first: Floats, second: Floats) -> Floats:
    edges, offsets = second - first, points - first
    squares = np.maximum((edges**2).sum(1), np.finfo(float).tiny)
    share = ((offsets * edges).sum(1) / squares).clip(0.0, 1.0)
    distance: Floats = np.hypot(*(offsets - share[:, None] * edges).T)
    return distance
