"""A segmentation of the scene as a ``.seg.nrrd`` for a job: read in the window's thread, written beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LungSegmentationScene import Terminology
from LungSegmentationScene.VolumeFiles import (
    Lattice,
    commonLattice,
    imageLattice,
    imageValues,
    pasted,
    segmentImages,
    writeNrrd,
)


@dataclass(frozen=True)
class SegmentsData:
    """All segments of a segmentation.

    Attributes
    ----------
    layers
        Label values (z, y, x), copies, each with the place where they lie.
    lattice
        The grid of the whole.
    texts
        What a ``.seg.nrrd`` says of each segment.
    """

    layers: list[tuple[np.ndarray, Lattice]]
    lattice: Lattice
    texts: dict[str, str]

    def write(self, path: Path) -> None:
        """Write the file; may be called in any thread.

        Raises
        ------
        SceneError
            If it cannot be written.
        """
        kind = np.result_type(*(values.dtype for values, _place in self.layers))
        arrays = [pasted(values, place, self.lattice, kind) for values, place in self.layers]
        writeNrrd(path, arrays, self.lattice, self.texts)


def readSegments(node) -> SegmentsData:
    """Return all segments of a segmentation node, those that are no known structure included.

    Raises
    ------
    SceneError
        If it has none, keeps no voxels, or lies under a transform.
    """
    layers, texts, number = [], {}, 0
    for layer, (image, segments) in enumerate(segmentImages(node)):
        layers.append((imageValues(image), imageLattice(image)))
        for identifier, segment in segments:
            tags = {name: Terminology.tagOf(segment, name) for name in (Terminology.ENTRY_TAG, Terminology.NAME_TAG)}
            texts |= {
                f"Segment{number}_ID": identifier,
                f"Segment{number}_Name": segment.GetName() or "",
                f"Segment{number}_Layer": str(layer),
                f"Segment{number}_LabelValue": str(segment.GetLabelValue()),
                f"Segment{number}_Tags": "".join(f"{name}:{value}|" for name, value in tags.items() if value),
            }
            number += 1
    return SegmentsData(layers, commonLattice(node, [place for _values, place in layers]), texts)
