"""One patient's CT and structures for a viewer: every ROI a segment of its own, as drawn, in files that load fast."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import numpy as np

from LungSegmentationLib import __version__
from LungSegmentationLib.cohort.corrections import rtstruct_key
from LungSegmentationLib.cohort.gaps import fill_interpolated_slices
from LungSegmentationLib.cohort.preview import Planning, plan_folder
from LungSegmentationLib.cohort.records import Geometry, Record, RoiRecord, write_record
from LungSegmentationLib.cohort.selection import assign_rois
from LungSegmentationLib.dicom.contours import RoiMask, rasterize
from LungSegmentationLib.dicom.ct import CTVolume, read_ct
from LungSegmentationLib.dicom.rtstruct import ROI, RTStruct, read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.segments import Segment, write_segments
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.jobs.events import Reporter, SilentReporter
from LungSegmentationLib.nrrd import nrrd_header
from LungSegmentationLib.storage import storage_errors
from LungSegmentationLib.terminology import segment_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from LungSegmentationLib.cohort.options import ConversionOptions
    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.cohort.selection import PlannedCase
    from LungSegmentationLib.dicom.roi_names import RoiDecision
    from LungSegmentationLib.dicom.series import CTSeries, ScanResult
    from LungSegmentationLib.labels import LabelSet

__all__ = ["CT_FILE", "RECORD_FILE", "SEGMENTS_FILE", "ExtractRecord", "ExtractedRoi", "extract"]

CT_FILE: Final = "ct.nrrd"
SEGMENTS_FILE: Final = "structures.seg.nrrd"
RECORD_FILE: Final = "extract.json"

DESCRIPTION: Final = "Contours of an RTSTRUCT on the grid of its CT"
# For ROIs without a color of their own, none of which is that of a structure.
_GRAYS: Final = ((200, 200, 200), (160, 160, 160), (120, 120, 120), (225, 215, 200), (190, 205, 215))


class ExtractedRoi(RoiRecord):
    """What became of one ROI, and as which segment it is shown (None: not shown)."""

    segment: str | None


class ExtractRecord(Record):
    """``extract.json``: what was taken from where. Holds the patient's id and UIDs, so it stays on this computer.

    ``ct_files`` has one entry a slice file in the order of positions; ``sop_instance_uids`` one a slice, None where it
    was interpolated. ``segments`` is the name of the file of segments, None if there is none.
    """

    cure: ClassVar[str] = "Extract the case again."

    schema_version: Literal[1] = 1
    software_version: str = __version__
    case: str
    label_set: str
    patient_id: str
    study_uid: str
    study_date: str
    series_uid: str
    series_description: str
    frame_of_reference_uid: str
    ct_folder: str
    ct_files: tuple[str, ...]
    sop_instance_uids: tuple[str | None, ...]
    rtstruct_file: str | None
    rtstruct_uid: str | None
    rtstruct_label: str | None
    rtstruct_key: str | None
    linked_by: str | None
    geometry: Geometry
    ct: str = CT_FILE
    segments: str | None
    rois: tuple[ExtractedRoi, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Chosen:
    """A CT, and its RTSTRUCT if it has one."""

    name: str
    series: CTSeries
    planned: PlannedCase | None


def extract(
    dicom: Path,
    out: Path,
    *,
    case: str | None = None,
    series: str | None = None,
    all_rois: bool = False,
    label_set: LabelSet,
    options: ConversionOptions | None = None,
    cohort: CohortPaths | None = None,
    reporter: Reporter | None = None,
) -> ExtractRecord:
    """Write ``ct.nrrd``, ``structures.seg.nrrd`` and, when both are whole, ``extract.json``.

    Nothing is resampled. Each ROI that is taken for a structure is a segment with exactly the voxels that a conversion
    gives the structure; where several ROIs are one structure, each is a segment of its own.

    Parameters
    ----------
    dicom
        Folder with DICOM files.
    out
        Folder for the files; made if missing.
    case
        Name of the case, as a scan gives it; not needed where there is one.
    series
        Series Instance UID of the CT, or the end of it, in place of ``case``; also of a CT without contours.
    all_rois
        Also the ROIs that are no structure, in the colors of the RTSTRUCT.
    label_set
        Structures to look for.
    options
        As for a conversion.
    cohort
        Cohort whose corrections and settings hold.
    reporter
        Hears progress and warnings, and may ask to stop.

    Raises
    ------
    BadInputError
        If there is no such case, several are meant, or a file cannot be read.
    GeometryError
        If the slices form no volume.
    StorageError
        If the files cannot be written.
    CancelledError
        If the reporter asked to stop.
    """
    reporter = reporter or SilentReporter()

    def progress(done: int, total: int) -> None:
        reporter.progress("scan", done, total)
        reporter.check_cancelled()

    found = scan(dicom, progress=progress)
    planning = plan_folder(found, label_set, options, cohort)
    chosen = _choose(dicom, found, planning, case, series)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        # What is written below belongs to no record until the new one is there.
        (out / RECORD_FILE).unlink(missing_ok=True)
        (out / SEGMENTS_FILE).unlink(missing_ok=True)
    reporter.progress("extract", 0, 3)
    with ThreadPoolExecutor(2) as beside:
        planned = chosen.planned
        reading = beside.submit(read_rtstruct, planned.link.rtstruct.path) if planned is not None else None
        ct = read_ct(chosen.series)
        reporter.check_cancelled()
        writing = beside.submit(_write_ct, ct, out / CT_FILE)
        reporter.progress("extract", 1, 3)
        rtstruct = reading.result() if reading is not None else None
        drawn = _draw(rtstruct, ct, label_set, planning, planned, all_rois) if rtstruct and planned else _Drawn()
        reporter.check_cancelled()
        reporter.progress("extract", 2, 3)
        if drawn.segments:
            write_segments(drawn.segments, ct.grid, out / SEGMENTS_FILE, description=DESCRIPTION)
        writing.result()
    choice = planned.warnings if planned else chosen.series.warnings
    record = ExtractRecord(
        case=chosen.name,
        label_set=label_set.name,
        patient_id=ct.patient_id,
        study_uid=ct.study_uid,
        study_date=chosen.series.study_date,
        series_uid=ct.series_uid,
        series_description=ct.description,
        frame_of_reference_uid=ct.frame_of_reference_uid,
        ct_folder=str(chosen.series.files[0].parent.resolve()),
        ct_files=tuple(str(path.resolve()) for path in chosen.series.files),
        sop_instance_uids=ct.sop_instance_uids,
        rtstruct_file=str(rtstruct.path.resolve()) if rtstruct else None,
        rtstruct_uid=rtstruct.sop_instance_uid if rtstruct else None,
        rtstruct_label=rtstruct.label if rtstruct else None,
        rtstruct_key=rtstruct_key(planned.link.rtstruct) if planned else None,
        linked_by=planned.link.by if planned else None,
        geometry=Geometry.of(ct.grid),
        segments=SEGMENTS_FILE if drawn.segments else None,
        rois=drawn.rois,
        warnings=tuple(dict.fromkeys([*choice, *ct.warnings, *drawn.warnings])),
    )
    for warning in record.warnings:
        reporter.warning(warning, record.case)
    write_record(record, out / RECORD_FILE)
    reporter.progress("extract", 3, 3)
    return record


def _choose(dicom: Path, found: ScanResult, planning: Planning, case: str | None, series: str | None) -> _Chosen:
    cases = planning.plan.cases
    if case is not None:
        named = [one for one in cases if one.name == case]
        if not named:
            raise BadInputError(f"{dicom} holds no case “{case}”.", _there_are([one.name for one in cases]))
        return _Chosen(named[0].name, named[0].series, named[0])
    every = [one for patient in found.patients for one in patient.series]
    if series is not None:
        meant = [one for one in every if one.series_uid.endswith(series)]
        exact = [one for one in meant if one.series_uid == series]
        meant = exact or meant
        if not meant:
            raise BadInputError(f"{dicom} holds no CT series “{series}”.", "Scan the folder to see what it holds.")
        planned = [one for one in cases if any(one.series is other or one.series == other for other in meant)]
        if len(planned) == 1:
            return _Chosen(planned[0].name, planned[0].series, planned[0])
        if len(meant) > 1:
            raise BadInputError(f"{len(meant)} CTs in {dicom} have the series UID “{series}”.", "Name the case.")
        return _Chosen(meant[0].patient_id or "CT", meant[0], None)
    if len(cases) == 1:
        return _Chosen(cases[0].name, cases[0].series, cases[0])
    if cases:
        raise BadInputError(f"{dicom} holds {len(cases)} cases.", _there_are([one.name for one in cases]))
    if len(every) == 1:
        return _Chosen(every[0].patient_id or "CT", every[0], None)
    if not every:
        raise BadInputError(f"{dicom} holds no CT series.", "Choose the folder that holds the slices.")
    raise BadInputError(
        f"{dicom} holds {len(every)} CT series and no contours on them.", "Choose one by the end of its series UID."
    )


def _there_are(names: Sequence[str]) -> str:
    if not names:
        return "No CT there has contours."
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"Name one of {', '.join(names[:8])}{more}."


def _write_ct(ct: CTVolume, path: Path) -> None:
    # Not flushed to the disk as what is kept would be: it is read once, by the one who asked for it.
    with storage_errors(path), path.open("wb") as stream:
        stream.write(nrrd_header(ct.grid, ct.array.dtype))
        stream.write(ct.array.data)


@dataclass(frozen=True)
class _Drawn:
    segments: tuple[Segment, ...] = ()
    rois: tuple[ExtractedRoi, ...] = ()
    warnings: tuple[str, ...] = ()


def _draw(
    rtstruct: RTStruct,
    ct: CTVolume,
    label_set: LabelSet,
    planning: Planning,
    planned: PlannedCase,
    all_rois: bool,
) -> _Drawn:
    assignment, elsewhere = assign_rois(
        rtstruct,
        ct.frame_of_reference_uid,
        label_set,
        planning.rules,
        roi_map=planning.roi_map,
        corrections=planning.mended(planned),
    )
    warnings = [*rtstruct.warnings, *assignment.warnings]
    if elsewhere:
        names = ", ".join(f"“{roi.name}”" for roi in rtstruct.rois if roi.number in elsewhere)
        warnings.append(f"ROI {names}: drawn in another frame of reference than this CT, not shown.")
    shared = {key for key, numbers in assignment.structures().items() if len(numbers) > 1}
    pairs = list(zip(assignment.decisions, rtstruct.rois, strict=True))
    ordered = sorted(
        (place for place, (decision, _) in enumerate(pairs) if all_rois or decision.structure),
        key=lambda place: _order(pairs[place][0], label_set, place),
    )
    segments: list[Segment] = []
    volumes: dict[int, float] = {}
    shown: dict[int, str] = {}
    for place in ordered:
        decision, roi = pairs[place]
        if roi.number in elsewhere or not any(contour.encloses for contour in roi.contours):
            continue  # told above, or an isocenter or an empty ROI, which the table of ROIs shows
        drawn = rasterize(roi.contours, ct.grid)
        warnings += drawn.report.warnings(roi.name)
        drawn = _filled(drawn, ct.interpolated_slices)
        if decision.structure is not None and drawn.voxel_count == 0:
            warnings.append(
                f"ROI “{roi.name}” covers no voxel: {label_set[decision.structure].name} is not taken from it."
            )
        segment = _segment(decision, roi, drawn, label_set, shared, {one.identifier for one in segments})
        segments.append(segment)
        volumes[place] = round(drawn.voxel_count * ct.grid.voxel_volume, 4)
        shown[place] = segment.identifier
    if not any(decision.structure for decision in assignment.decisions):
        warnings.append(f"{rtstruct.path.name} draws no structure of the label set {label_set.name}.")
    rois = tuple(
        ExtractedRoi(
            number=decision.number,
            name=decision.name,
            structure=decision.structure,
            kind=str(decision.kind),
            by=decision.by,
            reason=decision.reason,
            contours=len(roi.contours),
            volume_cc=volumes.get(place),
            segment=shown.get(place),
        )
        for place, (decision, roi) in enumerate(pairs)
    )
    return _Drawn(tuple(segments), rois, tuple(warnings))


def _order(decision: RoiDecision, label_set: LabelSet, place: int) -> tuple[int, int]:
    """Return what puts structures first, in the order of the label set."""
    return (label_set[decision.structure].label if decision.structure else len(label_set) + 1), place


def _segment(
    decision: RoiDecision, roi: ROI, drawn: RoiMask, label_set: LabelSet, shared: set[str], taken: set[str]
) -> Segment:
    if decision.structure is None:
        identifier, name, tags = f"roi_{roi.number}", roi.name or f"ROI {roi.number}", ""
        color = roi.color or _GRAYS[len(taken) % len(_GRAYS)]
    else:
        structure = label_set[decision.structure]
        several = structure.key in shared
        identifier = f"{structure.key}_{roi.number}" if several else structure.key
        name = f"{structure.name} ({roi.name})" if several else structure.name
        color, tags = structure.color, segment_tags(structure)
    # Two ROIs can have one number; identifiers cannot.
    unique = next(text for text in _numbered(identifier, len(taken)) if text not in taken)
    return Segment(unique, name, color, tags, drawn.box, drawn.voxels)


def _numbered(identifier: str, count: int) -> Sequence[str]:
    return [identifier, *(f"{identifier}_{number}" for number in range(2, count + 3))]


def _filled(drawn: RoiMask, slices: tuple[int, ...]) -> RoiMask:
    """Shape the mask on interpolated slices between its neighbors, as a conversion does."""
    z = drawn.box[0]
    inside = tuple(index - z.start + 1 for index in slices if z.start < index < z.stop - 1)
    if not inside:
        return drawn
    # The border stands for all that lies outside the box: distances to it decide where the shape ends.
    mask = np.pad(drawn.voxels, 1)
    fill_interpolated_slices(mask, inside)
    return RoiMask(drawn.box, mask[1:-1, 1:-1, 1:-1], drawn.report)
