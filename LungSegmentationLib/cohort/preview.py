"""What a conversion would do with a folder: patients, CTs, RTSTRUCTs, and what each ROI would become."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from LungSegmentationLib.cohort.corrections import RoiCorrections, apply_corrections, rtstruct_key
from LungSegmentationLib.cohort.options import NO_MAP, ConversionOptions
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, ConversionSettings, read_record
from LungSegmentationLib.cohort.selection import Plan, PlannedCase, plan_cases, roi_infos
from LungSegmentationLib.dicom.roi_names import RoiAssignment, RoiMap, RoiRules, assign, load_roi_rules
from LungSegmentationLib.dicom.rtstruct import RTStruct, read_rtstruct
from LungSegmentationLib.errors import BadInputError, LungSegError

if TYPE_CHECKING:
    from collections.abc import Callable

    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.dicom.scan import ScanResult
    from LungSegmentationLib.labels import LabelSet

__all__ = ["CasePreview", "Planning", "plan_folder", "preview_cases", "preview_dict"]


@dataclass(frozen=True)
class CasePreview:
    """A planned case and what its ROIs would become.

    Attributes
    ----------
    planned
        The CT and the RTSTRUCT.
    assignment
        What became of each ROI; None if the RTSTRUCT cannot be read.
    contours
        Number of contours by ROI number.
    warnings
        What a user should know.
    error
        Why it cannot be converted, empty if it can.
    volumes
        cm³ by ROI number, for ROIs with contours; empty where nobody asked for it.
    """

    planned: PlannedCase
    assignment: RoiAssignment | None
    contours: dict[int, int]
    warnings: tuple[str, ...]
    error: str = ""
    volumes: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planning:
    """The plan of a conversion, and what decides about the ROIs of its cases."""

    plan: Plan
    rules: RoiRules
    roi_map: RoiMap | None
    corrections: RoiCorrections

    def mended(self, planned: PlannedCase) -> dict[str | int, str | None]:
        """Return the corrections that a user made in the RTSTRUCT of a case."""
        return self.corrections.of(rtstruct_key(planned.link.rtstruct))


def plan_folder(
    found: ScanResult, label_set: LabelSet, options: ConversionOptions | None = None, cohort: CohortPaths | None = None
) -> Planning:
    """Plan a conversion without touching anything.

    Parameters
    ----------
    found
        What a scan found.
    label_set
        Structures to look for.
    options
        As for the conversion.
    cohort
        The cohort that it would go to: its corrections, remembered settings and names of cases count.

    Raises
    ------
    UsageError, BadInputError
        If an option is wrong, or the folder is no cohort.
    """
    options = options or ConversionOptions()
    options.check(label_set)
    before, corrections, roi_map, names = ConversionSettings(), RoiCorrections(), None, {}
    if cohort is not None:
        # A folder that holds corrections and nothing else yet is a cohort to be.
        if cohort.cohort.is_file() or not cohort.corrections.is_file():
            cohort.require()
            before = read_record(CohortRecord, cohort.cohort).conversion
        corrections = RoiCorrections.read(cohort)
        names = _known_names(cohort)
        if before.roi_map and options.roi_map is None:
            roi_map = RoiMap.read(cohort.root / before.roi_map, label_set)
    if options.roi_map is not None and options.roi_map != NO_MAP:
        roi_map = RoiMap.read(options.roi_map, label_set)
    rules = load_roi_rules()
    plan = plan_cases(
        found,
        label_set,
        rules,
        ct=options.ct or before.ct,
        rtstruct=options.rtstruct or before.rtstruct,
        known_names=names,
    )
    apply_corrections(corrections, options.corrections, plan, label_set)
    return Planning(plan, rules, roi_map, corrections)


def _known_names(cohort: CohortPaths) -> dict[str, str]:
    names = {}
    for case in cohort.finished_cases():
        # A damaged record has no say in the names; the conversion tells of it and replaces it.
        with suppress(BadInputError):
            names[read_record(CaseRecord, case.record).source.volume_key] = case.name
    return names


def preview_cases(
    found: ScanResult,
    label_set: LabelSet,
    options: ConversionOptions | None = None,
    cohort: CohortPaths | None = None,
    *,
    volumes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Plan, tuple[CasePreview, ...]]:
    """Return the plan of a conversion and, for each case, the fate of each ROI. Reads contours, no pixels.

    Parameters
    ----------
    found, label_set, options, cohort
        As for :func:`plan_folder`.
    volumes
        Draw each ROI on the grid of its CT, to tell its volume and what is wrong with contours or slices.
    progress
        Called with the number of cases done and of all cases; what it raises ends the work.

    Raises
    ------
    UsageError, BadInputError
        If an option is wrong, or the folder is no cohort.
    """
    planning = plan_folder(found, label_set, options, cohort)
    cases = planning.plan.cases
    previews = []
    for done, planned in enumerate(cases, 1):
        previews.append(_preview(planned, planning, label_set, volumes=volumes))
        if progress is not None:
            progress(done, len(cases))
    return planning.plan, tuple(previews)


def _preview(planned: PlannedCase, planning: Planning, label_set: LabelSet, *, volumes: bool) -> CasePreview:
    try:
        read = read_rtstruct(planned.link.rtstruct.path)
    except LungSegError as error:
        return CasePreview(planned, None, {}, planned.warnings, str(error))
    mended = planning.mended(planned)
    assignment = assign(roi_infos(read), label_set, planning.rules, roi_map=planning.roi_map, corrections=mended)
    contours = {roi.number: len(roi.contours) for roi in read.rois}
    warnings = [*planned.warnings, *read.warnings, *assignment.warnings]
    measured: dict[int, float] = {}
    problem = ""
    if volumes:
        try:
            measured = _measure(planned, read, assignment, warnings)
        except LungSegError as error:
            problem = str(error)
    return CasePreview(planned, assignment, contours, tuple(warnings), problem, measured)


def _measure(planned: PlannedCase, read: RTStruct, assignment: RoiAssignment, warnings: list[str]) -> dict[int, float]:
    """Return cm³ of each ROI that encloses something; say what happened to the contours of those that are used."""
    from LungSegmentationLib.dicom.contours import rasterize
    from LungSegmentationLib.dicom.ct import read_grid

    grid = read_grid(planned.series)
    used = {decision.number for decision in assignment.decisions if decision.structure is not None}
    volumes = {}
    for roi in read.rois:
        if any(contour.encloses for contour in roi.contours):
            drawn = rasterize(roi.contours, grid)
            volumes[roi.number] = drawn.voxel_count * grid.voxel_volume
            if roi.number in used:
                warnings += drawn.report.warnings(roi.name)
    return volumes


def preview_dict(found: ScanResult, plan: Plan, previews: tuple[CasePreview, ...]) -> dict[str, Any]:
    """Return all of it as plain values, for ``lungseg scan --json``."""
    return {
        "scan": found.as_dict(),
        "cases": [_case_dict(preview) for preview in previews],
        "skipped": [asdict(one) for one in plan.skipped],
    }


def _case_dict(preview: CasePreview) -> dict[str, Any]:
    series, rtstruct = preview.planned.series, preview.planned.link.rtstruct
    return {
        "case": preview.planned.name,
        "patient_id": preview.planned.patient_id,
        "series_uid": series.series_uid,
        "description": series.description,
        "study_date": series.study_date,
        "slices": series.slice_count,
        "folder": _common_folder(preview.planned),
        "rtstruct_uid": rtstruct.sop_instance_uid,
        "rtstruct_key": rtstruct_key(rtstruct),
        "rtstruct_label": rtstruct.label,
        "linked_by": preview.planned.link.by,
        "rois": [
            {
                "number": decision.number,
                "name": decision.name,
                "contours": preview.contours.get(decision.number, 0),
                "structure": decision.structure,
                "kind": str(decision.kind),
                "by": decision.by,
                "reason": decision.reason,
                "volume_cc": _rounded(preview.volumes.get(decision.number)),
            }
            for decision in (preview.assignment.decisions if preview.assignment else ())
        ],
        "warnings": list(preview.warnings),
        "error": preview.error or None,
    }


def _rounded(volume: float | None) -> float | None:
    return None if volume is None else round(volume, 4)


def _common_folder(planned: PlannedCase) -> str:
    """Return the smallest folder that holds all that reading the case needs; empty if there is none."""
    files = [*planned.series.files, planned.link.rtstruct.path]
    folders = {str(file.parent) for file in files}
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on two drives of Windows
        return ""
