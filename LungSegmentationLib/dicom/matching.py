"""Which CT an RTSTRUCT is drawn on: by what it refers to, by its frame of reference, or by where its contours lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.rtstruct import ContourType, RTStruct, read_rtstruct
from LungSegmentationLib.dicom.series import CTSeries, Evidence, Link, LinkedBy, RTStructFile
from LungSegmentationLib.dicom.slices import axes_of
from LungSegmentationLib.errors import LungSegError

__all__ = ["contours_fit", "describe", "match", "rois_in_another_frame", "same_name"]

# Contours drawn on a CT lie in its slices; another CT of the patient hardly ever has its slices at the same places.
ON_SLICE: Final = 0.9
ON_SLICE_DISTANCE: Final = 0.25
INSIDE: Final = 0.99

NO_EVIDENCE: Final = Evidence()

Points = NDArray[np.float64]


@dataclass(frozen=True)
class _Hit:
    series: CTSeries
    by: LinkedBy
    warnings: tuple[str, ...]
    evidence: Evidence = NO_EVIDENCE


@dataclass(frozen=True, eq=False)
class _Outline:
    """A closed contour: points (n, 3), LPS, mm; the frame of reference of its ROI; the images it claims to lie on."""

    points: Points
    frame: str
    images: tuple[str, ...]


Outlines = Callable[[], list[_Outline]]
Found = tuple[list[_Hit], tuple[str, ...]]


def describe(rtstruct: RTStruct) -> RTStructFile:
    """Return an RTSTRUCT without contours, as a scan lists it."""
    return RTStructFile(
        path=rtstruct.path,
        sop_instance_uid=rtstruct.sop_instance_uid,
        series_uid=rtstruct.series_uid,
        study_uid=rtstruct.study_uid,
        patient_id=rtstruct.patient_id,
        patient_name=rtstruct.patient_name,
        label=rtstruct.label,
        date=rtstruct.date,
        frame_of_reference_uids=rtstruct.frame_of_reference_uids,
        referenced_series_uids=rtstruct.referenced_series_uids,
        roi_names=tuple(roi.name for roi in rtstruct.rois),
        warnings=rtstruct.warnings,
        predicted=rtstruct.predicted,
    )


def match(rtstruct: RTStruct, series: Sequence[CTSeries]) -> tuple[tuple[Link, ...], tuple[str, ...]]:
    """Find the CT series of an RTSTRUCT.

    Parameters
    ----------
    rtstruct
        Read with or without contours; they are read again from the file if the decision needs them.
    series
        All that there are, of all patients.

    Returns
    -------
    links
        One a series that fits, that with most evidence first; the first way that finds any decides: reference, frame
        of reference, geometry. A link by frame of reference or geometry stays within one patient id. Of several series,
        those of the RTSTRUCT's own patient count, and none that its contours do not lie in if they lie in the first.
    warnings
        Why there is no link, or why a series that could be meant was not taken.
    """
    file = describe(rtstruct)
    outlines = _lazy_outlines(rtstruct)
    for find in (_by_reference, _by_frame_of_reference, _by_geometry):
        hits, refused = find(rtstruct, series, outlines)
        if hits or refused:
            hits = _weighed(rtstruct, hits, outlines)
            return tuple(Link(file, hit.series, hit.by, hit.warnings, hit.evidence) for hit in hits), refused
    return (), (f"{rtstruct.path}: no CT in the folder belongs to this RTSTRUCT.",)


def rois_in_another_frame(rtstruct: RTStruct, frame_of_reference_uid: str) -> frozenset[int]:
    """Find the ROIs that are not drawn on a CT although others of the same file are.

    Parameters
    ----------
    rtstruct
        Read with contours.
    frame_of_reference_uid
        That of the CT.

    Returns
    -------
    frozenset
        Numbers of the ROIs whose frame of reference (3006,0024) is another one: their coordinates mean other places
        (DICOM PS3.3 C.8.8.5). Empty if no ROI with contours has the CT's frame, because then the file as a whole was
        told to be drawn on this CT by where its contours lie.
    """
    drawn = [roi for roi in rtstruct.rois if any(contour.encloses for contour in roi.contours)]
    if not frame_of_reference_uid or all(roi.frame_of_reference_uid != frame_of_reference_uid for roi in drawn):
        return frozenset()
    frames = {"", frame_of_reference_uid}
    return frozenset(roi.number for roi in rtstruct.rois if roi.frame_of_reference_uid not in frames)


def same_name(one: str, other: str) -> bool:
    """Whether two Patient's Names can be one person's: spelled alike but for case and separators, or one is empty."""
    first, second = (" ".join(name.replace("^", " ").casefold().split()) for name in (one, other))
    return not first or not second or first == second


def _lazy_outlines(rtstruct: RTStruct) -> Outlines:
    kept: list[list[_Outline]] = []

    def outlines() -> list[_Outline]:
        if not kept:
            try:
                whole = read_rtstruct(rtstruct.path, with_contours=True)
            except LungSegError:
                # Reported where the contours are used; here it means that nothing can be said by geometry.
                kept.append([])
            else:
                drawn = [
                    _Outline(contour.points, roi.frame_of_reference_uid, contour.image_uids)
                    for roi in whole.rois
                    for contour in roi.contours
                    if contour.type is not ContourType.POINT and len(contour.points) > 2
                ]
                kept.append(drawn)
        return kept[0]

    return outlines


def _fit(outlines: Sequence[_Outline], series: CTSeries) -> bool:
    """Whether contours lie in the slices: those in the frame of reference of the series, if there are any, else all."""
    frame = series.frame_of_reference_uid
    own = [outline.points for outline in outlines if frame and outline.frame == frame]
    return contours_fit(own or [outline.points for outline in outlines], series)


def _weighed(rtstruct: RTStruct, hits: list[_Hit], outlines: Outlines) -> list[_Hit]:
    """Put the series that most speaks for first, and leave out those that the contours do not lie in."""
    belonging = [_belonging(rtstruct, hit.series) for hit in hits]
    hits = [hit for hit, rank in zip(hits, belonging, strict=True) if rank == max(belonging)]
    images = rtstruct.referenced_image_uids
    if len(hits) < 2:
        return [
            replace(hit, evidence=Evidence(images=len(images.intersection(hit.series.sop_instance_uids))))
            for hit in hits
        ]
    drawn = outlines()
    weighed = []
    for hit in hits:
        own, frame = frozenset(hit.series.sop_instance_uids), hit.series.frame_of_reference_uid
        evidence = Evidence(
            named=sum(not own.isdisjoint(outline.images) for outline in drawn),
            in_frame=sum(bool(frame) and outline.frame == frame for outline in drawn),
            fits=_fit(drawn, hit.series),
            images=len(images & own),
        )
        weighed.append(replace(hit, evidence=evidence))
    weighed.sort(key=lambda hit: hit.evidence, reverse=True)
    return _without_misfits(rtstruct, weighed, len(drawn))


def _belonging(rtstruct: RTStruct, series: CTSeries) -> tuple[bool, bool]:
    return series.patient_id == rtstruct.patient_id, same_name(series.patient_name, rtstruct.patient_name)


def _without_misfits(rtstruct: RTStruct, hits: list[_Hit], contours: int) -> list[_Hit]:
    name, best = rtstruct.path.name, hits[0]
    warnings = list(best.warnings)
    elsewhere = sum(hit.evidence.named for hit in hits[1:])
    if best.evidence.named and elsewhere:
        warnings.append(
            f"{best.evidence.named} of the {contours} contours of {name} name images of this series, {elsewhere} those "
            "of others; all are placed by their coordinates."
        )
    fitting = [hit for hit in hits if hit.evidence.fits]
    if fitting and not best.evidence.fits:
        warnings.append(
            f"{name} names this series, but its contours do not lie in the slices; they do lie in those of "
            f"{_named(fitting)}. Look at this case before you use it."
        )
    left_out = [hit for hit in hits if best.evidence.fits and not hit.evidence.fits]
    if left_out:
        warnings.append(f"{name} may mean {_named(left_out)} as well, but its contours do not lie in those slices.")
    return [replace(best, warnings=tuple(warnings)), *(hit for hit in hits[1:] if hit not in left_out)]


def _named(hits: Sequence[_Hit]) -> str:
    shown = [f"series …{hit.series.series_uid[-12:]} ({hit.series.slice_count} slice(s))" for hit in hits[:3]]
    return ", ".join(shown) + (f" and {len(hits) - 3} more" if len(hits) > 3 else "")


def _by_reference(rtstruct: RTStruct, series: Sequence[CTSeries], outlines: Outlines) -> Found:
    images = rtstruct.referenced_image_uids
    named = [(one, images.intersection(one.sop_instance_uids)) for one in series]
    named = [(one, found) for one, found in named if found or one.series_uid in rtstruct.referenced_series_uids]
    missing = len(images.difference(*(found for _, found in named)))
    hits, refused = [], []
    for one, found in named:
        warnings = []
        if images and not found:
            warnings.append(
                f"{rtstruct.path.name} refers to this series, but none of the {len(images)} images it names is in it; "
                "its contours are placed by position."
            )
        elif missing:
            warnings.append(f"{missing} of the {len(images)} images that {rtstruct.path.name} names are not there.")
        if rtstruct.patient_id and one.patient_id and rtstruct.patient_id != one.patient_id:
            warnings.append(
                f"{rtstruct.path.name} is of patient “{rtstruct.patient_id}”, the CT that it refers to of "
                f"“{one.patient_id}”."
            )
        if _frames_differ(rtstruct, one):
            if not _fit(outlines(), one):
                refused.append(
                    f"{rtstruct.path}: it refers to the CT in {one.files[0].parent}, but has another frame of "
                    "reference and its contours do not lie in that CT; it was not used for it."
                )
                continue
            warnings.append(
                f"{rtstruct.path.name} has another frame of reference than the CT that it refers to; its contours lie "
                "in the slices, so they were taken as they are."
            )
        hits.append(_Hit(one, "reference", tuple(warnings)))
    return hits, tuple(refused)


def _frames(rtstruct: RTStruct) -> frozenset[str]:
    """Return the frames of reference that the coordinates are in: those of the ROIs, else all that the file names."""
    of_rois = frozenset(roi.frame_of_reference_uid for roi in rtstruct.rois) - {""}
    return of_rois or frozenset(rtstruct.frame_of_reference_uids)


def _frames_differ(rtstruct: RTStruct, series: CTSeries) -> bool:
    frames = _frames(rtstruct)
    return bool(frames and series.frame_of_reference_uid and series.frame_of_reference_uid not in frames)


def _by_frame_of_reference(rtstruct: RTStruct, series: Sequence[CTSeries], _: Outlines) -> Found:
    frames = _frames(rtstruct)
    same = [one for one in series if one.frame_of_reference_uid and one.frame_of_reference_uid in frames]
    own = [one for one in same if one.patient_id == rtstruct.patient_id]
    if not own:
        strangers = sorted({one.patient_id for one in same})
        if not strangers:
            return [], ()
        shown = "”, “".join(strangers)
        reason = f"its frame of reference is that of a CT of another patient (“{shown}”); it was not used."
        return [], (f"{rtstruct.path}: {reason}",)
    warnings = []
    if rtstruct.referenced_series_uids:
        warnings.append(
            f"The series that {rtstruct.path.name} refers to is not in the folder; this one has the same frame of "
            "reference."
        )
    return [_Hit(one, "frame of reference", tuple(warnings)) for one in own], ()


def _by_geometry(rtstruct: RTStruct, series: Sequence[CTSeries], outlines: Outlines) -> Found:
    own = [one for one in series if one.patient_id == rtstruct.patient_id]
    # The same id in another study may be another person, and without an id it is: geometry alone crosses studies only
    # if there is one CT of that id, and nothing says that it is of somebody else.
    near = [one for one in own if one.study_uid == rtstruct.study_uid]
    if not near and len(own) == 1 and rtstruct.patient_id and same_name(own[0].patient_name, rtstruct.patient_name):
        near = own
    if not near:
        return [], ()
    fitting = [one for one in near if _fit(outlines(), one)]
    if not fitting:
        reason = "it refers to no CT in the folder and its contours do not lie in the slices of the patient's CT"
        return [], (f"{rtstruct.path}: {reason}; it was not used.",)
    warning = (
        f"{rtstruct.path.name} refers to no CT in the folder and has another frame of reference; its contours lie in "
        "the slices of this one, so they were taken as they are."
    )
    more = (f"Its contours lie in the slices of {len(fitting)} series.",) if len(fitting) > 1 else ()
    return [_Hit(one, "geometry", (warning, *more)) for one in fitting], ()


def contours_fit(contours: Sequence[Points], series: CTSeries) -> bool:
    """Whether contours (n, 3), LPS, mm lie in the slices of a series: inside the image and at their positions."""
    if not contours:
        return False
    row, column, normal = axes_of(series.orientation, series.files[0])
    points = np.concatenate(contours)
    if not np.isfinite(points).all():
        return False
    relative = points - np.asarray(series.origin)
    across = relative @ row / series.pixel_spacing[1]
    down = relative @ column / series.pixel_spacing[0]
    inside = (across >= -1) & (across <= series.columns) & (down >= -1) & (down <= series.rows)
    if inside.mean() < INSIDE:
        return False
    places = np.asarray(series.positions)
    step = float(np.median(np.diff(places))) if len(places) > 1 else (series.thickness or 5.0)
    means = np.array([float((contour @ normal).mean()) for contour in contours])
    nearest = np.abs(means[:, None] - places[None, :]).min(axis=1)
    return bool((nearest <= ON_SLICE_DISTANCE * step).mean() >= ON_SLICE)
