"""CT volumes in and out of the scene: raw files by the shortest way, windows, and where a volume came from.

Volumes made here have no storage node: what they were read from is a temporary file, so a scene that is saved has to
save them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.RawFiles import openRaw

FOLDER_ATTRIBUTE = "LungSegmentation.DicomFolder"
SERIES_ATTRIBUTE = "LungSegmentation.SeriesInstanceUID"
INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"
"""Slicer's own attribute of volumes that came from DICOM."""

GRAY = "vtkMRMLColorTableNodeGrey"
"""ID of the color table that Slicer gives every scalar volume."""

TRAINING_WINDOW = (-1000.0, 400.0)
"""HU that a network sees where a cohort says nothing else."""

WINDOWS = {"lung": (-1350.0, 150.0), "mediastinum": (-160.0, 240.0), "bone": (-400.0, 1100.0)}
"""Lowest and highest HU by name; ``training`` is that of the cohort."""


def matrixFromGeometry(geometry: dict) -> vtk.vtkMatrix4x4:
    """Return the matrix from indices to RAS of a grid as the library writes it (``spacing``, ``origin``, … in LPS)."""
    direction, spacing, origin = geometry["direction"], geometry["spacing"], geometry["origin"]
    matrix = vtk.vtkMatrix4x4()
    for row, sign in enumerate((-1.0, -1.0, 1.0)):
        for column in range(3):
            matrix.SetElement(row, column, sign * direction[3 * row + column] * spacing[column])
        matrix.SetElement(row, 3, sign * origin[row])
    return matrix


def readRawImage(path: Path, geometry: dict):
    """Read an uncompressed NRRD of int16 HU on a known grid as a VTK image; may be called in any thread.

    Raises
    ------
    SceneError
        If the file does not hold what it should.
    """
    file = openRaw(path)
    if file.type != "short" or file.layers != 1 or list(file.sizes) != list(geometry["size"]):
        raise SceneError(_("{file} is not the CT that was asked for.").format(file=path))
    return file.image()


def addRawVolume(image, geometry: dict, name: str):
    """Add a CT node with an image of HU, on a grid as the library writes it."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    node.SetIJKToRASMatrix(matrixFromGeometry(geometry))
    describeAsHounsfield(node)
    node = slicer.mrmlScene.AddNode(node)
    # Before the image comes: with its default display, a volume looks for a window in all its voxels first.
    display = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAndObserveColorNodeID(GRAY)
    node.SetAndObserveDisplayNodeID(display.GetID())
    showWindow(node, *WINDOWS["mediastinum"])
    node.SetAndObserveImageData(image)
    return node


def describeAsHounsfield(node) -> None:
    """Say what the voxels mean, as Slicer's DICOM reader does."""
    node.SetVoxelValueQuantity(_codedEntry("112031", "DCM", "Attenuation Coefficient"))
    node.SetVoxelValueUnits(_codedEntry("[hnsf'U]", "UCUM", "Hounsfield unit"))


def _codedEntry(value: str, scheme: str, meaning: str):
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning(value, scheme, meaning)
    return entry


def showWindow(node, low: float, high: float) -> None:
    """Show HU from ``low`` (black) to ``high`` (white)."""
    display = node.GetDisplayNode()
    if display is None:
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
    wasModifying = display.StartModify()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)
    display.EndModify(wasModifying)


def shownWindow(node) -> tuple[float, float]:
    """Return the lowest and highest HU that a volume is shown with."""
    display = node.GetDisplayNode() if node is not None else None
    if display is None:
        return WINDOWS["mediastinum"]
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def rememberSource(node, folder: str, seriesUid: str, instanceUids: Sequence[str | None]) -> None:
    """Note on a volume which DICOM files it was read from."""
    node.SetAttribute(FOLDER_ATTRIBUTE, folder)
    node.SetAttribute(SERIES_ATTRIBUTE, seriesUid)
    node.SetAttribute(INSTANCES_ATTRIBUTE, " ".join(uid for uid in instanceUids if uid))


def sourceFolder(node) -> Path | None:
    """Return the folder of the DICOM files that a volume was read from; None where that is not known or it is gone."""
    if node is None:
        return None
    noted = node.GetAttribute(FOLDER_ATTRIBUTE)
    if noted:
        return Path(noted) if Path(noted).is_dir() else None
    first = (node.GetAttribute(INSTANCES_ATTRIBUTE) or "").split(" ")[0]
    database = getattr(slicer, "dicomDatabase", None)
    if not first or database is None:
        return None
    file = database.fileForInstance(first)
    return Path(file).parent if file and Path(file).is_file() else None


def sourceSeries(node) -> str:
    """Return the Series Instance UID of a volume; empty where it is not known."""
    if node is None:
        return ""
    noted = node.GetAttribute(SERIES_ATTRIBUTE)
    if noted:
        return noted
    first = (node.GetAttribute(INSTANCES_ATTRIBUTE) or "").split(" ")[0]
    database = getattr(slicer, "dicomDatabase", None)
    file = database.fileForInstance(first) if first and database is not None else ""
    return str(database.seriesForFile(file)) if file else ""
