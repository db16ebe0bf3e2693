"""Grids in the patient coordinate system (LPS, mm) and what maps between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from LungSegmentationLib.errors import GeometryError

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Grid", "Reorientation"]

Points = NDArray[np.float64]
Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes
    ----------
    size
        Number of voxels along x (columns), y (rows), z (slices) of the index space.
    spacing
        Distance of voxel centers in mm along the same axes.
    origin
        Center of voxel (0, 0, 0) in LPS, mm.
    direction
        3×3 matrix row by row, as SimpleITK has it: its columns are the unit vectors of the index axes in LPS.
    """

    size: tuple[int, int, int]
    spacing: Vector3
    origin: Vector3
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """Return the grid of a three-dimensional SimpleITK image."""
        if image.GetDimension() != 3:
            raise GeometryError(f"A volume has 3 dimensions, this image has {image.GetDimension()}.")
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an array on this grid: slices, rows, columns."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cm³."""
        return float(np.prod(self.spacing)) / 1000.0

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """3×3, columns are the unit vectors of the index axes in LPS."""
        return np.asarray(self.direction, float).reshape(3, 3)

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """4×4 matrix from the index (x, y, z, 1) to LPS in mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def to_index(self, points: ArrayLike) -> Points:
        """Map points (n, 3) in LPS, mm, to continuous indices (n, 3) in the order x, y, z."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        result: Points = (np.asarray(points, float) - self.origin) @ inverse.T
        return result

    def to_physical(self, indices: ArrayLike) -> Points:
        """Map continuous indices (n, 3) in the order x, y, z to LPS in mm."""
        result: Points = np.asarray(indices, float) @ self.affine[:3, :3].T + self.origin
        return result

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both grids have the same size and their corners agree within ``tolerance`` mm."""
        if self.size != other.size:
            return False
        last = np.asarray(self.size) - 1
        corners = np.array([[x, y, z] for x in (0, last[0]) for y in (0, last[1]) for z in (0, last[2])])
        return bool(np.abs(self.to_physical(corners) - other.to_physical(corners)).max() <= tolerance)

    def image(self, array: NDArray[Any]) -> sitk.Image:
        """Make a SimpleITK image of an array (z, y, x) on this grid."""
        import SimpleITK as sitk

        if array.shape != self.shape:
            raise ValueError(f"an array of shape {array.shape} does not fit a grid of shape {self.shape}")
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Reorientation:
    """Which exchange and reversal of index axes bring a volume as close to LPS axial as they can.

    After it x runs to the patient's left, y to the back, z to the head. Nothing is interpolated: an oblique volume
    keeps its obliquity, and going back gives the same bytes.

    Attributes
    ----------
    axes
        For x, y and z of the result: the index axis of the source that it is (0, 1, 2 for x, y, z).
    flips
        For x, y and z of the result: whether it runs the other way.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, grid: Grid) -> Reorientation:
        """Return the one for volumes on this grid."""
        matrix = grid.axes
        # Rounded, so that an obliquity of exactly 45° is decided by the order and not by the last bit.
        best = max(
            permutations(range(3)), key=lambda axes: round(sum(abs(matrix[i, a]) for i, a in enumerate(axes)), 9)
        )
        x, y, z = best
        return cls((x, y, z), (bool(matrix[0, x] < 0), bool(matrix[1, y] < 0), bool(matrix[2, z] < 0)))

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of a reoriented volume."""
        corner = [0, 0, 0]
        for axis, flip in zip(self.axes, self.flips, strict=True):
            if flip:
                corner[axis] = grid.size[axis] - 1
        signs = np.where(self.flips, -1.0, 1.0)
        x, y, z = self.axes
        return Grid(
            (grid.size[x], grid.size[y], grid.size[z]),
            (grid.spacing[x], grid.spacing[y], grid.spacing[z]),
            tuple(grid.to_physical([corner])[0].tolist()),
            tuple((grid.axes[:, list(self.axes)] * signs).ravel().tolist()),
        )

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array (z, y, x) of the source in the order of the result."""
        turned = array.transpose([2 - axis for axis in reversed(self.axes)])
        return turned[self._steps]

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array (z, y, x) of the result in the order of the source."""
        order = np.argsort([2 - axis for axis in reversed(self.axes)])
        return array[self._steps].transpose(order)

    @property
    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else None) for flip in reversed(self.flips))
