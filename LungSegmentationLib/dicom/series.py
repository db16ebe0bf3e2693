"""What a scan of a folder finds: patients, their CT series, RTSTRUCT files, and which of them belong together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["CTSeries", "Evidence", "Link", "LinkedBy", "Patient", "RTStructFile", "ScanResult", "Study"]

LinkedBy = Literal["reference", "frame of reference", "geometry"]


@dataclass(frozen=True)
class CTSeries:
    """Slices of one CT series that can form one volume.

    Attributes
    ----------
    series_uid, study_uid, patient_id, patient_name, frame_of_reference_uid, description, study_date
        As in the files; empty where they do not say.
    files
        One or several, in the order of their positions.
    slice_count
        Number of different positions.
    sop_instance_uids
        One a file.
    orientation
        Unit vectors along a row and along a column, LPS.
    origin
        Center of the first pixel of the first slice, LPS, mm.
    positions
        Distances along the normal (row × column) in mm, ascending, one a slice.
    rows, columns, pixel_spacing
        Size in pixels; distance between rows and between columns in mm.
    thickness
        Slice thickness in mm, None where the files do not say.
    part, parts
        A series that mixes orientations, sizes or frames of reference is split: the number of this part, from 1.
    warnings
        What a user should know, in sentences.
    """

    series_uid: str
    study_uid: str
    patient_id: str
    patient_name: str
    frame_of_reference_uid: str
    description: str
    study_date: str
    files: tuple[Path, ...]
    slice_count: int
    sop_instance_uids: tuple[str, ...]
    orientation: tuple[float, ...]
    origin: tuple[float, ...]
    positions: tuple[float, ...]
    rows: int
    columns: int
    pixel_spacing: tuple[float, ...]
    thickness: float | None = None
    part: int = 1
    parts: int = 1
    warnings: tuple[str, ...] = ()
    modality: str = "CT"

    def as_dict(self) -> dict[str, Any]:
        """Return what a JSON file can hold; of the files their folder and number."""
        return {
            "series_uid": self.series_uid,
            "study_uid": self.study_uid,
            "frame_of_reference_uid": self.frame_of_reference_uid,
            "description": self.description,
            "study_date": self.study_date,
            "modality": self.modality,
            "part": self.part,
            "parts": self.parts,
            "folder": str(self.files[0].parent),
            "files": len(self.files),
            "slices": self.slice_count,
            "rows": self.rows,
            "columns": self.columns,
            "pixel_spacing": list(self.pixel_spacing),
            "orientation": list(self.orientation),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class RTStructFile:
    """An RTSTRUCT without its contours."""

    path: Path
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    patient_name: str
    label: str
    date: str
    frame_of_reference_uids: tuple[str, ...]
    referenced_series_uids: tuple[str, ...]
    roi_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    predicted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return what a JSON file can hold."""
        return {
            "path": str(self.path),
            "sop_instance_uid": self.sop_instance_uid,
            "series_uid": self.series_uid,
            "study_uid": self.study_uid,
            "label": self.label,
            "date": self.date,
            "rois": list(self.roi_names),
            "predicted": self.predicted,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, order=True)
class Evidence:
    """What speaks for a series among several that an RTSTRUCT may be drawn on: more is better, the first counts most.

    Attributes
    ----------
    named
        Contours that name an image of the series; 0 where there was no other series and nobody looked.
    in_frame
        Contours of ROIs in the frame of reference of the series; likewise.
    fits
        Whether the contours lie in its slices; likewise.
    images
        Images of the series that the RTSTRUCT names as a whole.
    """

    named: int = 0
    in_frame: int = 0
    fits: bool = False
    images: int = 0


@dataclass(frozen=True)
class Link:
    """An RTSTRUCT and a CT that its contours are drawn on, and how that is known."""

    rtstruct: RTStructFile
    series: CTSeries
    by: LinkedBy
    warnings: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)

    def as_dict(self) -> dict[str, Any]:
        """Return what a JSON file can hold."""
        return {
            "rtstruct": str(self.rtstruct.path),
            "series_uid": self.series.series_uid,
            "part": self.series.part,
            "by": self.by,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Study:
    """CT series of one study."""

    study_uid: str
    date: str
    series: tuple[CTSeries, ...]


@dataclass(frozen=True)
class Patient:
    """One person: files with one patient id, name and date of birth.

    Two with the same id and another name or date of birth are two patients, each with a warning.
    """

    patient_id: str
    patient_name: str
    birth_date: str
    studies: tuple[Study, ...]
    rtstructs: tuple[RTStructFile, ...]
    links: tuple[Link, ...]
    warnings: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[CTSeries, ...]:
        """All CT series, study by study."""
        return tuple(series for study in self.studies for series in study.series)

    def links_of(self, series: CTSeries) -> tuple[Link, ...]:
        """Return the links of one series."""
        return tuple(link for link in self.links if link.series is series or link.series == series)

    def as_dict(self) -> dict[str, Any]:
        """Return what a JSON file can hold."""
        return {
            "patient_id": self.patient_id,
            "patient_name": self.patient_name,
            "birth_date": self.birth_date,
            "studies": [
                {
                    "study_uid": study.study_uid,
                    "date": study.date,
                    "series": [series.as_dict() for series in study.series],
                }
                for study in self.studies
            ],
            "rtstructs": [rtstruct.as_dict() for rtstruct in self.rtstructs],
            "links": [link.as_dict() for link in self.links],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class ScanResult:
    """What a folder holds.

    Attributes
    ----------
    patients
        In the order of their ids.
    unreadable
        Files and folders that could not be read, with the reason: not DICOM, damaged, no permission.
    other
        Number of DICOM files that were not used, by kind (modality, DICOMDIR, CT localizer …).
    files
        Number of files found.
    warnings
        What a user should know of the folder as a whole.
    """

    patients: tuple[Patient, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()
    other: dict[str, int] = field(default_factory=dict)
    files: int = 0
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return what a JSON file can hold."""
        return {
            "patients": [patient.as_dict() for patient in self.patients],
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
            "other": dict(self.other),
            "files": self.files,
            "warnings": list(self.warnings),
        }
