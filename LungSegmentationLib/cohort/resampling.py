"""Between a case's own grid and the square slices of the cache: forward with anti-aliasing, back exactly.

Two steps, both known to the last bit: axes are exchanged and reversed to LPS axial (nothing interpolated), then each
slice is resampled in plane. Slices are never resampled along z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from LungSegmentationLib.cohort.axis_mapping import AxisMapping, Weights
from LungSegmentationLib.cohort.body import body_mask
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.geometry import Grid, Reorientation

__all__ = ["AIR", "BODY_MARGIN", "FieldOfView", "InPlaneMapping", "LabelResampling", "plan_mapping"]

FieldOfView = Literal["full", "body"]
LabelResampling = Literal["coverage", "nearest"]

AIR: Final = -1024
"""HU where a cached slice reaches beyond the image; lower values (padding of some scanners) are raised to it."""

HIGHEST: Final = 32767  # int16

BODY_MARGIN: Final = 10.0
"""mm around the body that the field of view ``body`` keeps."""

_TIE: Final = 1e-5  # float32 sums of areas may miss an exact half by this


def _resample(along_y: Weights, along_x: Weights, plane: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``along_y · plane · along_xᵀ``, transposed (columns first), of one slice."""
    rows = along_y @ plane.astype(np.float32)
    result: NDArray[np.float32] = along_x @ np.ascontiguousarray(rows.T)
    return result


@dataclass(frozen=True)
class InPlaneMapping:
    """A case's grid, its cached grid, and the way there and back.

    Attributes
    ----------
    native
        Grid of the case.
    reorientation
        From there to LPS axial.
    y, x
        In-plane axes of the reoriented slices.
    """

    native: Grid
    reorientation: Reorientation
    y: AxisMapping
    x: AxisMapping

    @classmethod
    def of(
        cls,
        grid: Grid,
        slice_size: int,
        box: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ) -> InPlaneMapping:
        """Plan the mapping of a grid to square slices of square pixels.

        Parameters
        ----------
        grid
            Grid of the case, in any orientation.
        slice_size
            Rows and columns of a cached slice.
        box
            First and last edge along y and x, in pixels of the reoriented image, of what the slices have to show;
            the shorter side is widened on both ends to a square. Default: the whole image.
        """
        if slice_size < 1:
            raise UsageError(f"A slice size of {slice_size} cannot be meant.", "256 and 512 are usual.")
        reorientation = Reorientation.of(grid)
        axial = reorientation.grid(grid)
        counts, steps = (axial.size[1], axial.size[0]), (axial.spacing[1], axial.spacing[0])
        box = box or ((0.0, float(counts[0])), (0.0, float(counts[1])))
        side = max((end - start) * step for (start, end), step in zip(box, steps, strict=True))
        y, x = (
            AxisMapping(count, slice_size, scale, (start + end - slice_size * scale) / 2)
            for count, (start, end), scale in zip(
                counts, box, (side / slice_size / step for step in steps), strict=True
            )
        )
        return cls(grid, reorientation, y, x)

    @cached_property
    def axial(self) -> Grid:
        """Grid of the reoriented image."""
        return self.reorientation.grid(self.native)

    @cached_property
    def cached(self) -> Grid:
        """Grid of the cached volume."""
        axial = self.axial
        origin = axial.to_physical([[float(self.x.to_native(0)), float(self.y.to_native(0)), 0.0]])[0]
        spacing = self.x.scale * axial.spacing[0], self.y.scale * axial.spacing[1], axial.spacing[2]
        return Grid((self.x.cached, self.y.cached, axial.size[2]), spacing, tuple(origin.tolist()), axial.direction)

    @property
    def slices(self) -> int:
        """Number of slices, cached and reoriented alike."""
        return self.axial.size[2]

    def to_cache(self, ct: NDArray[Any]) -> NDArray[np.int16]:
        """Resample a CT, linear with anti-aliasing.

        Parameters
        ----------
        ct
            HU, shape (z, y, x) of the native grid.

        Returns
        -------
        int16 array (slices, slice_size, slice_size)
            HU; −1024 where the image does not reach.
        """
        axial = self._axial_view(ct)
        result = np.full(self.cached.shape, AIR, np.int16)
        along_y, along_x = self.y.triangle, self.x.triangle
        rows, columns = _extent(self.y.inside), _extent(self.x.inside)
        for target, plane in zip(result, axial, strict=True):
            values = _resample(along_y, along_x, np.clip(plane, AIR, HIGHEST))
            target[rows, columns] = np.rint(values, out=values).T[rows, columns]
        return result

    def bits_to_cache(self, bits: NDArray[np.uint8], how: LabelResampling = "coverage") -> NDArray[np.uint8]:
        """Resample structure bits; each structure on its own, so that overlaps stay.

        Parameters
        ----------
        bits
            uint8, shape (z, y, x) of the native grid.
        how
            ``coverage``: a structure holds a cached pixel if it covers more than half of it. Exactly half, common at
            the factor 2, is decided by one of the image pixels that meet in the cached pixel's center, another one
            from slice to slice: counting the halves in would make a spinal cord 6 % larger, counting them out 7 %
            smaller. ``nearest``: the bits of the image pixel in which the center lies; at an even factor it lies on
            an edge, and all structures move by half an image pixel.

        Returns
        -------
        uint8 array (slices, slice_size, slice_size)
        """
        axial = self._axial_view(bits)
        if how == "nearest":
            nearest = axial[:, self.y.nearest[:, None], self.x.nearest]
            return np.where(self.y.inside[:, None] & self.x.inside, nearest, np.uint8(0))
        result = np.zeros(self.cached.shape, np.uint8)
        if self.y.halves and self.x.halves:
            self._join_fours(axial, result)
        else:
            for bit in (1 << n for n in range(8)):
                self._cover(axial, bit, result)
        return result

    def _tie_breaker(self, plane: NDArray[np.uint8], z: int) -> NDArray[np.uint8]:
        y = self.y.nearest if z & 1 else self.y.nearest_before
        x = self.x.nearest if z & 2 else self.x.nearest_before
        return plane[y[:, None], x]

    def _join_fours(self, axial: NDArray[np.uint8], result: NDArray[np.uint8]) -> None:
        """Do what :meth:`_cover` does where cached pixels are 2×2 image pixels, all structures at once."""
        y, x = round(self.y.offset), round(self.x.offset)
        for z, (target, plane) in enumerate(zip(result, axial, strict=True)):
            part = plane[y : y + 2 * self.y.cached, x : x + 2 * self.x.cached]
            if not part.any():
                continue
            a, b, c, d = (np.ascontiguousarray(part[dy::2, dx::2]) for dy in (0, 1) for dx in (0, 1))
            ab, cd, a_b, c_d = a & b, c & d, a | b, c | d
            middle = ((a, b), (c, d))[z & 1][z >> 1 & 1]
            target[...] = (ab & c_d) | (cd & a_b) | ((ab | cd | (a_b & c_d)) & middle)

    def _cover(self, axial: NDArray[np.uint8], bit: int, result: NDArray[np.uint8]) -> None:
        """Set a bit of ``result`` where its structure covers the cached pixel."""
        depth = _extent(np.bitwise_or.reduce(axial, axis=(1, 2)) & bit != 0)
        footprint = np.bitwise_or.reduce(axial, axis=0) & bit != 0
        rows, columns = _extent(footprint.any(axis=1)), _extent(footprint.any(axis=0))
        seen_y, seen_x = self.y.reach(rows), self.x.reach(columns)
        along_y, along_x = self.y.area[seen_y, rows], self.x.area[seen_x, columns]
        for z in range(depth.start, depth.stop):
            mask = axial[z] & np.uint8(bit)
            share = _resample(along_y, along_x, mask[rows, columns] != 0).T
            middle = self._tie_breaker(mask, z)[seen_y, seen_x] != 0
            held = (share > 0.5 + _TIE) | ((share > 0.5 - _TIE) & middle)
            result[z, seen_y, seen_x] |= held.astype(np.uint8) * np.uint8(bit)

    def from_cache(self, values: NDArray[Any], outside: ArrayLike = 0.0) -> NDArray[np.float32]:
        """Interpolate values of cached slices (probabilities, say) linearly to the image's pixels.

        Parameters
        ----------
        values
            Shape (..., slice_size, slice_size).
        outside
            Value of pixels that the cached slices do not show (field of view ``body``); one for all, or anything that
            broadcasts to the leading axes, such as one a class.

        Returns
        -------
        float32 array (..., rows, columns)
            On the reoriented slices; :meth:`full_volume` turns a volume of them back.
        """
        leading = values.shape[:-2]
        planes = values.reshape(-1, *values.shape[-2:])
        result = np.empty((len(planes), self.y.native, self.x.native), np.float32)
        for target, plane in zip(result, planes, strict=True):
            target[...] = _resample(self.y.linear_back, self.x.linear_back, plane).T
        shaped = result.reshape(*leading, self.y.native, self.x.native)
        if not (self.y.covered.all() and self.x.covered.all()):
            beyond = ~(self.y.covered[:, None] & self.x.covered)
            shaped[..., beyond] = np.broadcast_to(np.asarray(outside, np.float32), leading)[..., None]
        return shaped

    def full_volume(self, axial: NDArray[Any]) -> NDArray[Any]:
        """Turn a reoriented volume (slices, rows, columns) back to the axes of the native grid, as a new array."""
        if axial.shape != self.axial.shape:
            raise ValueError(f"a volume of shape {axial.shape} is not the reoriented one of {self.axial.shape}")
        return np.ascontiguousarray(self.reorientation.undo(axial))

    def _axial_view(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.shape != self.native.shape:
            raise ValueError(f"an array of shape {array.shape} does not lie on a grid of shape {self.native.shape}")
        return self.reorientation.apply(array)


def _extent(flags: Any) -> slice:
    """Return the range from the first to the last ``True`` of an array with one axis."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def plan_mapping(
    ct: NDArray[Any],
    grid: Grid,
    slice_size: int,
    field_of_view: FieldOfView,
    structures: NDArray[np.uint8] | None = None,
) -> InPlaneMapping:
    """Plan the cached slices of a CT, for the cache and for a prediction alike.

    Parameters
    ----------
    ct
        HU, shape (z, y, x) of ``grid``.
    grid
        Its grid.
    slice_size
        Rows and columns of a cached slice.
    field_of_view
        ``full``: the whole image. ``body``: a square around the body in all slices, with ``BODY_MARGIN``, never larger
        than the image; the whole image where no body is found.
    structures
        Bits (z, y, x): what is drawn is never cut off.
    """
    mapping = InPlaneMapping.of(grid, slice_size)
    if field_of_view == "full":
        return mapping
    axial = body_mask(mapping.reorientation.apply(ct))
    if not axial.any():
        return mapping
    if structures is not None:
        axial |= mapping.reorientation.apply(structures) != 0
    steps = mapping.axial.spacing[1], mapping.axial.spacing[0]
    box = []
    for axis, step in zip((1, 2), steps, strict=True):
        extent = _extent(axial.any(axis=(0, 3 - axis)))
        margin = BODY_MARGIN / step
        box.append((max(0.0, extent.start - margin), min(float(axial.shape[axis]), extent.stop + margin)))
    return InPlaneMapping.of(grid, slice_size, (box[0], box[1]))
