"""Segmentations in and out of the scene: result files, label maps and arrays, with reference geometry and names.

Segmentations made here have no storage node, as volumes (see ``Volumes``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from LungSegmentationScene import Hierarchy, Terminology
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.VolumeFiles import Lattice

LABELS_ATTRIBUTE = "LungSegmentation.LabelMap"
"""On a segmentation that shows a label map: the ID of that node."""


def loadSegmentation(path: Path, volumeNode=None, name: str = ""):
    """Make a segmentation node of a ``.seg.nrrd``.

    Parameters
    ----------
    path
        The file; not needed afterwards.
    volumeNode
        CT that it belongs to: gives the reference geometry and the place in the subject hierarchy.
    name
        Of the node; default the file's.

    Raises
    ------
    SceneError
        If the file cannot be read.
    """
    path = Path(path)
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name or path.name.split(".")[0]))
    node = slicer.mrmlScene.AddNode(node)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    if not path.is_file() or not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(node)
        raise SceneError(_("{file} cannot be read as a segmentation.").format(file=path))
    _attach(node, volumeNode)
    return node


def fromLabelMap(labelMapNode, labelSet=None, name: str = ""):
    """Make a segmentation node that shows a label map.

    Parameters
    ----------
    labelMapNode
        A label map volume.
    labelSet
        Names and colors by label value; default those of the node's color table.
    name
        Of the node; default that of the label map.

    Raises
    ------
    SceneError
        If it holds no image.
    """
    if labelMapNode.GetImageData() is None:
        raise SceneError(_("“{name}” holds no image.").format(name=labelMapNode.GetName()))
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name or labelMapNode.GetName()))
    node = slicer.mrmlScene.AddNode(node)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelMapNode, node)
    if labelSet is not None:
        segmentation = node.GetSegmentation()
        for segmentId in list(segmentation.GetSegmentIDs()):
            segment = segmentation.GetSegment(segmentId)
            if 1 <= segment.GetLabelValue() <= len(labelSet):
                Terminology.setStructure(segment, labelSet.by_label(segment.GetLabelValue()))
    _attach(node, labelMapNode)
    return node


def fromArray(labels, volumeNode, labelSet, name: str):
    """Make a segmentation node of a label array (z, y, x), uint8, on the grid of a volume."""
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(labels.shape))
    scalars = numpy_to_vtk(labels.astype("uint8", copy=False).ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    image.GetPointData().SetScalars(scalars)
    labelMap = slicer.vtkMRMLLabelMapVolumeNode()
    labelMap.SetName(f"{name} (labels)")
    labelMap.SetHideFromEditors(True)
    labelMap = slicer.mrmlScene.AddNode(labelMap)
    try:
        labelMap.CopyOrientation(volumeNode)
        labelMap.SetAndObserveImageData(image)
        node = fromLabelMap(labelMap, labelSet, name)
    finally:
        slicer.mrmlScene.RemoveNode(labelMap)
    _attach(node, volumeNode)
    return node


def _attach(node, volumeNode) -> None:
    node.CreateDefaultDisplayNodes()
    if volumeNode is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        Hierarchy.placeBeside(node, volumeNode)


def segments(node) -> list[tuple[str, object]]:
    """Return id and segment of all segments, in their order."""
    segmentation = node.GetSegmentation()
    return [(segmentId, segmentation.GetSegment(segmentId)) for segmentId in segmentation.GetSegmentIDs()]


def binaryLabelmap(node, segmentId: str):
    """Return the stored label map (``vtkOrientedImageData``) of a segment, shared with others of its layer.

    A segmentation of surfaces gets a label map first. None where it has no voxel.
    """
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not node.GetSegmentation().ContainsRepresentation(name) and not node.CreateBinaryLabelmapRepresentation():
        return None
    image = node.GetBinaryLabelmapInternalRepresentation(segmentId)
    return None if image is None or image.IsEmpty() else image


def labelArray(image):
    """Return the voxels of a stored label map, (k, j, i), without copying them."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def lattice(image) -> Lattice:
    """Return where the voxels of a stored label map lie."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    toRas = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    return Lattice(toRas, tuple(image.GetExtent()))
