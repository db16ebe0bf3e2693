"""Which CT and which RTSTRUCT of each patient become a case, and what the case is called.

The rule: every CT that contours were drawn on becomes a case. An RTSTRUCT belongs to the CT that it references, else to
the one in its frame of reference, else to the one that its contours lie in. Among several of these it belongs to the
one whose images most contours name, then whose frame of reference they are in, whose slices they lie in, of which it
names most images, which is of its study, which has most slices.
Of several RTSTRUCTs of one CT the one with most structures of the label set is taken, among equals the newest. Each
choice among several is a warning of the case, and options choose otherwise.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from LungSegmentationLib.dicom.matching import rois_in_another_frame
from LungSegmentationLib.dicom.roi_names import RoiAssignment, RoiInfo, assign
from LungSegmentationLib.dicom.rtstruct import RTStruct, read_rtstruct
from LungSegmentationLib.errors import LungSegError, UsageError
from LungSegmentationLib.storage import safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from LungSegmentationLib.dicom.roi_names import RoiMap, RoiRules
    from LungSegmentationLib.dicom.scan import CTSeries, Link, Patient, RTStructFile, ScanResult
    from LungSegmentationLib.labels import LabelSet

__all__ = [
    "CT_CHOICES",
    "MOST_STRUCTURES",
    "Plan",
    "PlannedCase",
    "Skipped",
    "assign_rois",
    "case_names",
    "plan_cases",
    "roi_infos",
    "volume_key",
]

CT_CHOICES: tuple[str, ...] = ("all", "most-slices", "newest")
MOST_STRUCTURES = "most-structures"


_Choice = tuple["Link", tuple[str, ...]]

_LINK_RANK = {"reference": 0, "frame of reference": 1, "geometry": 2}
# Why one of several CTs was taken, in the order in which they are compared.
_BETTER = (
    "because more contours name its images",
    "because more contours are in its frame of reference",
    "because the contours lie in its slices",
    "because the RTSTRUCT names more of its images",
    "because it is of the same study as the RTSTRUCT",
    "because it has more slices",
)


@dataclass(frozen=True)
class PlannedCase:
    """A CT with the RTSTRUCT that is taken for it, and the name of the case."""

    name: str
    patient_id: str
    series: CTSeries
    link: Link
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A CT or an RTSTRUCT that becomes no case, and why."""

    patient_id: str
    uid: str
    description: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a conversion will do."""

    cases: tuple[PlannedCase, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Candidate:
    patient_id: str
    link: Link
    warnings: tuple[str, ...]


def volume_key(series: CTSeries) -> str:
    """Return what tells a CT volume from all others.

    The series UID; where there is none, or the series was split, its first slice's UID (or file) as well.
    """
    if series.series_uid and series.parts == 1:
        return series.series_uid
    return f"{series.series_uid}/{series.sop_instance_uids[0] or series.files[0].name}"


def plan_cases(
    scan: ScanResult,
    label_set: LabelSet,
    rules: RoiRules,
    *,
    ct: str = "all",
    rtstruct: str = "most-structures",
    known_names: Mapping[str, str] | None = None,
) -> Plan:
    """Choose the cases of a scanned folder.

    Parameters
    ----------
    scan
        What the folder holds.
    label_set, rules
        Decide how many structures an RTSTRUCT has.
    ct
        Which CTs of a patient that has contours on several: ``all``, ``most-slices`` or ``newest``.
    rtstruct
        Which RTSTRUCT of a CT that has several: ``most-structures``, ``newest``, ``oldest``, or a text that its
        label contains or its SOP Instance UID ends with. Predictions of this software are no ground truth, and taken
        only where such a text calls them.
    known_names
        :func:`volume_key` of a CT → name of the case, from earlier conversions: a name never moves to another CT.

    Raises
    ------
    UsageError
        If a choice is not one of these.
    """
    if ct not in CT_CHOICES:
        raise UsageError(f"“{ct}” is no way to choose among CTs.", f"Use one of: {', '.join(CT_CHOICES)}.")
    candidates: list[_Candidate] = []
    skipped: list[Skipped] = []
    for patient in scan.patients:
        chosen, left_out = _cases_of(patient, lambda file: _structure_count(file, label_set, rules), ct, rtstruct)
        candidates += chosen
        skipped += left_out
    candidates, unclear = _without_shared_uids(candidates)
    skipped += unclear
    names = case_names([c.link.series for c in candidates], known_names or {})
    cases = [
        PlannedCase(
            names[volume_key(candidate.link.series)],
            candidate.patient_id,
            candidate.link.series,
            candidate.link,
            candidate.warnings,
        )
        for candidate in candidates
    ]
    return Plan(tuple(sorted(cases, key=lambda case: case.name)), tuple(skipped))


def _without_shared_uids(candidates: list[_Candidate]) -> tuple[list[_Candidate], list[Skipped]]:
    """Leave out CTs of several patients with one series UID: a case could become that of the other one unnoticed."""
    owners: dict[str, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        owners[volume_key(candidate.link.series)].append(candidate)
    skipped = [
        Skipped(
            candidate.patient_id,
            candidate.link.series.series_uid,
            _describe_ct(candidate.link.series),
            f"CTs of {len(sharing)} patients have this series UID, perhaps because one is an anonymized copy of the "
            "other: convert them from separate folders into separate cohorts",
        )
        for sharing in owners.values()
        if len(sharing) > 1
        for candidate in sharing
    ]
    return [sharing[0] for sharing in owners.values() if len(sharing) == 1], skipped


def _cases_of(
    patient: Patient, structure_count: Callable[[RTStructFile], int], ct: str, rtstruct: str
) -> tuple[list[_Candidate], list[Skipped]]:
    patient, skipped = _without_predictions(patient, rtstruct)
    # By file: two with one SOP Instance UID and other contents exist, after a careless edit or anonymization.
    by_rtstruct: dict[Path, list[Link]] = defaultdict(list)
    for link in patient.links:
        by_rtstruct[link.rtstruct.path].append(link)
    by_series: dict[str, list[tuple[Link, tuple[str, ...]]]] = defaultdict(list)
    for links in by_rtstruct.values():
        best, warnings = _best_series(links)
        by_series[volume_key(best.series)].append((best, warnings))

    candidates = []
    for choices in by_series.values():
        (link, warnings), others, why = _best_rtstruct(choices, structure_count, rtstruct)
        if others:
            taken = _describe(link.rtstruct)
            rest = ", ".join(_describe(other.rtstruct) for other, _ in others)
            warnings = (*warnings, f"This CT has {len(choices)} RTSTRUCTs: {taken} was taken ({why}), not {rest}.")
            skipped += [
                Skipped(
                    patient.patient_id,
                    other.rtstruct.sop_instance_uid,
                    _describe(other.rtstruct),
                    f"another RTSTRUCT of the same CT was taken ({why}): {taken}",
                )
                for other, _ in others
            ]
        candidates.append(_Candidate(patient.patient_id, link, (*patient.warnings, *warnings, *link.warnings)))
    candidates, left_out = _choose_cts(candidates, ct)
    skipped += left_out
    skipped += [
        Skipped(
            patient.patient_id,
            series.series_uid,
            _describe_ct(series),
            "another CT was taken for the RTSTRUCT that fits this one"
            if patient.links_of(series)
            else "no RTSTRUCT belongs to this CT",
        )
        for series in patient.series
        if volume_key(series) not in by_series
    ]
    linked = set(by_rtstruct)
    skipped += [
        Skipped(patient.patient_id, file.sop_instance_uid, _describe(file), "no CT belongs to this RTSTRUCT")
        for file in patient.rtstructs
        if file.path not in linked
    ]
    return candidates, skipped


def _without_predictions(patient: Patient, rule: str) -> tuple[Patient, list[Skipped]]:
    """Leave out what this software drew by itself: a network would be trained on its own answers."""
    asked = rule not in {MOST_STRUCTURES, "newest", "oldest"}
    ours = [file for file in patient.rtstructs if file.predicted and not (asked and _is_called(file, rule))]
    if not ours:
        return patient, []
    paths = {file.path for file in ours}
    links = tuple(link for link in patient.links if link.rtstruct.path not in paths)
    others = tuple(file for file in patient.rtstructs if file.path not in paths)
    why = "a prediction of this software, not a person's contours; convert takes it only if --rtstruct gives its label"
    skipped = [Skipped(patient.patient_id, file.sop_instance_uid, _describe(file), why) for file in ours]
    return replace(patient, links=links, rtstructs=others), skipped


def _best_series(links: Sequence[Link]) -> tuple[Link, tuple[str, ...]]:
    def rank(link: Link) -> tuple[int, ...]:
        evidence, same_study = link.evidence, link.series.study_uid == link.rtstruct.study_uid
        shown = evidence.named, evidence.in_frame, evidence.fits, evidence.images, same_study, link.series.slice_count
        return tuple(-value for value in shown)

    ranked = sorted(links, key=lambda link: (_LINK_RANK[link.by], rank(link), link.series.series_uid, link.series.part))
    best = ranked[0]
    equals = [link for link in ranked[1:] if link.by == best.by]
    if not equals:
        return best, ()
    better = [mine != other for mine, other in zip(rank(best), rank(equals[0]), strict=True)]
    if any(better):
        why = f"{_describe_ct(best.series)} was taken, {_BETTER[better.index(True)]}"
    else:
        why = (
            f"at least two of them equally well, as the phases of a 4D-CT do; {_describe_ct(best.series)} was taken, "
            "the first by series UID, which may not be the one that the contours were drawn on"
        )
    rest = ", ".join(_describe_ct(link.series) for link in equals[:3])
    more = f" and {len(equals) - 3} more" if len(equals) > 3 else ""
    return best, (f"{len(equals) + 1} CTs fit the RTSTRUCT by {best.by}: {why}. Not taken: {rest}{more}.",)


def _best_rtstruct(
    choices: list[_Choice], structure_count: Callable[[RTStructFile], int], rule: str
) -> tuple[_Choice, list[_Choice], str]:
    """Return the one that is taken, the others, and in words the rule that decided."""

    def by_date(choice: _Choice) -> tuple[str, str]:
        return choice[0].rtstruct.date or "", choice[0].rtstruct.sop_instance_uid

    if len(choices) == 1:
        return choices[0], [], rule
    if rule in {"newest", "oldest"}:
        ordered = sorted(choices, key=by_date, reverse=rule == "newest")
        return ordered[0], ordered[1:], rule
    by_worth = sorted(
        choices,
        key=lambda c: (structure_count(c[0].rtstruct), -_LINK_RANK[c[0].by], *by_date(c)),
        reverse=True,
    )
    if rule == MOST_STRUCTURES:
        return by_worth[0], by_worth[1:], rule
    # Asked for by name: where a CT has none of that name, the usual rule holds.
    called = [choice for choice in by_worth if _is_called(choice[0].rtstruct, rule)]
    best = (called or by_worth)[0]
    why = f"“{rule}”" if called else f"{MOST_STRUCTURES}, as none is called “{rule}”"
    return best, [choice for choice in by_worth if choice is not best], why


def _is_called(file: RTStructFile, name: str) -> bool:
    return name.casefold() in file.label.casefold() or file.sop_instance_uid.endswith(name)


def _choose_cts(candidates: list[_Candidate], rule: str) -> tuple[list[_Candidate], list[Skipped]]:
    if len(candidates) < 2:
        return candidates, []
    if rule == "all":
        note = f"This patient has {len(candidates)} CTs with contours; each becomes a case."
        return [_Candidate(c.patient_id, c.link, (*c.warnings, note)) for c in candidates], []

    def worth(candidate: _Candidate) -> tuple[object, ...]:
        series = candidate.link.series
        first = series.slice_count if rule == "most-slices" else 0
        return first, series.study_date or "", candidate.link.rtstruct.date or "", series.series_uid

    ordered = sorted(candidates, key=worth, reverse=True)
    best = ordered[0]
    note = f"This patient has {len(candidates)} CTs with contours; this one was taken ({rule})."
    left_out = [
        Skipped(c.patient_id, c.link.series.series_uid, _describe_ct(c.link.series), f"another CT was taken ({rule})")
        for c in ordered[1:]
    ]
    return [_Candidate(best.patient_id, best.link, (*best.warnings, note))], left_out


def _structure_count(file: RTStructFile, label_set: LabelSet, rules: RoiRules) -> int:
    """Return how many structures are drawn, not only named: a template names all and draws none."""
    try:
        rtstruct = read_rtstruct(file.path)
    except LungSegError:
        # It cannot be converted either; if it is the only one, that says why.
        return 0
    return len(assign(roi_infos(rtstruct), label_set, rules).structures())


def roi_infos(rtstruct: RTStruct) -> list[RoiInfo]:
    """Return what the ROI rules need to know of each ROI; only contours that enclose an area count."""
    return [
        RoiInfo(roi.number, roi.name, roi.interpreted_type, sum(contour.encloses for contour in roi.contours))
        for roi in rtstruct.rois
    ]


def assign_rois(
    rtstruct: RTStruct,
    frame_of_reference_uid: str,
    label_set: LabelSet,
    rules: RoiRules,
    *,
    roi_map: RoiMap | None = None,
    corrections: Mapping[str | int, str | None] | None = None,
) -> tuple[RoiAssignment, frozenset[int]]:
    """Decide which ROI is taken for which structure on a CT with this frame of reference.

    Returns
    -------
    assignment
        What became of each ROI.
    elsewhere
        Numbers of the ROIs that are drawn in another frame of reference: they count as empty.
    """
    elsewhere = rois_in_another_frame(rtstruct, frame_of_reference_uid)
    infos = [replace(one, contour_count=0) if one.number in elsewhere else one for one in roi_infos(rtstruct)]
    return assign(infos, label_set, rules, roi_map=roi_map, corrections=corrections), elsewhere


def case_names(series: Sequence[CTSeries], known: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each :func:`volume_key`: the patient's id, with a mark of the CT where several share it.

    Parameters
    ----------
    series
        CTs; those with one key get one name.
    known
        Names that were given before and stay.
    """
    keys = [volume_key(one) for one in series]
    names = {key: known[key] for key in keys if key in known}
    taken = {name.casefold() for name in known.values()}
    wanted: dict[str, list[CTSeries]] = defaultdict(list)
    for one in series:
        if volume_key(one) not in names:
            wanted[safe_name(one.patient_id or "no-id").casefold()].append(one)
    for folded, rivals in wanted.items():
        for one in rivals:
            name = safe_name(one.patient_id or "no-id")
            if len(rivals) > 1 or folded in taken:
                digest = hashlib.sha256(volume_key(one).encode()).hexdigest()
                length = 6
                while f"{name}_{digest[:length]}".casefold() in taken:
                    length += 1
                name = f"{name}_{digest[:length]}"
            taken.add(name.casefold())
            names[volume_key(one)] = name
    return names


def _describe(file: RTStructFile) -> str:
    return f"“{file.label or 'no label'}” of {file.date or 'unknown date'} (…{file.sop_instance_uid[-8:]})"


def _describe_ct(series: CTSeries) -> str:
    return f"CT {series.description or 'without description'}, {series.slice_count} slices (…{series.series_uid[-8:]})"
