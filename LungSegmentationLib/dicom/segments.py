"""Masks as segments of a ``.seg.nrrd``, one an ROI, overlaps kept; cropped and not compressed, so it loads fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib import __version__
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.nrrd import nrrd_header, segment_fields, segmentation_fields
from LungSegmentationLib.storage import atomic_path

__all__ = ["Segment", "layers_of", "write_segments"]

MOST_IN_LAYER = 255

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Segment:
    """What Slicer shows as one segment.

    Attributes
    ----------
    identifier
        Unique in a file.
    name
        For people.
    color
        Red, green, blue, 0–255.
    tags
        Terminology and others, as :func:`~LungSegmentationLib.terminology.segment_tags` gives them; may be empty.
    box
        Part of the grid (z, y, x) that holds it; empty slices if it has no voxel.
    voxels
        bool, of the box's shape.
    """

    identifier: str
    name: str
    color: tuple[int, int, int]
    tags: str
    box: Box
    voxels: NDArray[np.bool_]

    @property
    def is_empty(self) -> bool:
        """Whether it holds no voxel."""
        return not self.voxels.any()


def write_segments(segments: Sequence[Segment], grid: Grid, path: Path, *, description: str) -> Path:
    """Write segments that may overlap, each as it is.

    The file holds a box around all of them; the whole grid is the reference geometry. It is not compressed:
    it is made to be handed over, not to be kept.

    Parameters
    ----------
    segments, grid
        What and where; LPS, mm.
    path
        The file; written whole or not at all.
    description
        Said in the header.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    around = _around([segment.box for segment in segments if not segment.is_empty], grid.shape)
    start = (around[2].start, around[1].start, around[0].start)
    size = tuple(span.stop - span.start for span in reversed(around))
    part = Grid(size, grid.spacing, tuple(grid.to_physical([start])[0].tolist()), grid.direction)
    places = layers_of(segments)
    count = 1 + max((layer for layer, _ in places), default=0)
    array = np.zeros((*part.shape, count), np.uint8)
    fields = segmentation_fields(grid, description, f"LungSegmentation {__version__}", offset=start)
    for place, (segment, (layer, label)) in enumerate(zip(segments, places, strict=True)):
        if not segment.is_empty:
            z, y, x = (
                slice(span.start - outer.start, span.stop - outer.start)
                for span, outer in zip(segment.box, around, strict=True)
            )
            array[z, y, x, layer][segment.voxels] = label
        fields |= segment_fields(
            place,
            identifier=segment.identifier,
            name=segment.name,
            color=segment.color,
            tags=segment.tags,
            label=label,
            layer=layer,
            size=part.size,
        )
    with atomic_path(path) as partial, partial.open("wb") as raw:
        raw.write(nrrd_header(part, array.dtype, layers=count, fields=fields))
        raw.write(array.data)
    return path


def layers_of(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Return layer and label value of each segment, so that those of one layer do not overlap; first fit."""
    places: list[tuple[int, int]] = []
    layers: list[list[Segment]] = []
    for segment in segments:
        free = (
            number
            for number, members in enumerate(layers)
            if len(members) < MOST_IN_LAYER and not any(_overlap(segment, other) for other in members)
        )
        layer = next(free, len(layers))
        if layer == len(layers):
            layers.append([])
        layers[layer].append(segment)
        places.append((layer, len(layers[layer])))
    return places


def _overlap(one: Segment, other: Segment) -> bool:
    common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one.box, other.box, strict=True)]
    if any(span.start >= span.stop for span in common):
        return False
    return bool((_part(one, common) & _part(other, common)).any())


def _part(segment: Segment, box: Sequence[slice]) -> NDArray[np.bool_]:
    return segment.voxels[
        tuple(slice(span.start - own.start, span.stop - own.start) for span, own in zip(box, segment.box, strict=True))
    ]


def _around(boxes: Sequence[Box], shape: tuple[int, int, int]) -> Box:
    """Return the smallest box around others and one voxel more on each side, as far as the grid reaches."""
    # One voxel more, as Slicer's reader ends the whole application at a file of a single voxel.
    low = [max(0, min((box[axis].start for box in boxes), default=0) - 1) for axis in range(3)]
    high = [min(shape[axis], max((box[axis].stop for box in boxes), default=1) + 1) for axis in range(3)]
    z, y, x = (slice(start, stop) for start, stop in zip(low, high, strict=True))
    return z, y, x
