"""What is going to be segmented, as an int16 array of HU on its own grid; or a sentence why it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.ct import CTVolume
from LungSegmentationLib.errors import BadInputError, GeometryError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["as_hounsfield"]

LOWEST_HU: Final = -32768
HIGHEST_HU: Final = 32767
LARGEST_SKEW: Final = 1e-3


def as_hounsfield(
    ct: sitk.Image | CTVolume | tuple[NDArray[Any], Grid], name: str = "The CT"
) -> tuple[NDArray[np.int16], Grid]:
    """Return HU (z, y, x), int16, and their grid; nothing is copied where the values are int16 already.

    Parameters
    ----------
    ct
        An image of SimpleITK, a CT series, or an array with its grid. Values that are not whole are rounded.
    name
        What a message calls it.

    Raises
    ------
    GeometryError
        If it does not have three dimensions, or a grid that space can have.
    UnsupportedFileError
        If a voxel has several values, or values that are no real numbers.
    BadInputError
        If it has no voxels, array and grid do not fit, or a value is not a number.
    """
    if isinstance(ct, tuple):
        array, grid = np.asarray(ct[0]), ct[1]
    else:
        array, grid = _of_image(ct.image if isinstance(ct, CTVolume) else ct, name)
    if array.ndim != 3:
        raise GeometryError(f"{name} has {array.ndim} dimensions.", "A volume with 3 is needed.")
    if array.shape != grid.shape:
        raise BadInputError(f"{name} has the shape {array.shape}, but its grid has {grid.shape}.")
    if not array.size:
        raise BadInputError(f"{name} has no voxels.")
    _check_grid(grid, name)
    return _as_int16(array, name), grid


class _Voxels:
    """The memory of an image for numpy, whose arrays keep this object and with it the image.

    SimpleITK's own view does not: once the image is gone it shows whatever comes to lie in its memory.
    """

    def __init__(self, image: sitk.Image) -> None:
        import SimpleITK as sitk

        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def _of_image(image: sitk.Image, name: str) -> tuple[NDArray[Any], Grid]:
    if image.GetDimension() != 3:
        raise GeometryError(f"{name} has {image.GetDimension()} dimensions.", "A volume with 3 is needed.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise UnsupportedFileError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values a voxel.",
            "A CT has one: HU. A color picture cannot be segmented.",
        )
    if "complex" in image.GetPixelIDTypeAsString() or "label" in image.GetPixelIDTypeAsString():
        raise UnsupportedFileError(f"{name} holds voxels of the type {image.GetPixelIDTypeAsString()}.", "A CT has HU.")
    return np.asarray(_Voxels(image)), Grid.of(image)


def _check_grid(grid: Grid, name: str) -> None:
    values = (*grid.spacing, *grid.origin, *grid.direction)
    if not np.isfinite(values).all() or min(grid.spacing) <= 0:
        raise GeometryError(f"{name} has the spacing {grid.spacing} and the origin {grid.origin}, which is no place.")
    if np.abs(grid.axes.T @ grid.axes - np.eye(3)).max() > LARGEST_SKEW:
        raise GeometryError(
            f"The axes of {name} are not perpendicular.", "Resample it to a grid with perpendicular axes first."
        )


def _as_int16(array: NDArray[Any], name: str) -> NDArray[np.int16]:
    if array.dtype == np.int16:
        return array
    if array.dtype.kind not in "iuf":
        raise UnsupportedFileError(f"{name} holds values of the type {array.dtype}.", "A CT has numbers: HU.")
    result = np.empty(array.shape, np.int16)
    for target, plane in zip(result, array, strict=True):
        if plane.dtype.kind == "f":
            if not np.isfinite(plane).all():
                raise BadInputError(
                    f"{name} holds values that are no numbers (NaN or infinite).",
                    "Put the HU of air, −1024, where nothing was measured.",
                )
            plane = np.rint(plane)  # noqa: PLW2901 - one plane at a time, so that no second volume is held
        target[...] = np.clip(plane, LOWEST_HU, HIGHEST_HU)
    return result
