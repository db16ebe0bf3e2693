"""One slice as a picture: the CT, the structures, and both over each other, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from LungSegmentationScene import Segmentations, Views, Volumes
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.VolumeFiles import Lattice, volumeLattice

HEIGHT = 512
GAP = 8
TEXT_SIZE = 15
LINE = 26


def savePicture(path: Path, volumeNode, segmentationNode, opacity: float, offset: float | None = None) -> None:
    """Write CT | structures | overlay of one axial slice as a PNG, as one looks at it: the patient's right is left.

    Parameters
    ----------
    path
        The file.
    volumeNode, segmentationNode
        The CT, shown in its window; its structures that are visible.
    opacity
        Of the structures in the overlay, 0 to 1.
    offset
        Position along S, RAS, mm; default the slice with most of the structures.

    Raises
    ------
    SceneError
        If the two do not lie on one grid, nothing is visible, or the file cannot be written.
    """
    view = _AxialView(volumeNode)
    layers = _visible(segmentationNode, view.lattice)
    k = view.sliceAt(offset) if offset is not None else None
    if k is None:
        k = _fullest(layers, view)
    low, high = Volumes.shownWindow(volumeNode)
    hu = view.plane(view.array, k).astype(np.float32)
    gray = (np.clip((hu - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    ct = np.repeat(gray[..., None], 3, axis=2)
    labels, overlay = np.zeros_like(ct), ct.astype(np.float32)
    legend = []
    for name, color, mask in layers:
        shown = view.plane(mask, k)
        if shown.any():
            legend.append((name, color))
            labels[shown] = color
            overlay[shown] = (1 - opacity) * overlay[shown] + opacity * np.array(color, np.float32)
    order = [segment.GetName() for _id, segment in Segmentations.segments(segmentationNode)]
    legend.sort(key=lambda entry: order.index(entry[0]))
    images = [view.scaled(image) for image in (ct, labels, overlay.astype(np.uint8))]
    titles = (
        _("{name}, slice {number}").format(name=volumeNode.GetName(), number=k + 1),
        segmentationNode.GetName(),
        _("Overlay"),
    )
    _write(_joined(images, titles, legend), Path(path))


class _AxialView:
    """How to look at a volume from the feet, the patient's front up."""

    def __init__(self, volumeNode) -> None:
        if volumeNode is None or volumeNode.GetImageData() is None:
            raise SceneError(_("There is no CT to make a picture of."), _("Choose one."))
        self.array = slicer.util.arrayFromVolume(volumeNode)
        self.lattice = volumeLattice(volumeNode)
        columns = self.lattice.toRas[:3, :3]
        self.spacing = np.linalg.norm(columns, axis=0)
        unit = columns / self.spacing
        # Index axis (0: i, 1: j, 2: k) that runs most along R, A and S, none taken twice.
        order = max(
            ((r, a, s) for r in range(3) for a in range(3) for s in range(3) if {r, a, s} == {0, 1, 2}),
            key=lambda axes: sum(abs(unit[row, axis]) for row, axis in enumerate(axes)),
        )
        self.r, self.a, self.s = order
        self.flipRows = unit[1, self.a] > 0
        self.flipColumns = unit[0, self.r] > 0

    def sliceAt(self, offset: float) -> int | None:
        """Return the slice at a position along S through the middle of the volume; None outside of it."""
        shape = self.lattice.shape[::-1]
        middle = [(size - 1) / 2 for size in shape]
        start = self.lattice.toRas @ np.array([*middle, 1.0])
        k = round(middle[self.s] + (offset - start[2]) / self.lattice.toRas[2, self.s])
        return k if 0 <= k < shape[self.s] else None

    def plane(self, array: np.ndarray, k: int) -> np.ndarray:
        """Return one slice of an array (k, j, i), rows from front to back, columns from right to left."""
        turned = np.moveaxis(array, (2 - self.s, 2 - self.a, 2 - self.r), (0, 1, 2))[k]
        turned = turned[::-1] if self.flipRows else turned
        return turned[:, ::-1] if self.flipColumns else turned

    def counts(self, mask: np.ndarray) -> np.ndarray:
        """Return the number of voxels on each slice."""
        return mask.sum(axis=tuple(axis for axis in range(3) if axis != 2 - self.s))

    def scaled(self, image: np.ndarray) -> np.ndarray:
        """Return an image of the common height with square pixels."""
        rows, columns = image.shape[0], image.shape[1]
        width = round(HEIGHT * columns * self.spacing[self.r] / (rows * self.spacing[self.a]))
        y = np.minimum((np.arange(HEIGHT) * rows) // HEIGHT, rows - 1)
        x = np.minimum((np.arange(width) * columns) // max(width, 1), columns - 1)
        return image[y][:, x]


def _visible(node, grid: Lattice) -> list[tuple[str, tuple[int, int, int], np.ndarray]]:
    """Return name, color and mask on the CT's grid of each visible structure."""
    found = []
    for segmentId, segment in Segmentations.segments(node):
        image = Segmentations.binaryLabelmap(node, segmentId)
        if image is None or not Views.isVisible(node, segmentId):
            continue
        place = Segmentations.lattice(image).inFrameOf(grid)
        if place is None:
            raise SceneError(
                _("“{name}” lies on another grid than the CT.").format(name=node.GetName()),
                _("Resample it in the Segment Editor, or choose the CT that it was made of."),
            )
        mask = np.zeros(grid.shape, bool)
        inside, source = [], []
        for axis in (2, 1, 0):
            low, high = max(0, place.extent[2 * axis]), min(grid.extent[2 * axis + 1], place.extent[2 * axis + 1])
            inside.append(slice(low, max(low, high + 1)))
            source.append(slice(low - place.extent[2 * axis], max(low, high + 1) - place.extent[2 * axis]))
        mask[tuple(inside)] = Segmentations.labelArray(image)[tuple(source)] == segment.GetLabelValue()
        color = tuple(round(255 * value) for value in segment.GetColor())
        found.append((segment.GetName(), color, mask))
    if not any(mask.any() for _name, _color, mask in found):
        raise SceneError(_("No structure is visible."), _("Show one in the table."))
    # Small ones last, so that they are not covered.
    return sorted(found, key=lambda entry: -int(entry[2].sum()))


def _fullest(layers: Sequence, view: _AxialView) -> int:
    """Return the slice where structures, each measured by its own largest extent, are seen most."""
    total = 0.0
    for _name, _color, mask in layers:
        counts = view.counts(mask)
        total = total + counts / max(1, counts.max())
    return int(np.argmax(total))


def _joined(images: Sequence[np.ndarray], titles: Sequence[str], legend: Sequence) -> np.ndarray:
    """Return the images side by side, titles above, the legend below."""
    width = sum(image.shape[1] for image in images) + GAP * (len(images) - 1)
    entries = [(color, _text(name)) for name, color in legend]
    rows = _rows(entries, width)
    canvas = np.full((LINE + HEIGHT + LINE * len(rows), width, 3), 16, np.uint8)
    x = 0
    for image, title in zip(images, titles, strict=True):
        canvas[LINE : LINE + HEIGHT, x : x + image.shape[1]] = image
        _place(canvas[:LINE, : x + image.shape[1]], _text(title), x + 4)
        x += image.shape[1] + GAP
    for number, row in enumerate(rows):
        strip = canvas[LINE + HEIGHT + number * LINE : LINE + HEIGHT + (number + 1) * LINE]
        x = 4
        for color, text in row:
            strip[6:20, x : x + 14] = color
            _place(strip, text, x + 20)
            x += 20 + text.shape[1] + 18
    return canvas


def _rows(entries: Sequence, width: int) -> list[list]:
    rows: list[list] = [[]]
    x = 4
    for entry in entries:
        needed = 20 + entry[1].shape[1] + 18
        if x + needed > width and rows[-1]:
            rows.append([])
            x = 4
        rows[-1].append(entry)
        x += needed
    return rows


def _text(text: str) -> np.ndarray:
    """Return a line of text as gray values, rows from the top."""
    style = vtk.vtkTextProperty()
    style.SetFontSize(TEXT_SIZE)
    style.SetColor(1, 1, 1)
    image = vtk.vtkImageData()
    if not text or not vtk.vtkTextRenderer.GetInstance().RenderString(style, text, image, [0, 0], 96):
        return np.zeros((LINE, 1), np.uint8)
    size = image.GetDimensions()
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[1], size[0], -1)
    drawn = (values[..., 0].astype(np.uint16) * values[..., -1] // 255).astype(np.uint8)[::-1]
    held = np.flatnonzero(drawn.any(axis=1))
    wide = np.flatnonzero(drawn.any(axis=0))
    return drawn[held[0] : held[-1] + 1, : wide[-1] + 1] if len(held) else np.zeros((LINE, 1), np.uint8)


def _place(strip: np.ndarray, text: np.ndarray, x: int) -> None:
    """Draw a line of text into a strip, in its middle, cut where it ends."""
    height, width = min(strip.shape[0], text.shape[0]), max(0, min(strip.shape[1] - x, text.shape[1]))
    y = (strip.shape[0] - height) // 2
    part = strip[y : y + height, x : x + width]
    part[...] = np.maximum(part, text[:height, :width, None])


def _write(canvas: np.ndarray, path: Path) -> None:
    image = vtk.vtkImageData()
    image.SetDimensions(canvas.shape[1], canvas.shape[0], 1)
    flipped = np.ascontiguousarray(canvas[::-1]).reshape(-1, 3)
    image.GetPointData().SetScalars(numpy_to_vtk(flipped, deep=True))
    writer = vtk.vtkPNGWriter()
    writer.WriteToMemoryOn()
    writer.SetInputData(image)
    writer.Write()
    try:
        path.write_bytes(bytes(memoryview(vtk_to_numpy(writer.GetResult()))))
    except OSError as error:
        raise SceneError(
            _("{file} cannot be written: {why}.").format(file=path, why=error.strerror), _("Choose another folder.")
        ) from error
