"""What a prediction gives back: structures on the CT's own grid, how sure it is, and what a person should look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.structures import Labels, StructureMap

if TYPE_CHECKING:
    import SimpleITK as sitk

    from LungSegmentationLib.dicom.ct import CTVolume
    from LungSegmentationLib.dicom.writers import DicomSource
    from LungSegmentationLib.geometry import Grid
    from LungSegmentationLib.inference.restoring import KeptProbabilities
    from LungSegmentationLib.networks.card import ModelCard

__all__ = ["MARKED_DESCRIPTION", "Prediction"]

MARKED_DESCRIPTION = "Automatic, research only, OUTSIDE MODEL RANGE: check"
"""Series Description of results that are marked; DICOM allows 64 characters."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmented CT.

    Attributes
    ----------
    structures
        On the native grid. With an exclusive model no voxel has two bits.
    keys
        Structures that the model learned, in the order of their labels; nothing is known of others.
    grid
        The CT's own.
    confidence
        uint8, (z, y, x), percent; ``None`` if it was not asked for. Exclusive models: the probability of the label
        that the voxel got, background included. Others: how sure the least sure decision is, from 50 on. 0 where the
        network did not look (field of view ``body``). It is that of the network: postprocessing does not change it.
    structure_confidence
        By key: mean probability (0–1) over the voxels that the network gave to the structure, before postprocessing;
        ``None`` if it gave none.
    warnings
        Sentences why the result should be looked at with special care.
    marked
        Whether there are any: written files then say so.
    changes
        What postprocessing did, in sentences.
    seconds
        From the CT in memory to this.
    cards
        Of the models.
    model_names
        Of their files.
    """

    structures: StructureMap
    keys: tuple[str, ...]
    grid: Grid
    confidence: NDArray[np.uint8] | None
    structure_confidence: Mapping[str, float | None]
    warnings: tuple[str, ...]
    changes: tuple[str, ...]
    seconds: float
    cards: tuple[ModelCard, ...]
    model_names: tuple[str, ...]
    probabilities: KeptProbabilities | None = field(default=None, repr=False)
    changed_bits: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def marked(self) -> bool:
        """Whether the CT lies outside what the model is made for."""
        return bool(self.warnings)

    @property
    def exclusive(self) -> bool:
        """Whether each voxel has at most one structure."""
        return self.cards[0].overlap == "exclusive"

    def label_map(self) -> Labels:
        """Return one label a voxel, uint8 (z, y, x), painted in the label set's order."""
        return self.structures.label_map(self.keys)

    @property
    def description(self) -> str:
        """What written files say of it: that it is for research, and whether it is marked."""
        from LungSegmentationLib.dicom.writers import DESCRIPTION

        return MARKED_DESCRIPTION if self.marked else DESCRIPTION

    def image(self) -> sitk.Image:
        """Return the label map as an image on exactly the CT's grid."""
        return self.grid.image(self.label_map())

    def confidence_image(self) -> sitk.Image | None:
        """Return the confidence map as an image on the CT's grid; ``None`` if there is none."""
        return None if self.confidence is None else self.grid.image(self.confidence)

    def field(self, key: str, z: int) -> NDArray[np.float32] | None:
        """Return how far a structure is above the decision on slice ``z`` of the native array.

        What :func:`LungSegmentationLib.dicom.writers.write_rtstruct` takes to put contours between pixels.

        Returns
        -------
        float32 array (rows, columns), or None
            Positive inside. ``None`` if probabilities were not kept, the native slices are not axial, postprocessing
            changed the structure on this slice, or it was not learned.
        """
        if self.probabilities is None or key not in self.keys:
            return None
        bit = 1 << (self.structures.label_set[key].label - 1)
        if self.changed_bits is not None and int(self.changed_bits[z]) & bit:
            return None
        return self.probabilities.field(self.keys.index(key), z)

    def write(
        self,
        path: str | Path,
        source: CTVolume | DicomSource | None = None,
        format: str | None = None,  # noqa: A002 (what users call it)
        *,
        keys: Iterable[str] | None = None,
    ) -> Path:
        """Write the result in the format that its ending or ``format`` says, structures that were learned only.

        Parameters
        ----------
        path
            The file.
        source
            The DICOM series; needed for DICOM SEG and RTSTRUCT.
        format
            See :func:`LungSegmentationLib.dicom.writers.write_result`, which also says what can be wrong.
        keys
            Which of the learned structures; by default all.
        """
        from LungSegmentationLib.dicom.writers import AlgorithmInfo, write_result

        return write_result(
            self.structures,
            self.grid if source is None else source,
            Path(path),
            format=format,
            description=self.description,
            algorithm=AlgorithmInfo(" + ".join(self.model_names), self.cards[0].software["lungsegmentation"]),
            keys=self.keys if keys is None else keys,
            field=self.field,
        )
