"""What several contours on one slice mean together: the same area once, holes, islands in holes, unions.

DICOM (PS3.3 C.8.8.6.3) knows holes as keyholes and as ``CLOSEDPLANAR_XOR``; in practice they also come as a contour
inside a contour, and the same contour comes several times. Plain XOR would erase what was drawn twice, plain union
would fill the holes, so the relation of each two contours is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.scanline import Patch
from LungSegmentationLib.errors import GeometryError

__all__ = ["Combined", "Outline", "combine", "exclusive", "likeness", "union"]

TOLERANCE = 0.25
"""Distance in mm up to which two outlines are the same line: above what planning systems add by rounding to 0.1 mm,
below the thinnest wall that anyone draws."""

TOLERANCE_PIXELS = 0.5
"""The same in pixels, for grids finer than that."""

MAX_PAIRS = 20_000
"""Pairs of neighboring areas on one slice, and below those whose pixels leave doubt: far more than segmentation by
threshold leaves. Beyond that a slice would take minutes."""

MAX_DOUBTS = 500

SAMPLES = 128
FEW_PIXELS = 64

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed contour on a slice: its vertices (n, 2) in mm within the slice plane, and its pixels."""

    points: Floats
    patch: Patch


@dataclass(frozen=True, eq=False)
class Combined:
    """Pixels of all contours of a slice together, and how many were duplicates, holes, and overlapped in part."""

    patch: Patch
    duplicates: int = 0
    holes: int = 0
    overlaps: int = 0


class _Relation(Enum):
    APART = auto()
    SAME = auto()
    FIRST_INSIDE = auto()
    SECOND_INSIDE = auto()
    OVERLAPPING = auto()


@dataclass(eq=False)
class _Area:
    """Contours that cover the same area, the areas around it, and those directly inside."""

    outline: Outline
    patch: Patch
    containers: list[_Area] = field(default_factory=list)
    contents: list[_Area] = field(default_factory=list)
    depth: int = 0


def combine(outlines: Sequence[Outline], pixel: float) -> Combined:
    """Join the closed contours of a slice.

    Contours whose outlines run within a quarter of a millimeter of each other for the most part cover the same area
    and count once. A contour inside another is a hole, one inside the hole is an island, and so on. Contours that
    overlap in part or touch are united. A hole is cut out of the areas that contain it and of no others.

    Parameters
    ----------
    outlines
        At least one.
    pixel
        Size of a pixel in mm, the smaller one.

    Raises
    ------
    GeometryError
        If far too many areas overlap for anything that can be meant.
    """
    if len(outlines) == 1:
        return Combined(outlines[0].patch)
    tolerance = min(TOLERANCE, TOLERANCE_PIXELS * pixel)
    areas: dict[int, _Area] = {}
    overlaps = pairs = doubts = 0
    for place, neighbors in enumerate(_neighbors(outlines)):
        outline = outlines[place]
        new = _Area(outline, outline.patch)
        inside_new: list[_Area] = []
        partly = 0
        for area in (areas[neighbor] for neighbor in neighbors if neighbor in areas):
            pairs += 1
            relation = _relation_of_pixels(area.outline, outline)
            if relation is None:
                doubts += 1
                relation = _relation_of_outlines(area.outline, outline, tolerance)
            if relation is _Relation.SAME:
                area.patch = union([area.patch, outline.patch])
                break
            if relation is _Relation.FIRST_INSIDE:
                inside_new.append(area)
            elif relation is _Relation.SECOND_INSIDE:
                new.containers.append(area)
            partly += relation is _Relation.OVERLAPPING
        else:
            if pairs > MAX_PAIRS or doubts > MAX_DOUBTS:
                raise GeometryError(f"A slice has {len(outlines)} contours of one ROI on top of each other.")
            for area in inside_new:
                area.containers.append(new)
            areas[place] = new
            overlaps += partly
    # An area is inside areas with more pixels only, so in this order containers come first.
    for area in sorted(areas.values(), key=lambda one: -np.count_nonzero(one.outline.patch.pixels)):
        area.depth = 1 + max((container.depth for container in area.containers), default=-1)
        for container in area.containers:
            if container.depth == area.depth - 1:
                container.contents.append(area)
    filled = [_without_contents(area) for area in areas.values() if area.depth % 2 == 0]
    holes = len(areas) - len(filled)
    return Combined(union(filled), len(outlines) - len(areas), holes, overlaps)


def _neighbors(outlines: Sequence[Outline]) -> Iterator[list[int]]:
    """Yield for each outline the earlier ones whose bounding boxes share pixels with its own."""
    low = np.array([(outline.patch.row, outline.patch.column) for outline in outlines])
    high = np.array([outline.patch.end for outline in outlines])
    for place in range(len(outlines)):
        meets = (low[:place] < high[place]) & (high[:place] > low[place])
        yield np.flatnonzero(meets.all(1)).tolist()


def exclusive(patches: Sequence[Patch]) -> Patch:
    """Join patches by exclusive or, which is what ``CLOSEDPLANAR_XOR`` means."""
    canvas = _canvas(patches)
    for patch in patches:
        canvas.pixels[_window(canvas, patch)] ^= patch.pixels
    return canvas


def union(patches: Sequence[Patch]) -> Patch:
    """Join patches; one alone is returned as it is."""
    if len(patches) == 1:
        return patches[0]
    canvas = _canvas(patches)
    for patch in patches:
        canvas.pixels[_window(canvas, patch)] |= patch.pixels
    return canvas


def likeness(first: Patch, second: Patch) -> float:
    """Return the part of their union that two patches share, as if they lay on one slice."""
    shared, only_first, only_second = _overlap(first, second)
    return shared / max(shared + only_first + only_second, 1)


def _without_contents(area: _Area) -> Patch:
    if not area.contents:
        return area.patch
    pixels = area.patch.pixels.copy()
    for hole in area.contents:
        mine, its = _common(area.patch, hole.patch)
        pixels[mine] &= ~hole.patch.pixels[its]
    return Patch(area.patch.row, area.patch.column, pixels)


def _relation_of_pixels(first: Outline, second: Outline) -> _Relation | None:
    """Tell how two contours lie to each other, if their pixels leave no doubt."""
    shared, only_first, only_second = _overlap(first.patch, second.patch)
    if shared == 0:
        return _Relation.APART
    if only_first == only_second == 0:
        return _Relation.SAME
    if only_first + only_second <= shared or shared + max(only_first, only_second) <= FEW_PIXELS:
        return None
    if 0 in (only_first, only_second):
        return _Relation.FIRST_INSIDE if only_first == 0 else _Relation.SECOND_INSIDE
    return _Relation.OVERLAPPING if _is_partial(shared, only_first, only_second) else None


def _relation_of_outlines(first: Outline, second: Outline, tolerance: float) -> _Relation:
    """Tell how two contours with pixels in common lie to each other, by the distance of their outlines in mm."""
    shared, only_first, only_second = _overlap(first.patch, second.patch)
    alike = only_first + only_second <= shared or shared + max(only_first, only_second) <= FEW_PIXELS
    if alike and _median_distance(first, second) <= tolerance and _median_distance(second, first) <= tolerance:
        return _Relation.SAME
    if _is_partial(shared, only_first, only_second):
        return _Relation.OVERLAPPING
    large, small = (first, second) if only_first > only_second else (second, first)
    samples = _samples(small.points)
    outside = samples[~_contains(large.points, samples)] if min(only_first, only_second) else samples[:0]
    if _distances(outside, large.points).max(initial=0.0) > tolerance:
        return _Relation.OVERLAPPING
    return _Relation.SECOND_INSIDE if large is first else _Relation.FIRST_INSIDE


def _overlap(first: Patch, second: Patch) -> tuple[int, int, int]:
    """Count the pixels that two patches share, and those that only the first and only the second has."""
    mine, its = _common(first, second)
    shared = int(np.count_nonzero(first.pixels[mine] & second.pixels[its]))
    return shared, int(np.count_nonzero(first.pixels)) - shared, int(np.count_nonzero(second.pixels)) - shared


def _is_partial(shared: int, only_first: int, only_second: int) -> bool:
    """Whether too much of the smaller area lies outside the larger one for that to be a matter of rounding."""
    return 2 * min(only_first, only_second) > min(shared, max(only_first, only_second))


def _median_distance(one: Outline, other: Outline) -> float:
    """Return the median distance in mm of the first outline's points from the second outline."""
    return float(np.median(_distances(_samples(one.points), other.points)))


def _samples(points: Floats) -> Floats:
    """Return points (n, 2) spread evenly over the length of an outline."""
    closed = np.vstack([points, points[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    places = (np.arange(SAMPLES) + 0.5) / SAMPLES * along[-1]
    return np.column_stack([np.interp(places, along, closed[:, axis]) for axis in (0, 1)])


def _distances(samples: Floats, points: Floats) -> Floats:
    """Return the distance of each sample from the closed outline through ``points``."""
    edges = np.roll(points, -1, axis=0) - points
    squares = np.maximum((edges**2).sum(1), np.finfo(float).tiny)
    offsets = samples[:, None, :] - points[None]
    share = ((offsets * edges).sum(2) / squares).clip(0.0, 1.0)
    nearest: Floats = np.sqrt(((offsets - share[..., None] * edges) ** 2).sum(2).min(1, initial=np.inf))
    return nearest


def _contains(points: Floats, samples: Floats) -> Bools:
    """Tell for each sample whether it lies inside the outline, by the even-odd rule."""
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    sample_x, sample_y = samples[:, :1], samples[:, 1:]
    spans = (y <= sample_y) != (next_y <= sample_y)
    rise = np.where(next_y == y, 1.0, next_y - y)
    crossed = spans & (sample_x >= x + (sample_y - y) / rise * (next_x - x))
    inside: Bools = np.count_nonzero(crossed, axis=1) % 2 == 1
    return inside


def _common(first: Patch, second: Patch) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window that two patches share, in the elements of each; empty where they are apart."""
    top, left = max(first.row, second.row), max(first.column, second.column)
    bottom, right = max(min(first.end[0], second.end[0]), top), max(min(first.end[1], second.end[1]), left)
    in_first, in_second = (
        (slice(top - patch.row, bottom - patch.row), slice(left - patch.column, right - patch.column))
        for patch in (first, second)
    )
    return in_first, in_second


def _canvas(patches: Sequence[Patch]) -> Patch:
    top, left = min(patch.row for patch in patches), min(patch.column for patch in patches)
    bottom, right = max(patch.end[0] for patch in patches), max(patch.end[1] for patch in patches)
    return Patch(top, left, np.zeros((bottom - top, right - left), bool))


def _window(canvas: Patch, patch: Patch) -> tuple[slice, slice]:
    top, left = patch.row - canvas.row, patch.column - canvas.column
    return slice(top, top + patch.pixels.shape[0]), slice(left, left + patch.pixels.shape[1])
