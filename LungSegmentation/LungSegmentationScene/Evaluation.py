"""Two segmentations of the scene compared by a job: scores as a table node, files to keep, and where they differ.

Both sides are handed over on one grid, exactly as they are: nothing is resampled, as that would change what is
measured. A side in which no voxel belongs to two structures is a label map, any other is compared as drawn
(``Docs/evaluation.md``).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Hierarchy, Tables
from LungSegmentationScene.Background import removeFolder
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import FAILED, FINISHED, JobFailure, SceneJob
from LungSegmentationScene.VolumeFiles import (
    Lattice,
    StructuresData,
    readStructures,
    readVolume,
    volumeLattice,
    writeNrrd,
)

KEY = "Evaluation.evaluate"
REPORT_ATTRIBUTE = "LungSegmentation.Report"
"""On a table of scores: the report that was written with it."""

_temporary: list[Path] = []

SHARED, ONLY_FIRST, ONLY_SECOND = 1, 2, 3
DIFFERENCE_COLORS = {SHARED: (0.55, 0.75, 0.55), ONLY_FIRST: (0.90, 0.35, 0.05), ONLY_SECOND: (0.10, 0.45, 0.85)}
"""Orange and blue differ for people who do not tell red from green."""


@dataclass(frozen=True)
class Sides:
    """Both sides on one grid.

    Attributes
    ----------
    first, second
        Segmentation and reference.
    lattice
        Grid that holds all voxels of both.
    """

    first: StructuresData
    second: StructuresData
    lattice: Lattice

    @property
    def shared(self) -> tuple[str, ...]:
        """Keys of the structures that can be compared."""
        return tuple(key for key in self.second.keys if key in self.first.keys or not self.first.named)


class EvaluationJob(SceneJob):
    """Compares two nodes; when it is finished, :attr:`tableNode` holds the scores.

    Parameters
    ----------
    segmentationNode, referenceNode
        Segmentations or label maps.
    volumeNode
        CT for the pictures of the report; None for none. One on another grid is left out.
    out
        Folder for report and tables; default a temporary one that stays while Slicer is open.

    Raises
    ------
    SceneError
        If the nodes cannot be compared.
    """

    def __init__(self, segmentationNode, referenceNode, volumeNode=None, out: Path | None = None) -> None:
        from LungSegmentationLib.labels import load_label_set

        self.labelSet = load_label_set()
        sides = readSides(segmentationNode, referenceNode, self.labelSet)
        self.leftOut = leftOut(sides, self.labelSet)
        self.tableId = ""
        self.out = Path(out) if out else _temporaryFolder()
        self._names = (segmentationNode.GetName(), referenceNode.GetName())
        self._reference = referenceNode  # its ID may be another node's when the scene was closed meanwhile
        ct = None
        if volumeNode is not None and volumeNode.GetImageData() is not None:
            place = volumeLattice(volumeNode).inFrameOf(sides.lattice)
            if place is not None and place.joined([sides.lattice]).extent == place.extent:
                ct = readVolume(volumeNode)
                sides = Sides(sides.first, sides.second, place)
        case = _caseName(referenceNode.GetName())

        def prepare(folder: Path) -> None:
            for role, data in (("prediction", sides.first), ("reference", sides.second)):
                place = folder / role / case
                place.mkdir(parents=True)
                bits = data.bitField(sides.lattice)
                labels = _asLabels(bits, len(self.labelSet))
                name = "structures.nrrd" if labels is None else "labels.nrrd"
                writeNrrd(place / name, [bits if labels is None else labels], sides.lattice)
            if ct is not None:
                writeNrrd(folder / "ct.nrrd", [ct.array], sides.lattice)

        command = ["evaluate", "--prediction", "{folder}/prediction", "--reference", "{folder}/reference"]
        command += ["--out", str(self.out), "--3d", "none"]
        command += ["--annotated", ",".join(sides.second.keys)]
        if sides.first.named:
            command += ["--structures", ",".join(sides.first.keys)]
        if ct is not None:
            command += ["--ct", "{folder}/ct.nrrd"]
        title = _("Comparing {first} with {second}").format(first=self._names[0], second=self._names[1])
        super().__init__(command, key=KEY, title=title, prepare=prepare)

    @property
    def tableNode(self):
        """The table of scores; None until it is there."""
        return slicer.mrmlScene.GetNodeByID(self.tableId) if self.tableId else None

    @property
    def report(self) -> Path | None:
        """The report to read; None until it is there."""
        return self.result.paths.get("report")

    def _end(self, state: str) -> None:
        if state == FINISHED:
            try:
                self.tableId = self._takeOver().GetID()
            except SceneError as error:
                state, self.failure = FAILED, JobFailure(error.sentence, error.hint, "scene")
        if state != FINISHED and self.out in _temporary:
            _temporary.remove(self.out)
            removeFolder(self.out)
        super()._end(state)

    def _takeOver(self):
        name = _("Scores of {first} against {second}").format(first=self._names[0], second=self._names[1])
        table = Tables.scoreTable(self.result.paths["results"], self.labelSet, name)
        table.SetAttribute(REPORT_ATTRIBUTE, str(self.report))
        if Hierarchy.isInScene(self._reference):
            Hierarchy.placeBeside(table, self._reference)
        return table


def evaluate(segmentationNode, referenceNode, volumeNode=None, out: Path | str | None = None, wait: bool = True):
    """Compare two segmentations or label maps.

    Parameters
    ----------
    segmentationNode, referenceNode, volumeNode
        See :class:`EvaluationJob`.
    out
        Folder for report and tables; default a temporary one.
    wait
        Whether to wait, the window staying alive; else the job is returned at once.

    Returns
    -------
    vtkMRMLTableNode or EvaluationJob
        The scores, or the started job.

    Raises
    ------
    SceneError
        If the nodes cannot be compared.
    JobError
        If the job fails while it is waited for.
    """
    job = EvaluationJob(segmentationNode, referenceNode, volumeNode, Path(out) if out else None)
    job.start()
    if not wait:
        return job
    job.wait()
    return job.tableNode


def readSides(segmentationNode, referenceNode, labelSet) -> Sides:
    """Return both nodes' structures on one grid.

    Raises
    ------
    SceneError
        If a node holds nothing that can be compared, or their voxels do not coincide.
    """
    first, second = readStructures(segmentationNode, labelSet), readStructures(referenceNode, labelSet)
    place = first.lattice.inFrameOf(second.lattice)
    if place is None:
        raise SceneError(
            _("“{first}” and “{second}” lie on different grids.").format(first=first.name, second=second.name),
            _("Nothing is resampled here, as that would change the scores: give both the geometry of the same CT."),
        )
    sides = Sides(first, second, second.lattice.joined([place]))
    if not second.keys or not sides.shared:
        raise SceneError(
            _("“{first}” and “{second}” have no structure in common.").format(first=first.name, second=second.name),
            _("Their segments need the names or codes of the structures."),
        )
    return sides


def leftOut(sides: Sides, labelSet) -> list[str]:
    """Return sentences on what is not compared."""
    told = []
    for data, other, names in (
        (sides.first, sides.second, True),
        (sides.second, sides.first, sides.first.named),
    ):
        alone = [labelSet[key].name for key in data.keys if names and key not in other.keys]
        if alone:
            told.append(_("Only in “{name}”: {names}.").format(name=data.name, names=", ".join(alone)))
        if data.unknown:
            told.append(
                _("No known structures in “{name}”: {names}.").format(name=data.name, names=", ".join(data.unknown))
            )
    return told


def _asLabels(bits: np.ndarray, count: int) -> np.ndarray | None:
    """Return the label map of structure bits; None where a voxel belongs to two structures."""
    table = np.zeros(256, np.uint8)
    for label in range(1, count + 1):
        table[1 << (label - 1)] = label
    several = np.ones(256, bool)
    several[[0, *(1 << label for label in range(count))]] = False
    labels = np.empty_like(bits)
    for source, target in zip(bits, labels, strict=True):
        if several[source].any():
            return None
        np.take(table, source, out=target)
    return labels


def showDifference(segmentationNode, referenceNode, key: str = ""):
    """Make a segmentation of what only one side has and what both have.

    Parameters
    ----------
    segmentationNode, referenceNode
        Segmentations or label maps.
    key
        The structure; default all that both have, each voxel compared structure by structure.

    Returns
    -------
    vtkMRMLSegmentationNode
        Three segments: both, only the first, only the second.

    Raises
    ------
    SceneError
        If the nodes cannot be compared.
    """
    from LungSegmentationLib.labels import load_label_set

    labelSet = load_label_set()
    sides = readSides(segmentationNode, referenceNode, labelSet)
    keys = [key] if key else list(sides.shared)
    chosen = sum(1 << (labelSet[one].label - 1) for one in keys)
    what = labelSet[key].name if key else _("all structures")
    values = differenceValues(sides.first.bitField(sides.lattice), sides.second.bitField(sides.lattice), chosen)
    name = _("Difference of {first} and {second}: {what}").format(
        first=sides.first.name, second=sides.second.name, what=what
    )
    titles = {
        SHARED: _("Both"),
        ONLY_FIRST: _("Only {name}").format(name=sides.first.name),
        ONLY_SECOND: _("Only {name}").format(name=sides.second.name),
    }
    return _differenceNode(values, sides.lattice, name, titles, referenceNode)


def differenceValues(first: np.ndarray, second: np.ndarray, chosen: int) -> np.ndarray:
    """Return per voxel :data:`SHARED`, :data:`ONLY_FIRST`, :data:`ONLY_SECOND` or 0 of the chosen structure bits.

    Where the sides give a voxel to different structures, it is marked as what only the first side has.
    """
    values = np.zeros_like(first)
    mask = np.uint8(chosen)
    for one, two, result in zip(first, second, values, strict=True):
        a, b = one & mask, two & mask
        result[(a != 0) & (a == b)] = SHARED
        result[(b & ~a) != 0] = ONLY_SECOND
        result[(a & ~b) != 0] = ONLY_FIRST
    return values


def _differenceNode(values: np.ndarray, lattice: Lattice, name: str, titles: dict[int, str], referenceNode):
    import vtk

    scene = slicer.mrmlScene
    labelMap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", scene.GenerateUniqueName("difference"))
    try:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
        node.CreateDefaultDisplayNodes()
        # Importing takes long in proportion to the voxels, so only the box with the colors is imported.
        box = _box(values)
        _placeAt(labelMap, lattice, tuple(part.start for part in box))
        slicer.util.updateVolumeFromArray(labelMap, np.ascontiguousarray(values[box]))
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelMap, node)
        whole = vtk.vtkImageData()
        whole.SetDimensions(*reversed(values.shape))
        _placeAt(labelMap, lattice, (0, 0, 0))
        labelMap.SetAndObserveImageData(whole)
        node.SetReferenceImageGeometryParameterFromVolumeNode(labelMap)
    finally:
        scene.RemoveNode(labelMap)
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        segment.SetName(titles[segment.GetLabelValue()])
        segment.SetNameAutoGenerated(False)
        segment.SetColor(*DIFFERENCE_COLORS[segment.GetLabelValue()])
        segment.SetColorAutoGenerated(False)
    Hierarchy.placeBeside(node, referenceNode)
    return node


def _box(values: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box (z, y, x) around all that is not 0; the first voxel where all is."""
    images = values.any(axis=(1, 2))
    if not images.any():
        return slice(0, 1), slice(0, 1), slice(0, 1)
    low, high = _span(images)
    flat = values[low:high].any(axis=0)
    return slice(low, high), slice(*_span(flat.any(axis=1))), slice(*_span(flat.any(axis=0)))


def _span(found: np.ndarray) -> tuple[int, int]:
    places = np.flatnonzero(found)
    return int(places[0]), int(places[-1]) + 1


def _placeAt(volumeNode, lattice: Lattice, first: tuple[int, int, int]) -> None:
    """Put the first voxel of a volume on the voxel (z, y, x) of a lattice, counted from its beginning."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    column, row, image = (low + more for low, more in zip(lattice.extent[0::2], reversed(first), strict=True))
    start = lattice.toRas @ np.array([column, row, image, 1.0])
    for place in range(3):
        for other in range(3):
            matrix.SetElement(place, other, float(lattice.toRas[place, other]))
        matrix.SetElement(place, 3, float(start[place]))
    volumeNode.SetIJKToRASMatrix(matrix)


def _temporaryFolder() -> Path:
    """Return a new folder for a report, which is removed when the application ends: it holds a patient's pictures."""
    if not _temporary:
        slicer.app.connect("aboutToQuit()", removeTemporary)
    folder = Path(tempfile.mkdtemp(prefix="LungSegmentation-report-", dir=slicer.app.temporaryPath))
    _temporary.append(folder)
    return folder


def removeTemporary() -> None:
    """Remove the reports that nobody wanted to keep."""
    while _temporary:
        shutil.rmtree(_temporary.pop(), ignore_errors=True)


def _caseName(text: str) -> str:
    from LungSegmentationLib.storage import safe_name

    return safe_name(text)
