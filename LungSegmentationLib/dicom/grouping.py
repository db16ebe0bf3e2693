"""From single slices to series that can be volumes, and from series to patients; nobody's slices are mixed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LungSegmentationLib.dicom.images import Frame, ImageInfo
from LungSegmentationLib.dicom.matching import describe, match
from LungSegmentationLib.dicom.rtstruct import RTStruct
from LungSegmentationLib.dicom.series import CTSeries, Link, Patient, RTStructFile, Study
from LungSegmentationLib.dicom.slices import SAME_DIRECTION, SAME_POSITION, axes_of
from LungSegmentationLib.errors import GeometryError

__all__ = ["Person", "Slice", "ct_series", "group_patients"]

_KEPT_APART = "{} patients have the id “{}”, but another name or date of birth; they were kept apart."


@dataclass(frozen=True, slots=True)
class Slice:
    """A CT file and whose it is."""

    info: ImageInfo
    patient_name: str
    birth_date: str


@dataclass(frozen=True, slots=True, order=True)
class Person:
    """Who a file is of.

    ``otherwise`` tells those without an id apart by study or folder: “ANON” is the name of many.
    """

    patient_id: str
    name: str
    birth_date: str
    otherwise: str = ""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the slices of one volume share."""

    frame_of_reference_uid: str
    rows: int
    columns: int
    file: str
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]


def ct_series(slices: Sequence[Slice]) -> tuple[list[tuple[Person, CTSeries]], list[tuple[Path, str]]]:
    """Group slices by patient and series, and split a series that mixes what cannot be one volume.

    Returns
    -------
    series
        Each with its patient.
    unplaced
        Files whose place in the patient is unknown or impossible, with the reason.
    """
    grouped: dict[tuple[Person, str], list[Slice]] = defaultdict(list)
    studies: dict[str, str] = {}
    for one in slices:
        series = one.info.series_uid or f"in {one.info.path.parent}"
        study = studies.setdefault(series, one.info.study_uid)
        grouped[_person(one, study), series].append(one)
    found: list[tuple[Person, CTSeries]] = []
    unplaced: list[tuple[Path, str]] = []
    for (person, _), members in grouped.items():
        kinds: dict[_Kind, list[Slice]] = {}
        for one in members:
            try:
                kind = _kind(one.info, list(kinds))
            except GeometryError as error:
                unplaced.append((one.info.path, error.message))
            else:
                kinds.setdefault(kind, []).append(one)
        parts = sorted(kinds.values(), key=len, reverse=True)
        for number, part in enumerate(parts, 1):
            found.append((person, _series(part, number, len(parts))))
    return found, unplaced


def _person(one: Slice, study: str) -> Person:
    info = one.info
    name = " ".join(one.patient_name.replace("^", " ").casefold().split())
    otherwise = "" if info.patient_id else study or str(info.path.parent)
    return Person(info.patient_id, name, one.birth_date, otherwise)


def _kind(info: ImageInfo, known: Sequence[_Kind]) -> _Kind:
    frame = info.frames[0]
    if frame.position is None or frame.orientation is None or frame.spacing is None:
        raise GeometryError(f"{info.path}: the slice has no position, orientation or pixel spacing.")
    axes_of(frame.orientation, info.path)
    file = (info.concatenation_uid or info.sop_instance_uid or str(info.path)) if info.is_multiframe else ""
    for kind in known:
        same = (kind.frame_of_reference_uid, kind.rows, kind.columns, kind.file) == (
            info.frame_of_reference_uid,
            info.rows,
            info.columns,
            file,
        )
        if same and _close(frame, kind):
            return kind
    return _Kind(info.frame_of_reference_uid, info.rows, info.columns, file, frame.orientation, frame.spacing)


def _close(frame: Frame, kind: _Kind) -> bool:
    turned = max(abs(a - b) for a, b in zip(frame.orientation or (), kind.orientation, strict=True))
    scaled = max(abs(a - b) / max(b, 1e-9) for a, b in zip(frame.spacing or (), kind.spacing, strict=True))
    return turned <= SAME_DIRECTION and scaled <= 1e-4


def _series(members: Sequence[Slice], part: int, parts: int) -> CTSeries:
    first = members[0].info
    orientation = first.frames[0].orientation or ()
    normal = axes_of(orientation, first.path)[2]

    def along(frame: Frame) -> float:
        return float(np.dot(frame.position, normal)) if frame.position is not None else 0.0

    ordered = sorted(members, key=lambda one: (min(map(along, one.info.frames)), str(one.info.path)))
    frames = sorted((frame for one in ordered for frame in one.info.frames), key=along)
    positions: list[float] = []
    for frame in frames:
        if not positions or along(frame) - positions[-1] > SAME_POSITION:
            positions.append(along(frame))
    warnings = []
    if parts > 1:
        warnings.append(
            f"The series mixes slices of different orientation, size or frame of reference; this is part {part} of "
            f"{parts}, {len(positions)} slice(s) of {first.columns} × {first.rows} pixels."
        )
    if not first.series_uid:
        warnings.append("The files have no series UID; those of one folder were taken for one series.")
    if not first.modality:
        warnings.append("The files do not give a modality; they were taken for CT by what they hold.")
    studies = Counter(one.info.study_uid for one in ordered)
    if len(studies) > 1:
        warnings.append(f"The files of the series name {len(studies)} studies; they were taken for one.")
    return CTSeries(
        series_uid=first.series_uid,
        study_uid=studies.most_common(1)[0][0],
        patient_id=first.patient_id,
        patient_name=members[0].patient_name,
        frame_of_reference_uid=first.frame_of_reference_uid,
        description=first.description,
        study_date=first.study_date,
        files=tuple(one.info.path for one in ordered),
        slice_count=len(positions),
        sop_instance_uids=tuple(one.info.sop_instance_uid for one in ordered),
        orientation=orientation,
        origin=frames[0].position or (),
        positions=tuple(positions),
        rows=first.rows,
        columns=first.columns,
        pixel_spacing=first.frames[0].spacing or (),
        thickness=first.frames[0].thickness,
        part=part,
        parts=parts,
        warnings=tuple(warnings),
    )


def group_patients(
    series: Sequence[tuple[Person, CTSeries]], rtstructs: Sequence[RTStruct]
) -> tuple[tuple[Patient, ...], tuple[str, ...]]:
    """Put series and RTSTRUCTs under their patients.

    Returns
    -------
    patients
        By id and name. An RTSTRUCT is with the patient of the CT that it is drawn on; without one, with the patient of
        its id.
    warnings
        RTSTRUCTs that found no CT, and ids that several patients share.
    """
    owners: dict[int, Person] = {id(one): person for person, one in series}
    files: dict[Person, list[RTStructFile]] = defaultdict(list)
    links: dict[Person, list[Link]] = defaultdict(list)
    names: dict[Person, str] = {person: one.patient_name for person, one in reversed(series)}
    warnings: list[str] = []
    for rtstruct in rtstructs:
        found, refused = match(rtstruct, [one for _, one in series])
        warnings.extend(refused)
        persons = dict.fromkeys(owners[id(link.series)] for link in found)
        if persons:
            person = next(iter(persons))
        else:
            person = _person_of_rtstruct(rtstruct, list(names))
            names.setdefault(person, rtstruct.patient_name)
        if len(persons) > 1:
            warnings.append(
                f"{rtstruct.path}: CTs of {len(persons)} patients fit this RTSTRUCT; it was taken for that of "
                f"“{names[person]}” ({person.patient_id or 'no id'}, born {person.birth_date or 'unknown'}) only."
            )
        files[person].append(describe(rtstruct))
        links[person].extend(link for link in found if owners[id(link.series)] == person)
    shared = Counter(person.patient_id for person in names)
    patients = []
    for person in sorted(names):
        own: tuple[str, ...] = ()
        if shared[person.patient_id] > 1 and person.patient_id:
            own = (_KEPT_APART.format(shared[person.patient_id], person.patient_id),)
        patients.append(
            Patient(
                patient_id=person.patient_id,
                patient_name=names[person],
                birth_date=person.birth_date,
                studies=_studies([one for owner, one in series if owner == person]),
                rtstructs=tuple(files[person]),
                links=tuple(links[person]),
                warnings=own,
            )
        )
    return tuple(patients), tuple(warnings)


def _person_of_rtstruct(rtstruct: RTStruct, known: Sequence[Person]) -> Person:
    name = " ".join(rtstruct.patient_name.replace("^", " ").casefold().split())
    otherwise = "" if rtstruct.patient_id else rtstruct.study_uid or str(rtstruct.path.parent)
    same = [person for person in known if (person.patient_id, person.otherwise) == (rtstruct.patient_id, otherwise)]
    named = [person for person in same if person.name == name]
    return (named or same or [Person(rtstruct.patient_id, name, "", otherwise)])[0]


def _studies(series: Sequence[CTSeries]) -> tuple[Study, ...]:
    grouped: dict[str, list[CTSeries]] = defaultdict(list)
    for one in series:
        grouped[one.study_uid].append(one)
    studies = [
        Study(uid, min(one.study_date for one in members), tuple(sorted(members, key=_series_order)))
        for uid, members in grouped.items()
    ]
    return tuple(sorted(studies, key=lambda study: (study.date, study.study_uid)))


def _series_order(series: CTSeries) -> tuple[str, int, str]:
    return series.series_uid, series.part, str(series.files[0])
