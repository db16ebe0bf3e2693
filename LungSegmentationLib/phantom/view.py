"""One slice plane of a grid, seen in the coordinates of the standard patient, and fields on parts of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.phantom.anatomy import FAR, Placement
from LungSegmentationLib.phantom.shapes import Field, Points, Shape

__all__ = ["Patch", "Planes", "View"]

Window = tuple[slice, slice]


@dataclass
class Patch:
    """A field on a rectangle of a slice; outside of it the field is large and positive."""

    window: Window
    values: Field


@dataclass
class Planes:
    """The slice planes of a grid. Remembers where on the grid each solid lies."""

    grid: Grid
    placement: Placement
    _ranges: dict[tuple[int, float], tuple[NDArray[np.intp], NDArray[np.intp]]] = field(default_factory=dict)
    _kept: list[Shape] = field(default_factory=list)

    def patient_coordinates(self, index: int) -> tuple[NDArray[np.float64], ...]:
        """LPS coordinates in mm of the pixel centers of a slice: three arrays that broadcast to (rows, columns).

        An array has one row or one column where the coordinate does not change along it.
        """
        affine = self.grid.affine
        columns, rows = np.arange(self.grid.size[0]), np.arange(self.grid.size[1])
        coordinates = []
        for axis in range(3):
            total = np.full((1, 1), affine[axis, 3] + index * affine[axis, 2])
            if abs(affine[axis, 0]) > 1e-9:
                total = total + affine[axis, 0] * columns[None, :]
            if abs(affine[axis, 1]) > 1e-9:
                total = total + affine[axis, 1] * rows[:, None]
            coordinates.append(total)
        return tuple(coordinates)

    def view(self, index: int) -> View:
        """Return the whole plane of a slice."""
        points = self.placement.to_standard(*self.patient_coordinates(index))
        whole = (slice(0, self.grid.size[1]), slice(0, self.grid.size[0]))
        return View(self, index, points, whole)

    def ranges(self, shape: Shape, pad: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """First and last index (x, y, z) of the voxels that a solid, enlarged by ``pad`` mm, can touch."""
        key = (id(shape), pad)
        if key not in self._ranges:
            low, high = shape.box
            corners = np.array(list(product(*zip(low, high, strict=True))))
            reach = pad + 2 * max(abs(value) for value in self.placement.bend)
            indices = self.grid.to_index(self.placement.to_patient(corners))
            margin = reach * self.placement.mean_scale * 1.15 / np.asarray(self.grid.spacing) + 1
            self._ranges[key] = (
                np.floor(indices.min(axis=0) - margin).astype(np.intp),
                np.ceil(indices.max(axis=0) + margin).astype(np.intp),
            )
            self._kept.append(shape)
        return self._ranges[key]


@dataclass
class View:
    """A rectangle of a slice: its points in the standard patient."""

    planes: Planes
    index: int
    points: Points
    window: Window

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the rectangle."""
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start

    def part(self, window: Window) -> View:
        """Cut a rectangle, given in pixels of this view, out of it."""
        rows, columns = window
        return View(
            self.planes,
            self.index,
            self.points.window(rows, columns),
            (
                slice(self.window[0].start + rows.start, self.window[0].start + rows.stop),
                slice(self.window[1].start + columns.start, self.window[1].start + columns.stop),
            ),
        )

    def find(self, shape: Shape, pad: float) -> Window | None:
        """Return the rectangle, in pixels of this view, that a solid can touch; ``None`` if it cannot."""
        low, high = self.planes.ranges(shape, pad)
        if not low[2] <= self.index <= high[2]:
            return None
        rows = _overlap(low[1], high[1], self.window[0])
        columns = _overlap(low[0], high[0], self.window[1])
        return (rows, columns) if rows and columns else None

    def union(self, shapes: Iterable[Shape], pad: float = 6.0) -> Patch | None:
        """Distance to the nearest of some solids, on the smallest rectangle that holds them all."""
        found = [(shape, window) for shape in shapes if (window := self.find(shape, pad)) is not None]
        if not found:
            return None
        rows = slice(min(w[0].start for _, w in found), max(w[0].stop for _, w in found))
        columns = slice(min(w[1].start for _, w in found), max(w[1].stop for _, w in found))
        values = np.full((rows.stop - rows.start, columns.stop - columns.start), FAR, np.float32)
        for shape, window in found:
            inner = (
                slice(window[0].start - rows.start, window[0].stop - rows.start),
                slice(window[1].start - columns.start, window[1].stop - columns.start),
            )
            np.minimum(values[inner], shape.distance(self.points.window(*window)), out=values[inner])
        return Patch((rows, columns), values)


def _overlap(first: np.intp, last: np.intp, span: slice) -> slice | None:
    start, stop = max(int(first) - span.start, 0), min(int(last) + 1, span.stop) - span.start
    return slice(start, stop) if stop > start else None
