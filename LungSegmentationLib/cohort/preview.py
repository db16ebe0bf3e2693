"""What a conversion would do with a folder: patients, CTs, RTSTRUCTs, and what each ROI would become."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from LungSegmentationLib.cohort.corrections import RoiCorrections, rtstruct_key
from LungSegmentationLib.cohort.options import NO_MAP, ConversionOptions
from LungSegmentationLib.cohort.records import CohortRecord, ConversionSettings, read_record
from LungSegmentationLib.cohort.selection import Plan, PlannedCase, plan_cases, roi_infos
from LungSegmentationLib.dicom.roi_names import RoiAssignment, RoiMap, assign, load_roi_rules
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.errors import LungSegError

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.dicom.scan import ScanResult
    from LungSegmentationLib.labels import LabelSet

__all__ = ["CasePreview", "preview_cases", "preview_dict"]


@dataclass(frozen=True)
class CasePreview:
    """A planned case and what its ROIs would become; ``error`` in place of that if the RTSTRUCT cannot be read."""

    planned: PlannedCase
    assignment: RoiAssignment | None
    contours: dict[int, int]
    warnings: tuple[str, ...]
    error: str = ""


def preview_cases(
    found: ScanResult, label_set: LabelSet, options: ConversionOptions | None = None, cohort: CohortPaths | None = None
) -> tuple[Plan, tuple[CasePreview, ...]]:
    """Return the plan of a conversion and, for each case, the fate of each ROI. Reads contours, no pixels.

    Parameters
    ----------
    found
        What a scan found.
    label_set
        Structures to look for.
    options
        As for the conversion.
    cohort
        The cohort that it would go to: its corrections and remembered settings count.

    Raises
    ------
    UsageError, BadInputError
        If an option is wrong, or the folder is no cohort.
    """
    options = options or ConversionOptions()
    options.check(label_set)
    before, corrections, roi_map = ConversionSettings(), RoiCorrections(), None
    if cohort is not None:
        cohort.require()
        before = read_record(CohortRecord, cohort.cohort).conversion
        corrections = RoiCorrections.read(cohort)
        if before.roi_map and options.roi_map is None:
            roi_map = RoiMap.read(cohort.root / before.roi_map, label_set)
    if options.roi_map is not None and options.roi_map != NO_MAP:
        roi_map = RoiMap.read(options.roi_map, label_set)
    rules = load_roi_rules()
    plan = plan_cases(found, label_set, rules, ct=options.ct or before.ct, rtstruct=options.rtstruct or before.rtstruct)
    previews = []
    for planned in plan.cases:
        try:
            read = read_rtstruct(planned.link.rtstruct.path)
        except LungSegError as error:
            previews.append(CasePreview(planned, None, {}, planned.warnings, str(error)))
            continue
        mended = corrections.of(rtstruct_key(planned.link.rtstruct))
        assignment = assign(roi_infos(read), label_set, rules, roi_map=roi_map, corrections=mended)
        contours = {roi.number: len(roi.contours) for roi in read.rois}
        warnings = (*planned.warnings, *read.warnings, *assignment.warnings)
        previews.append(CasePreview(planned, assignment, contours, warnings))
    return plan, tuple(previews)


def preview_dict(found: ScanResult, plan: Plan, previews: tuple[CasePreview, ...]) -> dict[str, Any]:
    """Return all of it as plain values, for ``lungseg scan --json``."""
    return {
        "scan": found.as_dict(),
        "cases": [
            {
                "case": preview.planned.name,
                "patient_id": preview.planned.patient_id,
                "series_uid": preview.planned.series.series_uid,
                "slices": preview.planned.series.slice_count,
                "rtstruct_uid": preview.planned.link.rtstruct.sop_instance_uid,
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
                    }
                    for decision in (preview.assignment.decisions if preview.assignment else ())
                ],
                "warnings": list(preview.warnings),
                "error": preview.error or None,
            }
            for preview in previews
        ],
        "skipped": [asdict(one) for one in plan.skipped],
    }
