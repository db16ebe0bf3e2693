"""NRRD files of the library's jobs, read into VTK images by the shortest way: milliseconds, not tenths."""

from __future__ import annotations

import gzip
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from LungSegmentationScene.Errors import SceneError

_VTK_TYPES = {
    "short": (vtk.VTK_SHORT, np.dtype(np.int16)),
    "unsigned char": (vtk.VTK_UNSIGNED_CHAR, np.dtype(np.uint8)),
}


@dataclass(frozen=True)
class RawFile:
    """A file's header.

    Attributes
    ----------
    fields, values
        What stands before ``: `` and before ``:=``.
    start
        Where the voxels begin, in bytes.
    sizes
        Along x, y, z.
    layers
        Values at each voxel.
    """

    path: Path
    fields: dict[str, str]
    values: dict[str, str]
    start: int
    sizes: tuple[int, int, int]
    layers: int

    @property
    def type(self) -> str:
        """Type of the voxels, as NRRD names it."""
        return self.fields["type"]

    def toRas(self) -> np.ndarray:
        """Return the 4×4 matrix from indices in the file to RAS, mm."""
        matrix = np.eye(4)
        directions = [text for text in self.fields["space directions"].split() if text != "none"]
        for column, text in enumerate([*directions, self.fields["space origin"]]):
            matrix[:3, column] = [float(value) for value in text.strip("()").split(",")]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix

    def readInto(self, array: np.ndarray) -> None:
        """Fill an array with the voxels.

        Raises
        ------
        SceneError
            If the file ends too early or cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start)
                voxels = gzip.GzipFile(fileobj=stream) if self.fields["encoding"] == "gzip" else stream
                if _filled(voxels, memoryview(array).cast("B")):
                    return
        except (EOFError, zlib.error, gzip.BadGzipFile):
            pass  # the sentence below says it
        except OSError as error:
            raise SceneError(_("{file} cannot be read: {why}.").format(file=self.path, why=error.strerror)) from error
        raise SceneError(_("{file} ends too early.").format(file=self.path), _("Is the disk full?"))

    def image(self, kind: type = vtk.vtkImageData):
        """Return a single layer as a VTK image in index coordinates; errors as :meth:`readInto`."""
        image = kind()
        image.SetDimensions(*self.sizes)
        image.AllocateScalars(_VTK_TYPES[self.type][0], 1)
        self.readInto(vtk_to_numpy(image.GetPointData().GetScalars()))
        return image

    def array(self) -> np.ndarray:
        """Return all layers as (z, y, x, layer); errors as :meth:`readInto`."""
        array = np.empty((*self.sizes[::-1], self.layers), _VTK_TYPES[self.type][1])
        self.readInto(array)
        return array


def _filled(stream, place: memoryview) -> bool:
    """Fill a place from a stream; returns whether there was enough."""
    done = 0
    while done < len(place):
        count = stream.readinto(place[done:])
        if not count:
            return False
        done += count
    return True


def openRaw(path: Path) -> RawFile:
    """Read the header of a file that the library wrote.

    Raises
    ------
    SceneError
        If it is no such file.
    """
    path = Path(path)
    fields: dict[str, str] = {}
    values: dict[str, str] = {}
    try:
        with path.open("rb") as stream:
            while line := stream.readline().rstrip(b"\n"):
                text = line.decode("utf-8")
                key, separator, value = text.partition(":=")
                if separator:
                    values[key] = value.replace("\\n", "\n").replace("\\\\", "\\")
                else:
                    key, separator, value = text.partition(": ")
                    if separator:
                        fields[key] = value
            start = stream.tell()
        sizes = [int(size) for size in fields["sizes"].split()]
        layers = sizes.pop(0) if len(sizes) == 4 else 1
        plain = (
            fields["encoding"] in ("raw", "gzip")
            and fields["type"] in _VTK_TYPES
            and len(sizes) == 3
            and min(sizes) > 0
        )
        if plain and fields.get("endian", sys.byteorder) == sys.byteorder:
            return RawFile(path, fields, values, start, tuple(sizes), layers)
    except OSError as error:
        raise SceneError(_("{file} cannot be read: {why}.").format(file=path, why=error.strerror)) from error
    except (KeyError, ValueError):
        pass  # the sentence below says it
    raise SceneError(_("{file} is not what a job writes.").format(file=path), _("Try again."))


def orientedImage(values: np.ndarray, toRas: np.ndarray, first: tuple[int, int, int]):
    """Return a label map image (``vtkOrientedImageData``).

    Parameters
    ----------
    values
        uint8 (z, y, x), copied.
    toRas
        4×4 matrix from indices of the whole grid to RAS.
    first
        Index (x, y, z) on the whole grid of the first voxel.
    """
    image = slicer.vtkOrientedImageData()
    extent = [v for start, size in zip(first, values.shape[::-1], strict=True) for v in (start, start + size - 1)]
    image.SetExtent(*extent)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    vtk_to_numpy(image.GetPointData().GetScalars()).reshape(values.shape)[...] = values
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(toRas[row, column]))
    image.SetImageToWorldMatrix(matrix)
    return image
