"""Surfaces of structures for the 3D views, one structure after the other between the window's events.

Slicer's own conversion makes all of them at a stretch and holds the window for seconds. Here voxels are averaged and
smoothed in a thread, and only the surface itself is made in the window's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from LungSegmentationScene import Segmentations
from LungSegmentationScene.Background import InTurns

MOST_VOXELS = 1_500_000
"""Of what a surface is made of; larger structures are made coarser in plane first."""

LEVEL = 0.5
KEPT_LEVEL, KEPT_SHARE = 0.55, 0.8
"""How much of a structure smoothing must leave, somewhat above the surface's level; what is thinner keeps its steps."""


def makeSurfaces(
    segmentationNode,
    onProgress: Callable[[int, int], None],
    onDone: Callable[[list[tuple] | None, Exception | None], None],
) -> InTurns:
    """Make the surface of every segment.

    Parameters
    ----------
    segmentationNode
        Is only read.
    onProgress
        Called with how many of how many are done.
    onDone
        Called with what :func:`attach` takes, or the error; both are None where it was stopped.
    """
    return InTurns(_surfaces(segmentationNode, onProgress), onDone)


def attach(segmentationNode, made: list[tuple]) -> None:
    """Give the segments their surfaces, all at once: where some have none, Slicer takes it for none at all."""
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    for segment, surface in made:
        segment.AddRepresentation(name, surface)
    segmentationNode.GetSegmentation().InvokeEvent(slicer.vtkSegmentation.ContainedRepresentationNamesModified)


def _surfaces(node, onProgress: Callable[[int, int], None]) -> Generator[object, object, list[tuple]]:
    segments = Segmentations.segments(node)
    made = []
    for number, (segmentId, segment) in enumerate(segments):
        onProgress(number, len(segments))
        yield
        image = Segmentations.binaryLabelmap(node, segmentId)
        surface = vtk.vtkPolyData()
        if image is not None:
            cropped = yield from _cropped(Segmentations.labelArray(image), segment.GetLabelValue())
            if cropped is not None:
                mask, start = cropped
                field, factor = yield partial(_field, mask)
                extent = image.GetExtent()
                first = [index + begin for index, begin in zip(extent[0::2], reversed(start), strict=True)]
                surface = _surface(field, factor, first, Segmentations.lattice(image).toRas)
        made.append((segment, surface))
        yield
    return made


def _cropped(values: np.ndarray, label: int) -> Generator[None, None, tuple[np.ndarray, tuple[int, int, int]] | None]:
    """Return the voxels of a label as a copy of the box that holds them, and the index (k, j, i) where it begins."""
    planes, rows, columns = [], np.zeros(values.shape[1], bool), np.zeros(values.shape[2], bool)
    for k, plane in enumerate(values):
        mask = plane == label
        if mask.any():
            planes.append(k)
            rows |= mask.any(axis=1)
            columns |= mask.any(axis=0)
        yield
    if not planes:
        return None
    spans = [slice(int(held[0]), int(held[-1]) + 1) for held in (planes, np.flatnonzero(rows), np.flatnonzero(columns))]
    mask = np.empty([span.stop - span.start for span in spans], bool)
    for k in range(spans[0].start, spans[0].stop):
        np.equal(values[k, spans[1], spans[2]], label, out=mask[k - spans[0].start])
        yield
    return mask, tuple(span.start for span in spans)


def _field(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return shares between 0 and 1, with a rim of nothing, whose level :data:`LEVEL` is the surface, and their size.

    The size is the number of pixels along x and y that each of them stands for.

    Parameters
    ----------
    mask
        Voxels (z, y, x).
    """
    factor = max(1, int(np.ceil(np.sqrt(mask.size / MOST_VOXELS))))
    k, j, i = mask.shape
    rows, columns = -(-j // factor), -(-i // factor)
    whole = np.zeros((k, rows * factor, columns * factor), np.uint8)
    whole[:, :j, :i] = mask
    coarse = np.zeros((k + 4, rows + 4, columns + 4), np.float32)
    coarse[2:-2, 2:-2, 2:-2] = whole.reshape(k, rows, factor, columns, factor).mean(axis=(2, 4), dtype=np.float32)
    smooth = coarse
    for axis in (0, 1, 2, 1, 2):
        smooth = _smoothed(smooth, axis)
    if np.count_nonzero(smooth >= KEPT_LEVEL) < KEPT_SHARE * np.count_nonzero(coarse >= LEVEL):
        smooth = coarse
    # A stray voxel is what somebody may be looking for: it is shown, and larger rather than not at all.
    near = smooth >= LEVEL
    for axis in range(3):
        near = _widened(near, axis)
    smooth[(coarse > 0) & ~near] = 1.0
    return smooth, factor


def _smoothed(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the means by the weights 1, 2, 1 along an axis; the rim of nothing stays."""
    turned = np.moveaxis(values, axis, 0)
    smooth = turned / 2
    smooth[1:] += turned[:-1] / 4
    smooth[:-1] += turned[1:] / 4
    return np.moveaxis(smooth, 0, axis)


def _widened(mask: np.ndarray, axis: int) -> np.ndarray:
    """Return a mask with the neighbors along an axis."""
    turned = np.moveaxis(mask, axis, 0)
    wide = turned.copy()
    wide[1:] |= turned[:-1]
    wide[:-1] |= turned[1:]
    return np.moveaxis(wide, 0, axis)


def _surface(field: np.ndarray, factor: int, first: list[int], toRas: np.ndarray):
    """Return the surface (``vtkPolyData``) in RAS, mm.

    Parameters
    ----------
    field, factor
        See :func:`_field`.
    first
        Index (x, y, z) of the first voxel without the rim.
    toRas
        4×4 matrix from indices to RAS.
    """
    image = vtk.vtkImageData()
    image.SetDimensions(*field.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(field).ravel()))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, LEVEL)
    edges.ComputeScalarsOff()
    edges.ComputeGradientsOff()
    edges.ComputeNormalsOn()
    edges.Update()
    surface = vtk.vtkPolyData()
    surface.ShallowCopy(edges.GetOutput())
    if surface.GetNumberOfPoints() == 0:
        return surface
    scale = np.array([factor, factor, 1.0])
    # The middle of a large pixel; the rim is two wide.
    begin = np.array(first) + (scale - 1) / 2 - 2 * scale
    matrix = toRas[:3, :3] * scale
    points = vtk_to_numpy(surface.GetPoints().GetData()) @ matrix.T + (toRas[:3, :3] @ begin + toRas[:3, 3])
    placed = vtk.vtkPoints()
    placed.SetData(numpy_to_vtk(points.astype(np.float32), deep=True))
    surface.SetPoints(placed)
    normals = vtk_to_numpy(surface.GetPointData().GetNormals()) @ np.linalg.inv(matrix)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    array = numpy_to_vtk(normals.astype(np.float32), deep=True)
    array.SetName("Normals")
    surface.GetPointData().SetNormals(array)
    if np.linalg.det(matrix) < 0:
        surface = _turned(surface)
    return surface


def _turned(surface):
    """Return a surface with its triangles the other way round, as a mirrored grid needs it."""
    turn = vtk.vtkReverseSense()
    turn.SetInputData(surface)
    turn.ReverseCellsOn()
    turn.Update()
    return turn.GetOutput()
