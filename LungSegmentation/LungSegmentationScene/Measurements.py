"""Volumes, mean HU and checks of the structures of a segmentation, in short steps beside the window's event loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from LungSegmentationScene import Segmentations, Terminology
from LungSegmentationScene.VolumeFiles import Lattice, volumeLattice

logger = logging.getLogger("LungSegmentation")

STEP_S = 0.02
"""How long the measuring may hold the window at a time; a single plane or structure can take somewhat longer."""


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
        size = max(int(layer.values.max(initial=0)), *labels) + 1
        yield None
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


def _shape(layer: _Layer, planes: slice, label: int, cc: float) -> Generator[None, None, tuple[list[float], float]]:
    """Return the volumes of the pieces and the middle along R; yields between what takes a moment."""
    mask = layer.values[planes] == label
    yield
    rows, columns = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    mask = mask[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    extent = layer.lattice.extent
    middle = [
        extent[0] + (columns[0] + columns[-1]) / 2,
        extent[2] + (rows[0] + rows[-1]) / 2,
        extent[4] + (planes.start + planes.stop - 1) / 2,
    ]
    ras = layer.lattice.toRas @ np.array([*middle, 1.0])
    yield
    pieces = yield from _pieces(mask, cc)
    return pieces, float(ras[0])


def _pieces(mask: np.ndarray, cc: float) -> Generator[None, None, list[float]]:
    """Return the volumes of the pieces; what touches by faces on pixels twice as large is one piece."""
    k, j, i = mask.shape
    even = np.zeros((k, j + j % 2, i + i % 2), bool)
    even[:, :j, :i] = mask
    coarse = even[:, ::2, ::2] | even[:, 1::2, ::2] | even[:, ::2, 1::2] | even[:, 1::2, 1::2]
    image = vtk.vtkImageData()
    image.SetDimensions(*coarse.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(coarse.view(np.uint8).ravel(), deep=True))
    connectivity = vtk.vtkImageConnectivityFilter()
    connectivity.SetInputData(image)
    connectivity.SetScalarRange(1, 1)
    connectivity.SetExtractionModeToAllRegions()
    connectivity.SetLabelScalarTypeToInt()
    connectivity.Update()
    yield
    if connectivity.GetNumberOfExtractedRegions() < 2:
        return [cc * int(np.count_nonzero(mask))]
    regions = vtk_to_numpy(connectivity.GetOutput().GetPointData().GetScalars()).reshape(coarse.shape)
    places = np.nonzero(mask)
    yield
    counts = np.bincount(regions[places[0], places[1] // 2, places[2] // 2])
    return [cc * int(count) for count in sorted(counts, reverse=True) if count]


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
    """

    def __init__(self, onMeasure: Callable[[Measure], None], onDone: Callable[[list[Measure]], None]) -> None:
        self._onMeasure = onMeasure
        self._onDone = onDone
        self._steps: Iterator[Measure | None] | None = None
        self._measures: list[Measure] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._step)

    @property
    def isRunning(self) -> bool:
        """Whether there is something left to measure."""
        return self._steps is not None

    def start(self, segmentationNode, volumeNode, labelSet) -> None:
        """Begin anew; what was measured before counts no more."""
        self._measures = []
        self._steps = measure(segmentationNode, volumeNode, labelSet)
        self._timer.start()

    def stop(self) -> None:
        """Leave it."""
        self._timer.stop()
        self._steps = None

    def _step(self) -> None:
        until = time.monotonic() + STEP_S
        while self._steps is not None and time.monotonic() < until:
            try:
                done = next(self._steps)
            except StopIteration:
                self.stop()
                self._onDone(self._measures)
                return
            except Exception:  # a timer calls this: nobody above could take it, and the window has to go on
                self.stop()
                logger.exception("the structures could not be measured.")
                return
            if done is not None:
                self._measures.append(done)
                self._onMeasure(done)
