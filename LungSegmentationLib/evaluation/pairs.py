"""Which prediction belongs to which reference, and both of them read: files, case folders, cohorts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.dicom.readers.placing import GRID_TOLERANCE, described
from LungSegmentationLib.errors import BadInputError, GeometryError, UsageError
from LungSegmentationLib.evaluation.case_scores import Segmentation
from LungSegmentationLib.exporting import find_series
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.record import PredictionRecord, read_record_of
from LungSegmentationLib.inference.sources import RECORD_ENDING
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.segmentation_files import (
    SEGMENTATION_ENDINGS,
    SegmentationFile,
    is_ct_image,
    is_dicom_segmentation,
    own_grid,
    read_segmentation_file,
    segmentation_kind,
    segmentation_stem,
)
from LungSegmentationLib.volumes import VOLUME_ENDINGS, read_volume

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.case import DrawnOn

__all__ = ["FilePair", "Loadable", "LoadedCase", "Pairing", "find_pairs", "read_segmentation"]

STRUCTURES, LABELS = "structures", "labels"
_NO_SEGMENTATION = {"ct", "confidence"}


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
    """

    case: str
    prediction: Path
    reference: Path
    ct: Path | None = None
    annotated: tuple[str, ...] | None = None

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
                    f"The CT {self.ct} and {self.reference} lie on different grids: {described(place)} against "
                    f"{described(grid)}.",
                    "Give the CT that the structures were drawn on.",
                )
        record = _record_beside(self.prediction)
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
                *(f"Reference: {warning}" for warning in reference.warnings),
            ),
            None if record is None else tuple(key for key in label_set.keys if key in record.structures) or None,
        )

    def _read_ct(self) -> tuple[NDArray[np.int16] | None, Grid | DrawnOn | None]:
        """Return HU, and what contours are drawn on."""
        if self.ct is None:
            return None, None
        if self.ct.is_dir():
            from LungSegmentationLib.dicom.ct import read_ct

            drawn = self.reference if is_dicom_segmentation(self.reference) else self.prediction
            volume = read_ct(find_series(drawn, self.ct)[0])
            return volume.array, volume
        image = read_volume(self.ct)
        # Pictures need no more; a CT in floating point would take four times the memory.
        ct: NDArray[np.int16] = np.nan_to_num(np.clip(sitk.GetArrayFromImage(image), -32768, 32767)).astype(np.int16)
        return ct, Grid.of(image)


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


def _record_beside(path: Path) -> PredictionRecord | None:
    """Return the record of the prediction that a file is part of; None where there is none."""
    for name in (RECORD_ENDING, f"{segmentation_stem(path)}.{RECORD_ENDING}"):
        file = path.parent / name
        record = read_record_of(file) if file.is_file() else None
        if record is not None and path.name in record.files.values():
            return record
    return None


@dataclass(frozen=True)
class _Side:
    """What a path offers for one case."""

    files: dict[str, Path]
    ct: Path | None = None
    annotated: tuple[str, ...] | None = None

    def choose(self, overlapping: bool) -> Path:
        first, second = (STRUCTURES, LABELS) if overlapping else (LABELS, STRUCTURES)
        return self.files[first] if first in self.files else self.files[second]


@dataclass(frozen=True)
class Pairing:
    """What belongs together, and what has no counterpart.

    Attributes
    ----------
    pairs
        By case name.
    without_reference, without_prediction
        Names of the cases that stand alone.
    """

    pairs: tuple[FilePair, ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]


def find_pairs(
    prediction: Path,
    reference: Path,
    label_set: LabelSet,
    *,
    annotated: Iterable[str] | None = None,
    ct: Path | None = None,
) -> Pairing:
    """Find the cases that have both sides.

    A side is a file, a case folder (``case.json``), the folder of one prediction (``prediction.json``), a cohort (its
    finished cases), or a folder with one file or one subfolder a case. Two files, or a file or a prediction's folder
    and a case, belong together whatever their names; in folders the name of the file without ending, or of the
    subfolder, is the case. Where a case folder holds structures as drawn and label maps, those as drawn are taken
    (they can be painted as needed), for the prediction only if the reference has them too.

    Parameters
    ----------
    prediction, reference
        The two sides.
    label_set
        The structures that ``annotated`` may name.
    annotated
        Structures that were drawn in every reference. Default: what ``case.json`` says, otherwise what is there.
    ct
        The CT of a single case. Default: ``ct.nii.gz`` of the reference's case folder.

    Raises
    ------
    BadInputError
        If a side holds nothing, or nothing belongs together.
    """
    chosen = None if annotated is None else tuple(label_set[key].key for key in annotated)
    theirs, ours = _side(prediction), _side(reference)
    if (
        len(theirs) == 1
        and len(ours) == 1
        and any(path.is_file() or _is_result(path) for path in (prediction, reference))
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
            )
        )
    return Pairing(tuple(pairs), tuple(sorted(theirs.keys() - ours.keys())), tuple(sorted(ours.keys() - theirs.keys())))


def _case_name(path: Path, name: str) -> str:
    if not path.is_file():
        return name
    says_nothing = name in {STRUCTURES, LABELS} or is_dicom_segmentation(path)
    return path.resolve().parent.name if says_nothing else name


def _is_result(path: Path) -> bool:
    """Whether a folder is what a prediction wrote of one case."""
    return (path / RECORD_ENDING).is_file()


def _some(sides: dict[str, _Side]) -> str:
    names = sorted(sides)
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _side(path: Path) -> dict[str, _Side]:
    if path.is_file():
        stem = segmentation_stem(path)
        folder = CasePaths(path.parent)
        known = folder.record.is_file() and stem in {STRUCTURES, LABELS}
        return {stem: _case_folder(folder, only=path) if known else _Side({_kind(path): path})}
    if not path.is_dir():
        raise BadInputError(f"There is no file or folder {path}.")
    if CohortPaths(path).cohort.is_file():
        sides = {case.name: _case_folder(case) for case in CohortPaths(path).finished_cases()}
    elif CasePaths(path).record.is_file():
        sides = {path.resolve().name: _case_folder(CasePaths(path))}
    elif _is_result(path):
        sides = {path.resolve().name: _subfolder(path)}
    else:
        sides = _plain_folder(path)
    if not sides:
        raise BadInputError(
            f"{path} holds no segmentation.",
            f"Give a file ({', '.join(SEGMENTATION_ENDINGS)}), a folder of them, or a cohort.",
        )
    return sides


def _case_folder(case: CasePaths, only: Path | None = None) -> _Side:
    files = {_kind(only): only} if only else {_kind(f): f for f in (case.structures, case.labels) if f.is_file()}
    annotated = read_record(CaseRecord, case.record).annotated
    return _Side(files, case.ct if case.ct.is_file() else None, annotated)


def _plain_folder(folder: Path) -> dict[str, _Side]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    segmentations = [entry for entry in files if _may_be_segmentation(entry)]
    if len(segmentations) < len(files) and any(map(is_dicom_segmentation, segmentations)) and _holds_ct(files):
        # A patient's DICOM: contours among the slices that they are drawn on.
        return {folder.resolve().name: _subfolder(folder)}
    sides: dict[str, _Side] = {}
    for entry in entries:
        if entry in segmentations:
            name, side = segmentation_stem(entry), _Side({_kind(entry): entry})
        elif entry.is_dir():
            case = CasePaths(entry)
            name, side = entry.name, _case_folder(case) if case.record.is_file() else _subfolder(entry)
        else:
            continue
        if not side.files:
            continue
        if name in sides:
            raise BadInputError(f"{folder} holds the case {name} twice.", "Keep one of the two.")
        sides[name] = side
    return sides


def _subfolder(folder: Path) -> _Side:
    every = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith(".")]
    files = [entry for entry in every if _may_be_segmentation(entry)]
    cts = [entry for entry in files if segmentation_stem(entry) == "ct"]
    # Slices of a CT beside contours: what these are drawn on.
    ct = cts[0] if cts else folder if _holds_ct(every) else None
    named: dict[str, Path] = {}
    for ending in (*VOLUME_ENDINGS, *SEGMENTATION_ENDINGS):
        for entry in files:
            if segmentation_stem(entry) in {STRUCTURES, LABELS} and entry.name.lower().endswith(ending):
                named.setdefault(_kind(entry), entry)
    if named:
        return _Side(named, ct)
    others = [entry for entry in files if segmentation_stem(entry) not in _NO_SEGMENTATION]
    if len(others) > 1:
        record = read_record_of(folder / RECORD_ENDING) if _is_result(folder) else None
        if record is not None:
            # Formats of one prediction hold the same; those first that know their grid by themselves.
            same = [entry for entry in others if entry.name in record.files.values()]
            others = sorted(same, key=_rank)[:1] or others
    if len(others) > 1:
        raise BadInputError(
            f"{folder} holds several segmentations and none is called labels: {', '.join(f.name for f in others[:4])}.",
            "Call the one that is meant labels, or keep one file a case.",
        )
    return _Side({_kind(others[0]): others[0]} if others else {}, ct)


def _rank(path: Path) -> int:
    return next(rank for rank, ending in enumerate(SEGMENTATION_ENDINGS) if path.name.lower().endswith(ending))


def _may_be_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS) or is_dicom_segmentation(path)


def _holds_ct(files: Iterable[Path]) -> bool:
    return any(not _may_be_segmentation(file) and is_ct_image(file) for file in files)


def _kind(path: Path) -> str:
    """Return whether a file can hold structures that overlap, or one label a voxel."""
    overlaps = path.name.lower().endswith(".seg.nrrd") or not path.name.lower().endswith(VOLUME_ENDINGS)
    return STRUCTURES if overlaps or segmentation_stem(path) == STRUCTURES else LABELS
