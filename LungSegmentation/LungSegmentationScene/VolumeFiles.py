"""Volumes and structures of the scene as files for a job: read in the window's thread, written beside it.

The files are plain NRRD, not compressed: a second process reads them as fast as a disk delivers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from LungSegmentationScene import Terminology
from LungSegmentationScene.Errors import SceneError

LABELMAP = "Binary labelmap"
SLAB_BYTES = 8_000_000
"""How much of a volume is copied in one step: some milliseconds."""

SAME_GRID_MM = 0.01
"""By how much corners of two grids may differ and still be taken for one: files round."""

_NRRD_TYPES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32",
               "i8": "int64", "u8": "uint64", "f4": "float", "f8": "double"}  # fmt: skip


@dataclass(frozen=True)
class Lattice:
    """Where voxels lie: index (i, j, k) to RAS mm as a 4×4 matrix, and the span of indices (i0, i1, j0, …, k1)."""

    toRas: np.ndarray
    extent: tuple[int, int, int, int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (z, y, x)."""
        i0, i1, j0, j1, k0, k1 = self.extent
        return (max(0, k1 - k0 + 1), max(0, j1 - j0 + 1), max(0, i1 - i0 + 1))

    def inFrameOf(self, other: Lattice) -> Lattice | None:
        """Return this lattice in the indices of another; None where their voxels do not coincide."""
        start = self.extent[0::2]
        corner = self.toRas @ np.array([*start, 1.0])
        index = (np.linalg.inv(other.toRas) @ corner)[:3]
        whole = np.round(index)
        mismatch = np.abs(other.toRas[:3, :3] @ (index - whole)).max()
        # A difference of the axes grows over the whole length.
        length = np.array(self.shape[::-1])
        drift = np.abs((self.toRas[:3, :3] - other.toRas[:3, :3]) * length).max()
        if max(mismatch, drift) > SAME_GRID_MM:
            return None
        first = [int(value) for value in whole]
        span = [value for one, size in zip(first, length, strict=True) for value in (one, one + int(size) - 1)]
        return Lattice(other.toRas, tuple(span))

    def joined(self, others: Sequence[Lattice]) -> Lattice:
        """Return the lattice that holds this one and others of the same frame."""
        extents = [one.extent for one in (self, *others) if all(one.shape)]
        if not extents:
            return self
        span = [
            (min if place % 2 == 0 else max)(extent[place] for extent in extents) for place in range(6)
        ]  # fmt: skip
        return Lattice(self.toRas, tuple(span))


@dataclass(frozen=True)
class VolumeData:
    """A volume's voxels (z, y, x), a copy, and where they lie."""

    name: str
    array: np.ndarray
    lattice: Lattice


@dataclass(frozen=True)
class Layer:
    """Label values (z, y, x), a copy, where they lie, and which structure bits each value stands for."""

    values: np.ndarray
    lattice: Lattice
    bits: dict[int, int]


@dataclass(frozen=True)
class StructuresData:
    """The structures of a segmentation or label map.

    Attributes
    ----------
    name
        Of the node.
    layers
        At least one.
    lattice
        All of its voxels, and the reference geometry where there is one.
    unknown
        Names of segments that are no structure of the label set; they are left out.
    keys
        Structures that have a segment, or, of a label map, voxels.
    named
        Whether ``keys`` says all that was looked for: an empty segment is told apart from none. A label map knows all
        structures.
    """

    name: str
    layers: list[Layer]
    lattice: Lattice
    unknown: list[str] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    named: bool = True

    def bitField(self, lattice: Lattice) -> np.ndarray:
        """Return uint8 (z, y, x) on a lattice of the same frame, bit ``label − 1`` for each structure."""
        bits = np.zeros(lattice.shape, np.uint8)
        for layer in self.layers:
            place = layer.lattice.inFrameOf(lattice)
            if place is None:
                raise SceneError(_("The voxels of “{name}” lie on several grids.").format(name=self.name))
            if not all(place.shape):
                continue
            table = np.zeros(max([0, *layer.bits, int(layer.values.max(initial=0))]) + 1, np.uint8)
            for value, structureBits in layer.bits.items():
                table[value] |= structureBits
            target, source = _overlap(lattice, place)
            bits[target] |= table[layer.values[source]]
        return bits


def _overlap(lattice: Lattice, place: Lattice) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices (z, y, x) of both that lie over each other."""
    target, source = [], []
    for axis in (2, 1, 0):
        low = max(lattice.extent[2 * axis], place.extent[2 * axis])
        high = min(lattice.extent[2 * axis + 1], place.extent[2 * axis + 1])
        target.append(slice(low - lattice.extent[2 * axis], max(low, high + 1) - lattice.extent[2 * axis]))
        source.append(slice(low - place.extent[2 * axis], max(low, high + 1) - place.extent[2 * axis]))
    return tuple(target), tuple(source)


def pasted(values: np.ndarray, place: Lattice, lattice: Lattice, kind) -> np.ndarray:
    """Return label values (z, y, x) on another lattice, 0 where there are none.

    Raises
    ------
    SceneError
        If the voxels do not coincide.
    """
    found = np.zeros(lattice.shape, kind)
    if all(place.shape):
        there = place.inFrameOf(lattice)
        if there is None:
            raise SceneError(_("The voxels lie on several grids."))
        target, source = _overlap(lattice, there)
        found[target] = values[source]
    return found


def volumeLattice(node) -> Lattice:
    """Return where the voxels of a volume node lie, without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    size = node.GetImageData().GetDimensions()
    return Lattice(_array(matrix), (0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1))


def readVolume(node) -> VolumeData:
    """Return the voxels of a scalar volume.

    Raises
    ------
    SceneError
        If it is empty, or no volume.
    """
    refuseNoVolume(node)
    return VolumeData(node.GetName(), np.array(slicer.util.arrayFromVolume(node)), volumeLattice(node))


def readVolumeInTurns(node) -> Generator[None, None, VolumeData]:
    """Return the same, copied a few slices at a time; yields in between.

    Raises
    ------
    SceneError
        As of :func:`readVolume`, or if the voxels were changed meanwhile.
    """
    refuseNoVolume(node)
    image = node.GetImageData()
    stamp = image.GetMTime()
    lattice = volumeLattice(node)
    shown = slicer.util.arrayFromVolume(node)
    copy = np.empty_like(shown)
    many = max(1, SLAB_BYTES // max(1, shown[0].nbytes))
    for first in range(0, len(copy), many):
        copy[first : first + many] = shown[first : first + many]
        yield
        if node.GetImageData() is not image or image.GetMTime() != stamp:
            raise SceneError(
                _("“{name}” was changed while it was read.").format(name=node.GetName()), _("Start again.")
            )
    return VolumeData(node.GetName(), copy, lattice)


def refuseNoVolume(node) -> None:
    """Raise a SceneError if a node is no volume, is empty, or lies under a transform."""
    if node is not None and not node.IsA("vtkMRMLScalarVolumeNode"):
        raise SceneError(_("“{name}” is no volume.").format(name=node.GetName()), _("Choose a CT."))
    if node is None or node.GetImageData() is None or 0 in node.GetImageData().GetDimensions():
        name = node.GetName() if node is not None else ""
        raise SceneError(_("“{name}” holds no image.").format(name=name), _("Choose another one."))
    refuseTransform(node)


def readStructures(node, labelSet) -> StructuresData:
    """Return the structures of a segmentation or label map node.

    Parameters
    ----------
    node
        ``vtkMRMLSegmentationNode`` or ``vtkMRMLLabelMapVolumeNode``. In a label map, values are labels of the set. A
        segment is the structure that its id, its code or its name says.
    labelSet
        Structures to look for.

    Raises
    ------
    SceneError
        If there is nothing in it that can be used.
    """
    refuseTransform(node)
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _fromLabelMap(node, labelSet)
    return _fromSegmentation(node, labelSet)


def refuseTransform(node) -> None:
    """Raise a SceneError if a node lies under a transform: its voxels are not where they seem."""
    if node.GetParentTransformNode() is not None:
        raise SceneError(
            _("“{name}” lies under a transform.").format(name=node.GetName()),
            _("Harden the transform in the Data module, or take the node out of it."),
        )


def _fromLabelMap(node, labelSet) -> StructuresData:
    volume = readVolume(node)
    values = volume.array
    highest = float(values.max(initial=0))
    if values.min(initial=0) < 0 or highest > len(labelSet) or not np.issubdtype(values.dtype, np.integer):
        raise SceneError(
            _("“{name}” is no label map of “{set}”: its highest value is {value:g}.").format(
                name=node.GetName(), set=labelSet.title, value=highest
            ),
            _("Choose another one, or a segmentation whose segments have the names of the structures."),
        )
    bits = {structure.label: 1 << (structure.label - 1) for structure in labelSet.structures}
    # Image by image: counting makes 64-bit numbers of all voxels that it is given.
    found = sum(np.bincount(image.ravel(), minlength=len(labelSet) + 1) for image in values)
    keys = tuple(structure.key for structure in labelSet.structures if found[structure.label])
    return StructuresData(node.GetName(), [Layer(values, volume.lattice, bits)], volume.lattice, keys=keys, named=False)


def _fromSegmentation(node, labelSet) -> StructuresData:
    layers, unknown, keys = [], [], []
    for image, segments in segmentImages(node):
        bits: dict[int, int] = {}
        for identifier, segment in segments:
            key = Terminology.structureKey(identifier, segment, labelSet)
            if key is None:
                unknown.append(segment.GetName())
                continue
            keys.append(key)
            value = segment.GetLabelValue()
            bits[value] = bits.get(value, 0) | 1 << (labelSet[key].label - 1)
        if bits:
            layers.append(Layer(imageValues(image), imageLattice(image), bits))
    if not layers:
        raise SceneError(
            _("“{name}” has no segment that is one of the known structures.").format(name=node.GetName()),
            _("Its segments need names or codes such as “{example}”.").format(example=labelSet.structures[0].name),
        )
    lattice = commonLattice(node, [layer.lattice for layer in layers])
    order = [key for key in labelSet.keys if key in keys]
    return StructuresData(node.GetName(), layers, lattice, unknown, tuple(order))


def segmentImages(node) -> list[tuple]:
    """Return the label maps that a segmentation keeps, each with the ids and segments that share it.

    Raises
    ------
    SceneError
        If it has no segments, keeps no voxels, or lies under a transform.
    """
    refuseTransform(node)
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        raise SceneError(_("“{name}” has no segments.").format(name=node.GetName()), _("Choose another one."))
    if not segmentation.ContainsRepresentation(LABELMAP):
        raise SceneError(
            _("“{name}” holds contours or surfaces, no voxels.").format(name=node.GetName()),
            _("Load it by the Import panel, or create its binary labelmap in the module Segmentations."),
        )
    images: dict[str, tuple] = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        image = segment.GetRepresentation(LABELMAP)
        kept = images.setdefault(image.GetAddressAsString(""), (image, []))
        kept[1].append((segmentation.GetNthSegmentID(index), segment))
    return list(images.values())


def commonLattice(node, lattices: Sequence[Lattice]) -> Lattice:
    """Return the lattice that holds all layers of a segmentation and its reference geometry.

    Raises
    ------
    SceneError
        If their voxels do not coincide.
    """
    whole = [lattice for lattice in lattices if all(lattice.shape)]
    for frame in (_referenceLattice(node), *whole[:1], *lattices[:1]):
        if frame is None:
            continue
        places = [lattice.inFrameOf(frame) for lattice in whole]
        if None not in places:
            return frame.joined(places)
    raise SceneError(
        _("The segments of “{name}” lie on different grids.").format(name=node.GetName()),
        _("Give all of them the CT's geometry in the module Segment Editor."),
    )


def _referenceLattice(node) -> Lattice | None:
    text = node.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    if not text:
        return None
    image = slicer.vtkOrientedImageData()
    if not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        return None
    return imageLattice(image)


def imageLattice(image) -> Lattice:
    """Return where the voxels of an oriented image lie."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return Lattice(_array(matrix), tuple(image.GetExtent()))


def imageValues(image) -> np.ndarray:
    """Return the voxels (z, y, x) of an oriented image, a copy."""
    size = image.GetDimensions()
    scalars = image.GetPointData().GetScalars()
    if scalars is None or 0 in size:
        return np.zeros((0, 0, 0), np.uint8)
    return np.array(numpy_support.vtk_to_numpy(scalars)).reshape(size[::-1])


def _array(matrix) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def writeNrrd(
    path: Path, layers: Sequence[np.ndarray], lattice: Lattice, texts: Mapping[str, str] | None = None
) -> None:
    """Write voxels (z, y, x) as an uncompressed NRRD in LPS; for files that only a job of this window reads.

    Parameters
    ----------
    path
        The file.
    layers
        Arrays of one type and shape; several become the components of a voxel.
    lattice
        Where they lie.
    texts
        Further keys and values of the header.

    Raises
    ------
    SceneError
        If the file cannot be written.
    """
    first = layers[0]
    toLps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lattice.toRas
    start = toLps @ np.array([*lattice.extent[0::2], 1.0])
    several = len(layers) > 1
    lines = [
        "NRRD0004",
        f"type: {_NRRD_TYPES[first.dtype.str[1:]]}",
        f"dimension: {4 if several else 3}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, [*([len(layers)] if several else []), *first.shape[::-1]])),
        "space directions: " + " ".join([*(["none"] if several else []), *(_vector(toLps[:3, i]) for i in range(3))]),
        "kinds: " + ("list " if several else "") + "domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: {_vector(start[:3])}",
        *(f"{key}:={' '.join(value.split())}" for key, value in (texts or {}).items()),
    ]
    little = first.dtype.newbyteorder("<")
    try:
        with path.open("wb") as stream:
            stream.write(("\n".join(lines) + "\n\n").encode())
            for index in range(len(first)):
                image = np.stack([layer[index] for layer in layers], axis=-1) if several else first[index]
                stream.write(np.ascontiguousarray(image, dtype=little).data)
    except OSError as error:
        raise SceneError(
            _("{path} cannot be written: {reason}.").format(path=path, reason=error.strerror),
            _("Free some space on the disk of the temporary folder."),
        ) from error


def _vector(values: Sequence[float]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
