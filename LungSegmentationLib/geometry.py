"""Grids in the patient coordinate system (LPS, mm) and what maps between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from LungSegmentationLib.errors import GeometryError

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Grid"]

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
