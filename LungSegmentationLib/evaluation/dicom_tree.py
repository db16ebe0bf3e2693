"""References in a tree of DICOM: for each CT the RTSTRUCT that a conversion would take, and whose prediction it is.

A prediction belongs to the CT that its record, DICOM SEG or RTSTRUCT names by its series; only where it names none, or
one that is not in the tree (an anonymized copy has other UIDs), to the case of its name. Predictions of this software
that lie in the tree are no references.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from LungSegmentationLib.cohort.selection import plan_cases
from LungSegmentationLib.dicom.header_reader import quiet_parser
from LungSegmentationLib.dicom.readers.seg import read_seg
from LungSegmentationLib.dicom.roi_names import load_roi_rules
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.errors import BadInputError, LungSegError
from LungSegmentationLib.inference.record import record_beside
from LungSegmentationLib.segmentation_files import is_ct_image, is_dicom_segmentation, segmentation_kind

if TYPE_CHECKING:
    from LungSegmentationLib.dicom.series import CTSeries, Patient
    from LungSegmentationLib.labels import LabelSet

__all__ = ["DicomReference", "DicomTree", "find_references", "holds_ct", "named_series"]

_PROBED = 3
"""Files of a folder that are looked at to find out whether it holds a CT's slices."""


@dataclass(frozen=True)
class DicomReference:
    """One CT and the contours on it.

    Attributes
    ----------
    name
        Of the case, as a conversion would call it.
    names
        What else its prediction may be called, in lower case: the folders that hold nothing but this patient.
    patient_id
        As in the files.
    series, rtstruct
        The CT, and the file of the contours.
    warnings
        Why these, where there was a choice.
    """

    name: str
    names: frozenset[str]
    patient_id: str
    series: CTSeries
    rtstruct: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DicomTree:
    """All references of a tree.

    Attributes
    ----------
    cases
        By name; none if no CT has contours.
    series_uids
        Of every CT, also without contours.
    warnings
        Which CTs and RTSTRUCTs became no reference.
    """

    cases: tuple[DicomReference, ...]
    series_uids: frozenset[str]
    warnings: tuple[str, ...]

    def of(self, name: str, series_uids: frozenset[str]) -> DicomReference | None:
        """Return the reference of a prediction; None if there is none.

        Parameters
        ----------
        name
            Of the prediction.
        series_uids
            Series that it says it was made of (:func:`named_series`).

        Raises
        ------
        BadInputError
            If several fit.
        """
        called = name.casefold()
        fitting = [case for case in self.cases if called in {case.name.casefold(), *case.names}]
        if series_uids & self.series_uids:
            same = [case for case in self.cases if case.series.series_uid in series_uids]
            fitting = [case for case in same if case in fitting] or same
        if len(fitting) > 1:
            raise BadInputError(
                f"The prediction {name} fits {len(fitting)} cases: {', '.join(case.name for case in fitting[:4])}.",
                "Call it as one of them.",
            )
        return fitting[0] if fitting else None


def holds_ct(folder: Path) -> bool:
    """Whether there are slices of a CT below a folder; a few files of each folder are looked at."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
        others = (file for file in files if not is_dicom_segmentation(file))
        for _, file in zip(range(_PROBED), others, strict=False):
            if is_ct_image(file):
                return True
    return False


def find_references(
    folder: Path, label_set: LabelSet, predictions: Path, progress: Callable[[int, int], None] | None = None
) -> DicomTree:
    """Scan a tree and choose an RTSTRUCT for each CT, by the rules of a conversion.

    Parameters
    ----------
    folder
        Of any depth; patients may lie in one folder.
    label_set
        Of several RTSTRUCTs the one with most of its structures is taken, among equals the newest.
    predictions
        What is to be evaluated: nothing below it is a reference, unless the whole tree lies there.
    progress
        Called with the number of files looked at and of all files.
    """
    found = scan(folder, progress=progress)
    place = predictions.resolve()
    apart = place not in folder.resolve().parents
    patients = tuple(_without_predictions(patient, place if apart else None) for patient in found.patients)
    plan = plan_cases(replace(found, patients=patients), label_set, load_roi_rules())
    paths = {case.name: _folders((case.series.files[0], case.link.rtstruct.path), folder) for case in plan.cases}
    shared = Counter(name for names in paths.values() for name in names)
    # A patient without contours is no case; a folder that holds him, too, is still not another one's.
    holders = Counter(name for patient in found.patients for name in _folders(_files(patient), folder))
    cases = tuple(
        DicomReference(
            case.name,
            frozenset(name for name in paths[case.name] if shared[name] == 1 and holders[name] <= 1),
            case.patient_id,
            case.series,
            case.link.rtstruct.path,
            case.warnings,
        )
        for case in plan.cases
    )
    uids = frozenset(series.series_uid for patient in patients for series in patient.series if series.series_uid)
    left_out = [f"{one.patient_id}, {one.description}: {one.reason}." for one in plan.skipped]
    if found.unreadable:
        path, reason = found.unreadable[0]
        told = reason if str(path) in reason else f"{path}: {reason}"
        left_out.append(f"{len(found.unreadable)} file(s) are no DICOM or cannot be read, the first: {told}")
    return DicomTree(cases, uids, tuple(left_out))


def _without_predictions(patient: Patient, place: Path | None) -> Patient:
    """Return a patient without the contours that are to be compared: they would be compared with themselves.

    Other predictions of this software are left out where cases are chosen.
    """
    ours = {file.path for file in patient.rtstructs if place and file.path.resolve().is_relative_to(place)}
    return replace(
        patient,
        rtstructs=tuple(file for file in patient.rtstructs if file.path not in ours),
        links=tuple(link for link in patient.links if link.rtstruct.path not in ours),
    )


def _files(patient: Patient) -> Iterator[Path]:
    yield from (series.files[0] for series in patient.series)
    yield from (file.path for file in patient.rtstructs)


def _folders(files: Iterable[Path], root: Path) -> set[str]:
    """Return the names, in lower case, of the folders from the root down to files."""
    inside = (file.relative_to(root).parent.parts for file in files if file.is_relative_to(root))
    return {root.resolve().name.casefold(), *(part.casefold() for parts in inside for part in parts)}


def named_series(path: Path) -> frozenset[str]:
    """Return the UIDs of the series that a prediction says it was made of; none if it says nothing."""
    record = record_beside(path)
    if record is not None and record.input.source.get("series_uid"):
        return frozenset({record.input.source["series_uid"]})
    if not is_dicom_segmentation(path):
        return frozenset()
    try:
        with quiet_parser():
            if segmentation_kind(path) == "dicom-seg":
                return frozenset(read_seg(path).series_uids)
            return frozenset(read_rtstruct(path, with_contours=False).referenced_series_uids)
    except LungSegError:
        return frozenset()  # what is wrong with it is said when it is read
