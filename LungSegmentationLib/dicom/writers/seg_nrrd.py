"""``.seg.nrrd`` files that 3D Slicer opens as a segmentation with names, colors, terminology and reference geometry.

The keys are those of Slicer's developer guide, Segmentations, "Segmentation labelmap file format".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from LungSegmentationLib.dicom.writers.content import DESCRIPTION, AlgorithmInfo, chosen_structures
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import Structure
from LungSegmentationLib.storage import atomic_path
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.terminology import segment_tags

__all__ = [
    "assign_layers",
    "header",
    "segment_fields",
    "segmentation_fields",
    "write_seg_nrrd",
]

_REPRESENTATION = "Binary labelmap"


def write_seg_nrrd(
    structures: StructureMap,
    grid: Grid,
    path: Path,
    *,
    description: str = DESCRIPTION,
    algorithm: AlgorithmInfo | None = None,
    keys: Iterable[str] | None = None,
) -> Path:
    """Write the structures, each as it is, as segments on the whole grid.

    Structures that overlap lie on different layers; without overlaps there is one, and the file is a plain label map
    for readers that know nothing of segments. The value of a segment is its label on every layer. A structure
    without voxels becomes an empty segment.

    Parameters
    ----------
    structures, grid
        What and where; LPS, mm.
    path
        The file; written whole or not at all.
    description, algorithm
        Said in the header.
    keys
        Structures to write, default all.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    if structures.shape != grid.shape:
        raise ValueError(f"structures of shape {structures.shape} do not lie on a grid of shape {grid.shape}")
    chosen = chosen_structures(structures, keys)
    algorithm = algorithm or AlgorithmInfo()
    layers = assign_layers(structures, chosen)
    count = max(layers.values()) + 1
    tables = np.zeros((count, 256), np.uint8)
    bits = np.arange(256)
    for structure in chosen:
        tables[layers[structure.key], (bits >> (structure.label - 1)) & 1 == 1] = structure.label
    lookup = tables[0] if count == 1 else np.ascontiguousarray(tables.T)
    fields = segmentation_fields(grid, description, algorithm)
    for place, structure in enumerate(chosen):
        fields |= segment_fields(
            place,
            identifier=structure.key,
            name=structure.name,
            color=structure.color,
            tags=segment_tags(structure),
            label=structure.label,
            layer=layers[structure.key],
            size=grid.size,
        )
    with atomic_path(path) as partial, partial.open("wb") as raw:
        raw.write(header(grid, count, fields))
        # mtime=0: the same segmentation gives the same bytes.
        with igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as target:
            for image in structures.bits:
                target.write(lookup[image].tobytes())
    return path


def assign_layers(structures: StructureMap, chosen: Sequence[Structure]) -> dict[str, int]:
    """Return a layer for each structure, as few as a first fit finds, so that those of one layer do not overlap."""
    present = np.zeros(256, bool)
    for image in structures.bits:
        present |= np.bincount(image.ravel(), minlength=256) > 0
    values = np.flatnonzero(present)
    layers: dict[str, int] = {}
    taken: list[int] = []
    for structure in chosen:
        bit = 1 << (structure.label - 1)
        # Bits of what shares a voxel with it.
        company = int(np.bitwise_or.reduce(values[(values & bit) != 0], initial=0))
        layer = next((place for place, members in enumerate(taken) if not members & company), len(taken))
        if layer == len(taken):
            taken.append(0)
        taken[layer] |= bit
        layers[structure.key] = layer
    return layers


def segmentation_fields(
    grid: Grid, description: str, algorithm: AlgorithmInfo, *, offset: tuple[int, int, int] = (0, 0, 0)
) -> dict[str, str]:
    """Return what the header says of the segmentation as a whole.

    Parameters
    ----------
    grid
        Reference geometry: the whole grid, also where the file holds a part of it.
    offset
        Index (x, y, z) on ``grid`` of the first voxel in the file.
    """
    # Slicer's world is RAS; the extent is first and last index along each axis.
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    extent = [value for size in grid.size for value in (0, size - 1)]
    geometry = "".join(f"{value!r};" for value in (matrix + 0.0).ravel().tolist()) + "".join(
        f"{value};" for value in extent
    )
    return {
        "Segmentation_ContainedRepresentationNames": f"{_REPRESENTATION}|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{geometry}|Geometry of the labelmap&",
        # Slicer up to 5.2 knows the first name, later ones both.
        "Segmentation_MasterRepresentation": _REPRESENTATION,
        "Segmentation_SourceRepresentation": _REPRESENTATION,
        "Segmentation_ReferenceImageExtentOffset": " ".join(str(value) for value in offset),
        "LungSegmentation_Description": description,
        "LungSegmentation_Algorithm": f"{algorithm.name} {algorithm.version}",
    }


def segment_fields(
    place: int,
    *,
    identifier: str,
    name: str,
    color: tuple[int, int, int],
    tags: str,
    label: int,
    layer: int,
    size: tuple[int, int, int],
) -> dict[str, str]:
    """Return what the header says of the segment at a place of the list; ``size`` (x, y, z) is that of the file."""
    fields = {
        "ID": identifier,
        "Name": name,
        "NameAutoGenerated": "0",
        "Color": " ".join(f"{value / 255:.6g}" for value in color),
        "ColorAutoGenerated": "0",
        # Slicer cuts a whole layer to the extent of its first segment, so each has that of the layer.
        "Extent": " ".join(f"0 {count - 1}" for count in size),
        "LabelValue": str(label),
        "Layer": str(layer),
        "Tags": tags,
    }
    return {f"Segment{place}_{key}": value for key, value in fields.items()}


def header(grid: Grid, layers: int, fields: dict[str, str], encoding: str = "gzip") -> bytes:
    """Return the header of an NRRD file of uint8 voxels on a grid; with several layers these are the first axis."""
    columns = [_vector(column) for column in (grid.axes * np.asarray(grid.spacing)).T]
    sizes = [str(size) for size in grid.size]
    kinds = ["domain"] * 3
    if layers > 1:
        columns, sizes, kinds = ["none", *columns], [str(layers), *sizes], ["list", *kinds]
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(sizes)}",
        f"space directions: {' '.join(columns)}",
        f"kinds: {' '.join(kinds)}",
        f"encoding: {encoding}",
        f"space origin: {_vector(np.asarray(grid.origin))}",
        *(f"{key}:={_escaped(value)}" for key, value in fields.items()),
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(f'{value!r}' for value in (values + 0.0).tolist())})"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n")
