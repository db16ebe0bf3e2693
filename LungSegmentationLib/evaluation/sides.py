"""What a path offers for each case: a file, a case folder, a prediction's folder, a cohort, a tree of DICOM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.evaluation.dicom_tree import DicomTree, find_references, holds_ct, named_series
from LungSegmentationLib.inference.record import read_record_of
from LungSegmentationLib.inference.sources import RECORD_ENDING
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.segmentation_files import (
    SEGMENTATION_ENDINGS,
    is_ct_image,
    is_dicom_segmentation,
    segmentation_stem,
)
from LungSegmentationLib.volumes import VOLUME_ENDINGS

if TYPE_CHECKING:
    from LungSegmentationLib.dicom.series import CTSeries

__all__ = ["LABELS", "STRUCTURES", "Side", "find_tree", "is_result", "matched", "sides_of"]

STRUCTURES, LABELS = "structures", "labels"
_NO_SEGMENTATION = {"ct", "confidence"}
_BY_NAME = "it was taken for a copy of this one, by its name alone; make sure that it is the same patient and CT"


@dataclass(frozen=True)
class Side:
    """What a path offers for one case: files by what they can hold, and what is known of them.

    Attributes
    ----------
    files
        By :data:`STRUCTURES` (overlaps kept) and :data:`LABELS` (one a voxel).
    ct
        Volume or folder of DICOM on the same grid.
    annotated
        Structures that were drawn; None if nobody said.
    series
        CT in place of ``ct``.
    warnings
        What was seen when the files were chosen.
    """

    files: dict[str, Path]
    ct: Path | None = None
    annotated: tuple[str, ...] | None = None
    series: CTSeries | None = None
    warnings: tuple[str, ...] = ()

    def choose(self, overlapping: bool) -> Path:
        """Return the file that holds overlaps, or the one that does not, if there are both."""
        first, second = (STRUCTURES, LABELS) if overlapping else (LABELS, STRUCTURES)
        return self.files[first] if first in self.files else self.files[second]


def find_tree(
    reference: Path, prediction: Path, label_set: LabelSet, progress: Callable[[int, int], None] | None
) -> DicomTree | None:
    """Return the references of a tree of DICOM; None for any other reference."""
    known = (CohortPaths(reference).cohort, CasePaths(reference).record, reference / RECORD_ENDING)
    if not reference.is_dir() or any(file.is_file() for file in known) or not holds_ct(reference):
        return None
    found = find_references(reference, label_set, prediction, progress)
    return found if found.cases else None


def matched(predictions: dict[str, Side], tree: DicomTree, *, alone: bool) -> tuple[dict[str, Side], dict[str, Side]]:
    """Give both sides of a case one name: the prediction's, or the reference's where a file stands alone."""
    theirs: dict[str, Side] = {}
    ours: dict[str, Side] = {}
    owners: dict[str, str] = {}
    for name, side in predictions.items():
        series_uids = named_series(side.choose(overlapping=True))
        case = tree.of(name, series_uids)
        if case is None and alone and len(tree.cases) == 1 and not series_uids & tree.series_uids:
            case = tree.cases[0]
        if case is None:
            theirs[name] = side
            continue
        if case.name in owners:
            raise BadInputError(
                f"Two predictions belong to {case.name}: {owners[case.name]} and {name}.", "Keep one of the two."
            )
        owners[case.name] = name
        shown, warnings = case.name if alone else name, case.warnings
        if series_uids and not series_uids & tree.series_uids:
            warnings = (*warnings, f"{side.choose(overlapping=True)} names a CT that is not here: {_BY_NAME}.")
        theirs[shown], ours[shown] = side, Side({STRUCTURES: case.rtstruct}, None, None, case.series, warnings)
    for case in tree.cases:
        if case.name not in owners:
            # A prediction may bear this name and belong to another CT.
            ours[case.name if case.name not in theirs else f"{case.name} (reference)"] = Side(
                {STRUCTURES: case.rtstruct}, None, None, case.series, case.warnings
            )
    return theirs, ours


def is_result(path: Path) -> bool:
    """Whether a folder is what a prediction wrote of one case."""
    return (path / RECORD_ENDING).is_file()


def sides_of(path: Path) -> dict[str, Side]:
    """Return what a path offers, by case; a tree of DICOM as a reference is :func:`find_tree`'s.

    Raises
    ------
    BadInputError
        If there is no such path, it holds nothing, or a case twice.
    """
    if path.is_file():
        stem = segmentation_stem(path)
        folder = CasePaths(path.parent)
        known = folder.record.is_file() and stem in {STRUCTURES, LABELS}
        return {stem: _case_folder(folder, only=path) if known else Side({_kind(path): path})}
    if not path.is_dir():
        raise BadInputError(f"There is no file or folder {path}.")
    if CohortPaths(path).cohort.is_file():
        sides = {case.name: _case_folder(case) for case in CohortPaths(path).finished_cases()}
    elif CasePaths(path).record.is_file():
        sides = {path.resolve().name: _case_folder(CasePaths(path))}
    elif is_result(path):
        sides = {path.resolve().name: _subfolder(path)}
    else:
        sides = _plain_folder(path)
    if not sides:
        raise BadInputError(
            f"{path} holds no segmentation.",
            f"Give a file ({', '.join(SEGMENTATION_ENDINGS)}), a folder of them, or a cohort.",
        )
    return sides


def _case_folder(case: CasePaths, only: Path | None = None) -> Side:
    files = {_kind(only): only} if only else {_kind(f): f for f in (case.structures, case.labels) if f.is_file()}
    annotated = read_record(CaseRecord, case.record).annotated
    return Side(files, case.ct if case.ct.is_file() else None, annotated)


def _plain_folder(folder: Path) -> dict[str, Side]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    segmentations = [entry for entry in files if _may_be_segmentation(entry)]
    if len(segmentations) < len(files) and any(map(is_dicom_segmentation, segmentations)) and _holds_ct(files):
        # A patient's DICOM: contours among the slices that they are drawn on.
        return {folder.resolve().name: _subfolder(folder)}
    sides: dict[str, Side] = {}
    for entry in entries:
        if entry in segmentations:
            name, side = segmentation_stem(entry), Side({_kind(entry): entry})
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


def _subfolder(folder: Path) -> Side:
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
        return Side(named, ct)
    others = [entry for entry in files if segmentation_stem(entry) not in _NO_SEGMENTATION]
    if len(others) > 1:
        record = read_record_of(folder / RECORD_ENDING) if is_result(folder) else None
        if record is not None:
            # Formats of one prediction hold the same; those first that know their grid by themselves.
            same = [entry for entry in others if entry.name in record.files.values()]
            others = sorted(same, key=_rank)[:1] or others
    if len(others) > 1:
        raise BadInputError(
            f"{folder} holds several segmentations and none is called labels: {', '.join(f.name for f in others[:4])}.",
            "Call the one that is meant labels, or keep one file a case.",
        )
    return Side({_kind(others[0]): others[0]} if others else {}, ct)


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
