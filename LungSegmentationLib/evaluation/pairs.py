"""Which prediction belongs to which reference, and both of them read: files, case folders, cohorts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.readers.placing import GRID_TOLERANCE, described
from LungSegmentationLib.errors import BadInputError, GeometryError, UsageError
from LungSegmentationLib.evaluation.case_scores import Segmentation
from LungSegmentationLib.evaluation.sides import LABELS, STRUCTURES, Side, find_tree, is_result, matched, sides_of
from LungSegmentationLib.exporting import find_series
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.record import record_beside
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.segmentation_files import (
    SegmentationFile,
    is_dicom_segmentation,
    own_grid,
    read_segmentation_file,
    segmentation_kind,
)
from LungSegmentationLib.volumes import read_volume

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.case import DrawnOn
    from LungSegmentationLib.dicom.series import CTSeries

__all__ = ["FilePair", "Loadable", "LoadedCase", "Pairing", "find_pairs", "read_segmentation"]


@dataclass(frozen=True)
class LoadedCase:
    """Both sides of one case in memory, on one grid.

    Attributes
    ----------
    case
        Its name.
    prediction, reference
        Structures as drawn, or label maps.
    grid
        Of both.
    annotated
        Structures that were drawn in the reference; None if nobody said, then those that it holds.
    ct
        HU (z, y, x) for pictures, None if there is none.
    confidence
        How sure the network is of each structure that it found, 0–1, where the prediction's record says so.
    remarks
        What the record of the prediction warns of.
    known
        Structures that the prediction looked for, where its record says so; None if nobody said.
    warnings
        What was left out of the files, and what else was seen in them.
    """

    case: str
    prediction: Segmentation
    reference: Segmentation
    grid: Grid
    annotated: tuple[str, ...] | None = None
    ct: NDArray[np.int16] | None = None
    confidence: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    known: tuple[str, ...] | None = None


class Loadable(Protocol):
    """A case that can be brought into memory: two files, or a prediction yet to be made."""

    @property
    def case(self) -> str:
        """Name of the case."""
        ...

    def load(self, label_set: LabelSet) -> LoadedCase:
        """Bring both sides into memory."""
        ...


@dataclass(frozen=True)
class FilePair:
    """A case whose prediction and reference are files.

    Attributes
    ----------
    case
        Its name.
    prediction, reference
        Any segmentation files. Where no voxel of the prediction belongs to two structures, it is taken for one that
        can hold no overlaps, and compared as a label map.
    ct
        CT on the same grid, for pictures and for contours to be drawn on: a volume, or a folder of DICOM; None
        without.
    annotated
        Structures that were drawn; None if nobody said.
    series
        CT in place of ``ct``, where it is known.
    warnings
        What was seen when the reference was chosen.
    """

    case: str
    prediction: Path
    reference: Path
    ct: Path | None = None
    annotated: tuple[str, ...] | None = None
    series: CTSeries | None = None
    warnings: tuple[str, ...] = ()

    def load(self, label_set: LabelSet) -> LoadedCase:
        """Read the files.

        Raises
        ------
        GeometryError
            If the grids differ: nothing is resampled here, as that would change what is measured.
        BadInputError
            If a file is damaged or holds something else.
        """
        ct, on = self._read_ct()
        if on is None and segmentation_kind(self.reference) in {"dicom-seg", "rtstruct", "seg.nrrd"}:
            # Such a file need not say how far the images went: the other side may.
            on = own_grid(self.prediction)
        reference = read_segmentation_file(self.reference, label_set, on)
        prediction = read_segmentation_file(self.prediction, label_set, on or reference.grid)
        grid = reference.grid
        if not grid.matches(prediction.grid, GRID_TOLERANCE):
            raise GeometryError(
                f"{self.prediction} and {self.reference} lie on different grids: {described(prediction.grid)} "
                f"against {described(grid)}.",
                "Write the prediction on the grid of the reference's CT.",
            )
        if ct is not None and on is not None:
            place = on if isinstance(on, Grid) else on.grid
            if not grid.matches(place, GRID_TOLERANCE):
                raise GeometryError(
                    f"The CT {self.ct or self.case} and {self.reference} lie on different grids: {described(place)} "
                    f"against {described(grid)}.",
                    "Give the CT that the structures were drawn on.",
                )
        record = record_beside(self.prediction)
        sure = {} if record is None else {key: found.confidence for key, found in record.structures.items()}
        return LoadedCase(
            self.case,
            prediction.structures if _keeps_overlaps(prediction) else prediction.structures.label_map(),
            _compared(reference),
            grid,
            self.annotated,
            ct,
            {key: value for key, value in sure.items() if value is not None},
            () if record is None else record.warnings,
            (
                *(f"Prediction: {warning}" for warning in prediction.warnings),
                *(f"Reference: {warning}" for warning in (*self.warnings, *reference.warnings)),
            ),
            None if record is None else tuple(key for key in label_set.keys if key in record.structures) or None,
        )

    def _read_ct(self) -> tuple[NDArray[np.int16] | None, Grid | DrawnOn | None]:
        """Return HU, and what contours are drawn on."""
        ct, series = self.ct, self.series
        if series is None and ct is not None and ct.is_dir():
            drawn = self.reference if is_dicom_segmentation(self.reference) else self.prediction
            series = find_series(drawn, ct)[0]
        if series is not None:
            volume = read_ct(series)
            return volume.array, volume
        if ct is None:
            return None, None
        image = read_volume(ct)
        # Pictures need no more; a CT in floating point would take four times the memory.
        clipped = np.nan_to_num(np.clip(sitk.GetArrayFromImage(image), -32768, 32767))
        return clipped.astype(np.int16), Grid.of(image)


def _compared(reference: SegmentationFile) -> Segmentation:
    """Return a reference as drawn wherever it is: it is painted where the prediction is a label map."""
    return reference.structures.label_map() if reference.kind == "label map" else reference.structures


def _keeps_overlaps(prediction: SegmentationFile) -> bool:
    return prediction.kind == "bits" or not prediction.exclusive


def read_segmentation(path: Path, label_set: LabelSet) -> tuple[Segmentation, Grid]:
    """Read a segmentation that knows its own grid: a label map stays one, all others are as drawn.

    Raises
    ------
    BadInputError
        If values are not whole numbers, or none of the label set's, or the file is of another kind.
    """
    found = read_segmentation_file(path, label_set)
    return _compared(found), found.grid


@dataclass(frozen=True)
class Pairing:
    """What belongs together, and what has no counterpart.

    Attributes
    ----------
    pairs
        By case name.
    without_reference, without_prediction
        Names of the cases that stand alone.
    warnings
        What of the reference's folder is no reference.
    """

    pairs: tuple[FilePair, ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def find_pairs(
    prediction: Path,
    reference: Path,
    label_set: LabelSet,
    *,
    annotated: Iterable[str] | None = None,
    ct: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pairing:
    """Find the cases that have both sides.

    A side is a file, a case folder (``case.json``), the folder of one prediction (``prediction.json``), a cohort (its
    finished cases), or a folder with one file or one subfolder a case. Two files, or a file or a prediction's folder
    and a case, belong together whatever their names; in folders the name of the file without ending, or of the
    subfolder, is the case. Where a case folder holds structures as drawn and label maps, those as drawn are taken
    (they can be painted as needed), for the prediction only if the reference has them too. A reference may also be a
    tree of DICOM with the CTs and RTSTRUCTs of many patients (:mod:`~LungSegmentationLib.evaluation.dicom_tree`).

    Parameters
    ----------
    prediction, reference
        The two sides.
    label_set
        The structures that ``annotated`` may name.
    annotated
        Structures that were drawn in every reference. Default: what ``case.json`` says, otherwise what is there.
    ct
        The CT of a single case. Default: ``ct.nii.gz`` of the reference's case folder, or the DICOM beside contours.
    progress
        Called while a tree of DICOM is scanned, with the number of files looked at and of all files.

    Raises
    ------
    BadInputError
        If a side holds nothing, or nothing belongs together.
    """
    chosen = None if annotated is None else tuple(label_set[key].key for key in annotated)
    theirs, tree = sides_of(prediction), find_tree(reference, prediction, label_set, progress)
    if tree is not None:
        theirs, ours = matched(theirs, tree, alone=prediction.is_file() or is_result(prediction))
    else:
        ours = sides_of(reference)
    if (
        tree is None
        and len(theirs) == 1
        and len(ours) == 1
        and any(path.is_file() or is_result(path) for path in (prediction, reference))
    ):
        # One and one belong together; the name is the reference's, where it says more than "labels" or a DICOM file.
        name = _case_name(reference, next(iter(ours)))
        theirs, ours = {name: next(iter(theirs.values()))}, {name: next(iter(ours.values()))}
    shared = sorted(theirs.keys() & ours.keys())
    if not shared:
        raise BadInputError(
            f"No case of {prediction} has the name of a case of {reference}: {_some(theirs)} against {_some(ours)}.",
            "Name each prediction as its reference is named.",
        )
    if ct is not None and len(shared) > 1:
        raise UsageError(f"One CT, {ct}, cannot belong to {len(shared)} cases.", "Leave it out.")
    pairs = []
    for name in shared:
        side = ours[name]
        overlapping = STRUCTURES in side.files
        pairs.append(
            FilePair(
                name,
                theirs[name].choose(overlapping),
                side.choose(overlapping=True),
                ct or side.ct or theirs[name].ct,
                chosen if chosen is not None else side.annotated,
                None if ct else side.series,
                side.warnings,
            )
        )
    left = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    return Pairing(tuple(pairs), tuple(left[0]), tuple(left[1]), tree.warnings if tree else ())


def _case_name(path: Path, name: str) -> str:
    if not path.is_file():
        return name
    says_nothing = name in {STRUCTURES, LABELS} or is_dicom_segmentation(path)
    return path.resolve().parent.name if says_nothing else name


def _some(sides: dict[str, Side]) -> str:
    names = sorted(sides)
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
