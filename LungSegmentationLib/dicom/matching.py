"""Which CT an RTSTRUCT is drawn on: by what it refers to, by its frame of reference, or by where its contours lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.rtstruct import ContourType, RTStruct, read_rtstruct
from LungSegmentationLib.dicom.series import CTSeries, Link, LinkedBy, RTStructFile
from LungSegmentationLib.dicom.slices import axes_of
from LungSegmentationLib.errors import LungSegError

__all__ = ["contours_fit", "describe", "match"]

# Contours drawn on a CT lie in its slices; another CT of the patient hardly ever has its slices at the same places.
ON_SLICE: Final = 0.9
ON_SLICE_DISTANCE: Final = 0.25
INSIDE: Final = 0.99

Points = NDArray[np.float64]


@dataclass(frozen=True)
class _Hit:
    series: CTSeries
    by: LinkedBy
    warnings: tuple[str, ...]


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
        One a series that fits; the first way that finds any decides: reference, frame of reference, geometry. A link by
        frame of reference or geometry stays within one patient id.
    warnings
        Why there is no link, or why a series that could be meant was not taken.
    """
    file = describe(rtstruct)
    contours = _lazy_contours(rtstruct)
    for find in (_by_reference, _by_frame_of_reference, _by_geometry):
        hits, refused = find(rtstruct, series, contours)
        if hits or refused:
            return tuple(Link(file, hit.series, hit.by, hit.warnings) for hit in hits), refused
    return (), (f"{rtstruct.path}: no CT in the folder belongs to this RTSTRUCT.",)


Contours = Callable[[], list[Points]]
Found = tuple[list[_Hit], tuple[str, ...]]


def _lazy_contours(rtstruct: RTStruct) -> Contours:
    kept: list[list[Points]] = []

    def contours() -> list[Points]:
        if not kept:
            try:
                whole = read_rtstruct(rtstruct.path, with_contours=True)
            except LungSegError:
                # Reported where the contours are used; here it means that nothing can be said by geometry.
                kept.append([])
            else:
                drawn = [contour for roi in whole.rois for contour in roi.contours]
                kept.append([c.points for c in drawn if c.type is not ContourType.POINT and len(c.points) > 2])
        return kept[0]

    return contours


def _by_reference(rtstruct: RTStruct, series: Sequence[CTSeries], contours: Contours) -> Found:
    images = rtstruct.referenced_image_uids
    named = [(one, len(images.intersection(one.sop_instance_uids))) for one in series]
    named = [(one, count) for one, count in named if count or (one.series_uid in rtstruct.referenced_series_uids)]
    if any(count for _, count in named):
        named = [(one, count) for one, count in named if count]
    hits, refused = [], []
    for one, count in named:
        warnings = []
        if images and not count:
            warnings.append(
                f"{rtstruct.path.name} refers to this series, but none of the {len(images)} images it names is in it; "
                "its contours are placed by position."
            )
        elif count < len(images):
            warnings.append(
                f"{len(images) - count} of the {len(images)} images that {rtstruct.path.name} names are not there."
            )
        if rtstruct.patient_id and one.patient_id and rtstruct.patient_id != one.patient_id:
            warnings.append(
                f"{rtstruct.path.name} is of patient “{rtstruct.patient_id}”, the CT that it refers to of "
                f"“{one.patient_id}”."
            )
        if _frames_differ(rtstruct, one):
            if not contours_fit(contours(), one):
                refused.append(
                    f"{rtstruct.path}: it refers to the CT in {one.files[0].parent}, but has another frame of "
                    "reference and its contours do not lie in that CT; it was not used."
                )
                continue
            warnings.append(
                f"{rtstruct.path.name} has another frame of reference than the CT that it refers to; its contours lie "
                "in the slices, so they were taken as they are."
            )
        hits.append(_Hit(one, "reference", tuple(warnings)))
    return hits, tuple(refused)


def _frames_differ(rtstruct: RTStruct, series: CTSeries) -> bool:
    frames = rtstruct.frame_of_reference_uids
    return bool(frames and series.frame_of_reference_uid and series.frame_of_reference_uid not in frames)


def _by_frame_of_reference(rtstruct: RTStruct, series: Sequence[CTSeries], contours: Contours) -> Found:
    same = [
        one
        for one in series
        if one.frame_of_reference_uid and one.frame_of_reference_uid in rtstruct.frame_of_reference_uids
    ]
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
    if len(own) > 1:
        fitting = [one for one in own if contours_fit(contours(), one)]
        own = fitting or own
        if len(own) > 1:
            warnings.append(f"{len(own)} series have the frame of reference of {rtstruct.path.name}.")
    return [_Hit(one, "frame of reference", tuple(warnings)) for one in own], ()


def _by_geometry(rtstruct: RTStruct, series: Sequence[CTSeries], contours: Contours) -> Found:
    own = [one for one in series if one.patient_id == rtstruct.patient_id]
    # The same id in another study may be another person: geometry alone crosses studies only if there is one CT.
    near = [one for one in own if one.study_uid == rtstruct.study_uid] or (own if len(own) == 1 else [])
    if not near:
        return [], ()
    fitting = [one for one in near if contours_fit(contours(), one)]
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
