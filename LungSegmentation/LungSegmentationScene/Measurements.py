"""Volumes, mean HU and checks of the structures of a segmentation, plane by plane between the window's events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from LungSegmentationScene import Segmentations, Terminology
from LungSegmentationScene.Background import InTurns
from LungSegmentationScene.VolumeFiles import Lattice, volumeLattice


@dataclass
class Measure:
    """What is known of one structure.

    Attributes
    ----------
    voxels, volumeCc
        As stored.
    meanHu
        None where there is no CT or it has another grid.
    middleR
        Middle along the patient's right, RAS, mm; None where there is no voxel.
    piecesCc
        Volumes of the parts that do not touch, largest first; gaps of one pixel in plane do not part.
    """

    segmentId: str
    name: str
    structure: str | None
    voxels: int = 0
    volumeCc: float = 0.0
    meanHu: float | None = None
    middleR: float | None = None
    piecesCc: list[float] = field(default_factory=list)


@dataclass
class _Layer:
    """A stored label map and the segments that it holds."""

    values: np.ndarray
    lattice: Lattice
    segments: list[tuple[str, object]]


def measure(segmentationNode, volumeNode, labelSet) -> Iterator[Measure | None]:
    """Measure all structures; yields each when it is done, and None often in between."""
    layers, empty = _layers(segmentationNode)
    for segmentId, segment in empty:
        yield Measure(segmentId, segment.GetName(), Terminology.structureKey(segmentId, segment, labelSet))
    array = volumeArray(volumeNode)
    for layer in layers:
        place = layer.lattice.inFrameOf(volumeLattice(volumeNode)) if array is not None else None
        labels = [segment.GetLabelValue() for _id, segment in layer.segments]
        highest = 0
        for plane in layer.values:
            highest = max(highest, int(plane.max()))
            yield None
        size = max(highest, *labels) + 1
        counts = np.zeros((len(layer.values), size), np.int64)
        sums, seen = np.zeros(size), np.zeros(size, np.int64)
        for number, plane in enumerate(layer.values):
            if plane.any():
                counts[number] = np.bincount(plane.ravel(), minlength=size)
                if place is not None:
                    _addHu(sums, seen, plane, array, place, number)
            yield None
        for segmentId, segment in layer.segments:
            label = segment.GetLabelValue()
            done = Measure(segmentId, segment.GetName(), Terminology.structureKey(segmentId, segment, labelSet))
            planes = np.flatnonzero(counts[:, label])
            done.voxels = int(counts[:, label].sum())
            cc = abs(float(np.linalg.det(layer.lattice.toRas[:3, :3]))) / 1000.0
            done.volumeCc = done.voxels * cc
            if seen[label]:
                done.meanHu = float(sums[label] / seen[label])
            if len(planes):
                span = slice(int(planes[0]), int(planes[-1]) + 1)
                done.piecesCc, done.middleR = yield from _shape(layer, span, label, cc)
            yield done


def _layers(node) -> tuple[list[_Layer], list[tuple[str, object]]]:
    layers: dict[str, _Layer] = {}
    empty = []
    for segmentId, segment in Segmentations.segments(node):
        image = Segmentations.binaryLabelmap(node, segmentId)
        if image is None:
            empty.append((segmentId, segment))
            continue
        key = image.GetAddressAsString("")
        if key not in layers:
            layers[key] = _Layer(Segmentations.labelArray(image), Segmentations.lattice(image), [])
        layers[key].segments.append((segmentId, segment))
    return list(layers.values()), empty


def volumeArray(volumeNode) -> np.ndarray | None:
    """Return the voxels of a scalar volume (k, j, i) without copying; None where there is none."""
    if volumeNode is None or volumeNode.GetImageData() is None:
        return None
    return slicer.util.arrayFromVolume(volumeNode)


def _addHu(sums, seen, plane, array, place: Lattice, number: int) -> None:
    """Add the HU of one plane to the sums by label, where it lies on the CT."""
    i0, i1, j0, j1, k0, _k1 = place.extent
    k = k0 + number
    if not 0 <= k < array.shape[0]:
        return
    j, i = slice(max(0, j0), min(array.shape[1], j1 + 1)), slice(max(0, i0), min(array.shape[2], i1 + 1))
    if j.start >= j.stop or i.start >= i.stop:
        return
    labels = plane[j.start - j0 : j.stop - j0, i.start - i0 : i.stop - i0].ravel()
    held = np.flatnonzero(labels)
    labels = labels[held]
    sums += np.bincount(labels, weights=array[k, j, i].ravel()[held], minlength=len(sums))
    seen += np.bincount(labels, minlength=len(seen))


def _shape(layer: _Layer, span: slice, label: int, cc: float) -> Generator[None, None, tuple[list[float], float]]:
    """Return the volumes of the pieces and the middle along R; yields after each plane."""
    pieces = _Pieces()
    rows, columns = [], []
    for plane in layer.values[span]:
        mask = plane == label
        held = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(held[0]):
            # Whole pairs of pixels, the same pairs on each plane.
            bounds = [(int(places[0]) // 2 * 2, int(places[-1]) // 2 * 2 + 2) for places in held]
            rows += [int(held[0][0]), int(held[0][-1])]
            columns += [int(held[1][0]), int(held[1][-1])]
            pieces.add(mask[slice(*bounds[0]), slice(*bounds[1])], bounds[0][0] // 2, bounds[1][0] // 2)
        else:
            pieces.endPlane()
        yield
    extent = layer.lattice.extent
    middle = [
        extent[0] + (min(columns) + max(columns)) / 2,
        extent[2] + (min(rows) + max(rows)) / 2,
        extent[4] + (span.start + span.stop - 1) / 2,
    ]
    ras = layer.lattice.toRas @ np.array([*middle, 1.0])
    return [cc * count for count in pieces.counts()], float(ras[0])


class _Pieces:
    """Counts the voxels of what touches by faces on pixels twice as large, one plane after the other."""

    def __init__(self) -> None:
        self._parents = [0]
        self._counts = [0]
        self._below: tuple[np.ndarray, int, int] | None = None

    def add(self, mask: np.ndarray, row: int, column: int) -> None:
        """Take the next plane's part that holds something; row and column are those of its first large pixel."""
        even = np.zeros([size + size % 2 for size in mask.shape], bool)
        even[: mask.shape[0], : mask.shape[1]] = mask
        regions = _regions(even[::2, ::2] | even[1::2, ::2] | even[::2, 1::2] | even[1::2, 1::2])
        first = len(self._parents) - 1
        voxels = np.nonzero(mask)
        counts = np.bincount(regions[voxels[0] // 2, voxels[1] // 2], minlength=int(regions.max()) + 1)[1:]
        self._parents += range(first + 1, first + 1 + len(counts))
        self._counts += [int(count) for count in counts]
        regions[regions > 0] += first
        if self._below is not None:
            self._join(regions, row, column, *self._below)
        self._below = regions, row, column

    def endPlane(self) -> None:
        """Nothing lies on this plane."""
        self._below = None

    def counts(self) -> list[int]:
        """Return the number of voxels of each piece, the largest first."""
        sums: dict[int, int] = {}
        for region, count in enumerate(self._counts):
            root = self._root(region)
            sums[root] = sums.get(root, 0) + count
        return sorted((count for count in sums.values() if count), reverse=True)

    def _join(self, one: np.ndarray, row: int, column: int, other: np.ndarray, otherRow: int, otherColumn: int) -> None:
        top, left = max(row, otherRow), max(column, otherColumn)
        bottom = min(row + one.shape[0], otherRow + other.shape[0])
        right = min(column + one.shape[1], otherColumn + other.shape[1])
        if top >= bottom or left >= right:
            return
        mine = one[top - row : bottom - row, left - column : right - column]
        theirs = other[top - otherRow : bottom - otherRow, left - otherColumn : right - otherColumn]
        both = (mine > 0) & (theirs > 0)
        for pair in np.unique(np.stack([mine[both], theirs[both]]), axis=1).T:
            roots = [self._root(int(region)) for region in pair]
            self._parents[max(roots)] = min(roots)

    def _root(self, region: int) -> int:
        while self._parents[region] != region:
            region = self._parents[region]
        return region


def _regions(plane: np.ndarray) -> np.ndarray:
    """Return the number (from 1) of the part that each pixel of a plane belongs to; parts touch by sides."""
    image = vtk.vtkImageData()
    image.SetDimensions(plane.shape[1], plane.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(plane.view(np.uint8).ravel(), deep=True))
    connectivity = vtk.vtkImageConnectivityFilter()
    connectivity.SetInputData(image)
    connectivity.SetScalarRange(1, 1)
    connectivity.SetExtractionModeToAllRegions()
    connectivity.SetLabelScalarTypeToInt()
    connectivity.Update()
    return vtk_to_numpy(connectivity.GetOutput().GetPointData().GetScalars()).reshape(plane.shape).copy()


def checks(measures: list[Measure], labelSet) -> list[str]:
    """Return what a person should look at, in sentences."""
    found = [_("“{name}” is empty.").format(name=one.name) for one in measures if one.voxels == 0]
    for one in measures:
        if len(one.piecesCc) > 1:
            rest = ", ".join(_cc(volume) for volume in one.piecesCc[1:4])
            more = _(" and more") if len(one.piecesCc) > 4 else ""
            found.append(
                _("“{name}” is in {count} pieces: besides the largest one {rest}{more}.").format(
                    name=one.name, count=len(one.piecesCc), rest=rest, more=more
                )
            )
    found += _sides(measures, labelSet)
    return found


def _sides(measures: list[Measure], labelSet) -> list[str]:
    placed = {one.structure: one for one in measures if one.structure and one.middleR is not None}
    sentences = []
    for structure in labelSet.structures:
        partner = structure.mirror
        right = structure.modifier is not None and structure.modifier.meaning == "Right"
        if right and structure.key in placed and partner in placed:
            one, other = placed[structure.key], placed[partner]
            if one.middleR < other.middleR:
                sentences.append(
                    _("“{one}” lies to the patient's left of “{other}”: names or images are exchanged.").format(
                        one=one.name, other=other.name
                    )
                )
    return sentences


def _cc(volume: float) -> str:
    return _("{cc} cc").format(cc=f"{volume:.1f}" if volume >= 1 else f"{volume:.2f}")


class Measuring:
    """Runs :func:`measure` between the events of the window.

    Parameters
    ----------
    onMeasure
        Called with each structure as it is done.
    onDone
        Called with all of them at the end.
    onFault
        Called with what went wrong in place of that.
    """

    def __init__(
        self,
        onMeasure: Callable[[Measure], None],
        onDone: Callable[[list[Measure]], None],
        onFault: Callable[[Exception], None],
    ) -> None:
        self._onMeasure = onMeasure
        self._onDone = onDone
        self._onFault = onFault
        self._turns: InTurns | None = None

    @property
    def isRunning(self) -> bool:
        """Whether there is something left to measure."""
        return self._turns is not None and self._turns.isRunning

    def start(self, segmentationNode, volumeNode, labelSet) -> None:
        """Begin anew; what was measured before counts no more."""
        self.stop()
        measures: list[Measure] = []

        def steps() -> Generator[None, None, list[Measure]]:
            for done in measure(segmentationNode, volumeNode, labelSet):
                if done is not None:
                    measures.append(done)
                    self._onMeasure(done)
                yield
            return measures

        def ended(value: object, error: Exception | None) -> None:
            if error is not None:
                self._onFault(error)
            elif value is not None:
                self._onDone(measures)

        self._turns = InTurns(steps(), ended)

    def stop(self) -> None:
        """Leave it."""
        if self._turns is not None:
            self._turns.stop()
        self._turns = None
