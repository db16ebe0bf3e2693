"""What the slice and 3D views show: which volume, how structures are painted, which slice.

Without a window (``--no-main-window``) there are no views; slice nodes of the scene are moved all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk

from LungSegmentationScene import Segmentations

AXIAL_SLICE = "Red"
"""Layout name of the slice view that is axial in Slicer's layouts."""

SAME_SLICE_MM = 0.01


def showVolume(volumeNode, fit: bool = True) -> None:
    """Show a volume in the background of all slice views."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(volumeNode.GetID() if volumeNode is not None else None)
    if fit and volumeNode is not None and slicer.app.layoutManager() is not None:
        slicer.util.resetSliceViews()


def paint(segmentationNode, opacity: float, fill: bool, outline: bool) -> None:
    """Set how all structures of a segmentation are painted in slice views; the opacity is that of the fill."""
    display = segmentationNode.GetDisplayNode()
    if display is None:
        segmentationNode.CreateDefaultDisplayNodes()
        display = segmentationNode.GetDisplayNode()
    wasModifying = display.StartModify()
    display.SetOpacity2DFill(opacity)
    display.SetOpacity2DOutline(1.0)
    display.SetVisibility2DFill(fill)
    display.SetVisibility2DOutline(outline)
    display.EndModify(wasModifying)


def isVisible(segmentationNode, segmentId: str) -> bool:
    """Whether a structure is shown."""
    display = segmentationNode.GetDisplayNode()
    return display is None or bool(display.GetSegmentVisibility(segmentId))


def setVisible(segmentationNode, segmentId: str, visible: bool) -> None:
    """Show or hide a structure."""
    if segmentationNode.GetDisplayNode() is None:
        segmentationNode.CreateDefaultDisplayNodes()
    segmentationNode.GetDisplayNode().SetSegmentVisibility(segmentId, visible)


def jumpTo(ras: Sequence[float]) -> None:
    """Bring all slice views to a point, in RAS, mm."""
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.JumpSliceByCentering(*ras)


def center(segmentationNode, segmentId: str) -> tuple[float, float, float] | None:
    """Return a point inside a structure in RAS: on its fullest axial slice, the voxel nearest to the middle of it.

    The middle of a bent structure or of two pieces can lie outside of it. None where it has no voxel.
    """
    image = Segmentations.binaryLabelmap(segmentationNode, segmentId)
    if image is None:
        return None
    values = Segmentations.labelArray(image)
    label = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    counts = [int(np.count_nonzero(plane == label)) for plane in values]
    if not any(counts):
        return None
    k = int(np.argmax(counts))
    rows, columns = np.nonzero(values[k] == label)
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    extent = image.GetExtent()
    index = (columns[nearest] + extent[0], rows[nearest] + extent[2], k + extent[4])
    return _toWorld(segmentationNode, image, index)


def axialSliceNode():
    """Return the axial slice node; None where there is no slice view."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    return next((node for node in nodes if node.GetLayoutName() == AXIAL_SLICE), None)


def labelledOffsets(segmentationNode) -> list[float]:
    """Return the offsets of the axial slice view, ascending, at which a visible structure has voxels.

    The stored label maps are looked at plane by plane; where their planes are not parallel to the view's, the offsets
    are those of the planes' centers.
    """
    sliceNode = axialSliceNode()
    normal = np.array([sliceNode.GetSliceToRAS().GetElement(row, 2) for row in range(3)]) if sliceNode else (0, 0, 1)
    layers: dict[str, tuple] = {}
    for segmentId, segment in Segmentations.segments(segmentationNode):
        image = Segmentations.binaryLabelmap(segmentationNode, segmentId)
        if image is not None and isVisible(segmentationNode, segmentId):
            _image, labels = layers.setdefault(image.GetAddressAsString(""), (image, []))
            labels.append(segment.GetLabelValue())
    offsets = set()
    for image, labels in layers.values():
        values, extent = Segmentations.labelArray(image), image.GetExtent()
        axis = _axisAlong(image, normal)
        table = np.zeros(int(values.max(initial=0)) + 1, bool)
        table[[label for label in labels if label < len(table)]] = True
        planes = np.moveaxis(values, 2 - axis, 0)
        for number, plane in enumerate(planes):
            if plane.any() and table[plane].any():
                index = [(extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2, (extent[4] + extent[5]) / 2]
                index[axis] = extent[2 * axis] + number
                offsets.add(round(float(np.dot(_toWorld(segmentationNode, image, index), normal)), 3))
    return sorted(offsets)


def stepToLabelled(offsets: Sequence[float], forward: bool) -> float | None:
    """Bring the axial view to the next (previous) of the offsets; return it, None where there is none."""
    sliceNode = axialSliceNode()
    if sliceNode is None:
        return None
    now = sliceNode.GetSliceOffset()
    if forward:
        target = next((offset for offset in offsets if offset > now + SAME_SLICE_MM), None)
    else:
        target = next((offset for offset in reversed(offsets) if offset < now - SAME_SLICE_MM), None)
    if target is not None:
        sliceNode.SetSliceOffset(target)
    return target


def show3D(segmentationNode, shown: bool) -> None:
    """Show or hide the structures' surfaces in the 3D views; where there are none, Slicer makes them."""
    if not shown:
        segmentationNode.GetDisplayNode().SetVisibility3D(False)
        return
    if not hasSurfaces(segmentationNode):
        segmentationNode.CreateClosedSurfaceRepresentation()
    segmentationNode.GetDisplayNode().SetVisibility3D(True)
    if slicer.app.layoutManager() is not None:
        slicer.util.resetThreeDViews()


def hasSurfaces(segmentationNode) -> bool:
    """Whether the structures have surfaces."""
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    return segmentationNode.GetSegmentation().ContainsRepresentation(name)


def isShown3D(segmentationNode) -> bool:
    """Whether the structures' surfaces are shown."""
    display = segmentationNode.GetDisplayNode()
    return bool(display is not None and display.GetVisibility3D() and hasSurfaces(segmentationNode))


def _axisAlong(image, normal) -> int:
    """Return the index axis of an image that runs most along a direction."""
    columns = Segmentations.lattice(image).toRas[:3, :3].T.copy()
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    return int(np.argmax(np.abs(columns @ np.asarray(normal, float))))


def _toWorld(node, image, index: Sequence[float]) -> tuple[float, float, float]:
    point = (Segmentations.lattice(image).toRas @ np.array([*index, 1.0], float))[:3]
    transform = node.GetParentTransformNode()
    if transform is not None:
        toWorld = vtk.vtkGeneralTransform()
        transform.GetTransformToWorld(toWorld)
        point = toWorld.TransformPoint(point)
    return tuple(float(value) for value in point)
