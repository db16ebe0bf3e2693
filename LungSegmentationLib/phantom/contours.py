"""Boundaries of signed-distance fields as closed polygons with sub-pixel vertices."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.phantom.shapes import Field

__all__ = ["keyhole", "nudge", "outlines"]

Polygon = NDArray[np.float64]

CLEARANCE = 0.03
FEWEST_POINTS = 4


def nudge(values: Field) -> Field:
    """Move values near zero away from it (mm).

    The outline then keeps clear of every pixel center, and no rounding of its vertices can change which centers lie
    inside.
    """
    near = np.abs(values) < CLEARANCE
    return np.where(near, np.where(values < 0, np.float32(-CLEARANCE), np.float32(CLEARANCE)), values)


def outlines(values: Field) -> list[Polygon]:
    """Return the zero lines of a field (marching squares), closed at the border of the array.

    Parameters
    ----------
    values
        Negative inside, shape (rows, columns), never near zero (:func:`nudge`).

    Returns
    -------
    list of arrays (n, 2)
        Vertices as column and row in pixels, the first not repeated. Their even-odd filling holds exactly the pixel
        centers where the field is negative.
    """
    framed = np.pad(np.clip(values, -20.0, 20.0), 1, constant_values=1.0)
    lines = contourpy.contour_generator(z=framed, line_type=contourpy.LineType.Separate).lines(0.0)
    return [np.asarray(line[:-1], float) - 1.0 for line in lines if len(line) > FEWEST_POINTS]


def keyhole(polygons: list[Polygon]) -> list[Polygon]:
    """Join holes to the outlines around them by a cut of no width, as planning systems do."""
    areas = [_area(polygon) for polygon in polygons]
    # Marching squares turns holes the other way round than outer lines.
    outer_sign = np.sign(areas[int(np.argmax(np.abs(areas)))]) if areas else 1.0
    outer = [polygon for polygon, area in zip(polygons, areas, strict=True) if np.sign(area) == outer_sign]
    for hole in (polygon for polygon, area in zip(polygons, areas, strict=True) if np.sign(area) != outer_sign):
        place = next((n for n, polygon in enumerate(outer) if _contains(polygon, hole[0])), None)
        if place is None:
            outer.append(hole)
            continue
        around = outer[place]
        gaps = ((around[:, None, :] - hole[None, :, :]) ** 2).sum(axis=2)
        first, second = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
        inner = np.roll(hole, -int(second), axis=0)
        outer[place] = np.concatenate([around[: first + 1], inner, inner[:1], around[first:]])
    return outer


def _area(polygon: Polygon) -> float:
    x, y = polygon.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _contains(polygon: Polygon, point: Polygon) -> bool:
    (x, y), (u, v) = polygon.T, np.roll(polygon, -1, axis=0).T
    crossing = (y > point[1]) != (v > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        left = point[0] < (u - x) * (point[1] - y) / (v - y) + x
    return bool(np.count_nonzero(crossing & left) % 2)
