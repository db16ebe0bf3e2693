"""``.seg.nrrd`` files that 3D Slicer opens as a segmentation with names, colors, terminology and reference geometry.

The keys are those of Slicer's developer guide, Segmentations, "Segmentation labelmap file format".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from isal import igzip

from LungSegmentationLib.dicom.writers.content import DESCRIPTION, AlgorithmInfo, chosen_structures
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import Structure
from LungSegmentationLib.nrrd import nrrd_header, segment_fields, segmentation_fields
from LungSegmentationLib.storage import atomic_path
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.terminology import segment_tags

__all__ = [
    "assign_layers",
    "write_seg_nrrd",
]


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
    fields = segmentation_fields(grid, description, f"{algorithm.name} {algorithm.version}")
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
        raw.write(nrrd_header(grid, np.dtype(np.uint8), layers=count, encoding="gzip", fields=fields))
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
