"""Patients that a scan found, what each ROI would become, and a user's corrections of that; no nodes of the scene."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene.Errors import SceneError

IGNORE = "ignore"
"""What a correction says of an ROI that is not to be used."""


@dataclass
class Roi:
    """One ROI of an RTSTRUCT, and what it would become.

    Attributes
    ----------
    structure
        Key of the structure that it is taken for; None if it is not used.
    reason
        Why, for people.
    corrected
        Whether a person said so.
    volumeCc
        None where it encloses nothing, or the CT cannot be used.
    """

    number: int
    name: str
    contours: int
    structure: str | None
    reason: str
    corrected: bool
    volumeCc: float | None


@dataclass
class PatientCt:
    """A CT that a scan found, with the RTSTRUCT that is taken for it.

    Attributes
    ----------
    name
        Of the case that it would become.
    folder
        Smallest folder with all its files; empty where there is none.
    rtstruct
        Label of the RTSTRUCT; None where nothing is drawn on the CT.
    rtstructUid, rtstructKey
        Its SOP Instance UID, and what corrections are kept by.
    error
        Why it cannot be converted; empty if it can.
    state
        What became of it in a conversion: empty, ``converted`` or ``failed``.
    """

    name: str
    seriesUid: str
    description: str
    slices: int
    folder: str
    rtstruct: str | None = None
    rtstructUid: str = ""
    rtstructKey: str = ""
    rois: list[Roi] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    state: str = ""


@dataclass
class Findings:
    """What a folder holds."""

    patients: list[PatientCt]
    notes: list[str]


def readFindings(file: Path) -> Findings:
    """Read what ``lungseg scan --output`` wrote.

    Raises
    ------
    SceneError
        If the file is not whole.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        return _findings(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SceneError(
            _("What the scan found cannot be read ({why}).").format(why=error), _("Scan again.")
        ) from error


def _findings(content: dict) -> Findings:
    patients = [_withContours(case) for case in content["cases"]]
    series = {
        one["series_uid"]: one
        for patient in content["scan"]["patients"]
        for study in patient["studies"]
        for one in study["series"]
    }
    taken = {patient.seriesUid for patient in patients}
    notes = list(content["scan"]["warnings"])
    for skipped in content["skipped"]:
        one = series.get(skipped["uid"])
        if one is not None and skipped["uid"] not in taken:
            taken.add(skipped["uid"])
            patients.append(
                PatientCt(
                    name=skipped["patient_id"] or _("no id"),
                    seriesUid=one["series_uid"],
                    description=one["description"],
                    slices=one["slices"],
                    folder=one["folder"],
                    warnings=[*one["warnings"], _sentence(skipped["reason"])],
                )
            )
        elif one is None:
            notes.append(f"{skipped['patient_id']}, {skipped['description']}: {_sentence(skipped['reason'])}")
    unreadable = content["scan"]["unreadable"]
    if unreadable:
        notes.append(
            _("{count} file(s) could not be read, the first: {reason}").format(
                count=len(unreadable), reason=unreadable[0]["reason"]
            )
        )
    return Findings(patients, notes)


def _withContours(case: dict) -> PatientCt:
    return PatientCt(
        name=case["case"],
        seriesUid=case["series_uid"],
        description=case["description"],
        slices=case["slices"],
        folder=case["folder"],
        rtstruct=case["rtstruct_label"] or _("RTSTRUCT"),
        rtstructUid=case["rtstruct_uid"],
        rtstructKey=case["rtstruct_key"],
        rois=[
            Roi(
                number=roi["number"],
                name=roi["name"],
                contours=roi["contours"],
                structure=roi["structure"],
                reason=roi["reason"],
                corrected=roi["by"] == "correction",
                volumeCc=roi["volume_cc"],
            )
            for roi in case["rois"]
        ],
        warnings=case["warnings"],
        error=case["error"] or "",
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


class Corrections:
    """A user's corrections: in the cohort where there is one, else in a temporary folder until there is.

    Parameters
    ----------
    cohort
        The cohort's folder, which need not exist yet; None for none.
    """

    def __init__(self, cohort: Path | None = None) -> None:
        self.cohort = cohort
        self._temporary: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that holds them, for ``--cohort``."""
        if self.cohort is not None:
            return self.cohort
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="LungSegmentation-", dir=slicer.app.temporaryPath))
        return self._temporary

    def moveTo(self, cohort: Path | None) -> None:
        """Keep them in another cohort from now on; those made without a cohort are taken along.

        Raises
        ------
        SceneError
            If they cannot be written.
        """
        if cohort == self.cohort:
            return
        pending = self._read().all() if self.cohort is None and self._temporary is not None else {}
        self.cohort = cohort
        if not pending:
            return
        kept = self._read()
        for key, rois in pending.items():
            for roi, structure in rois.items():
                kept.set(key, roi, structure)
        self._write(kept)
        self._temporary = None

    def set(self, rtstructKey: str, roi: str, structure: str | None) -> None:
        """Remember that an ROI is a structure, or (None) is not used.

        Raises
        ------
        SceneError
            If that cannot be written.
        """
        kept = self._read()
        kept.set(rtstructKey, roi, structure)
        self._write(kept)

    def forget(self, rtstructKey: str, roi: str) -> None:
        """Leave an ROI to the rules again; errors as :meth:`set`."""
        kept = self._read()
        kept.forget(rtstructKey, roi)
        self._write(kept)

    @property
    def arguments(self) -> list[str]:
        """What tells a scan or extract of them: nothing while there is neither a cohort nor a correction."""
        from LungSegmentationLib.cohort.paths import CohortPaths

        if self.cohort is None and self._temporary is None:
            return []
        paths = CohortPaths(self.folder)
        return ["--cohort", str(self.folder)] if paths.cohort.is_file() or paths.corrections.is_file() else []

    def _read(self):
        from LungSegmentationLib.cohort.corrections import RoiCorrections
        from LungSegmentationLib.cohort.paths import CohortPaths
        from LungSegmentationLib.errors import LungSegError

        try:
            return RoiCorrections.read(CohortPaths(self.folder))
        except LungSegError as error:
            raise SceneError(error.message, error.hint) from error

    def _write(self, corrections) -> None:
        from LungSegmentationLib.cohort.paths import CohortPaths
        from LungSegmentationLib.errors import LungSegError

        try:
            corrections.write(CohortPaths(self.folder))
        except LungSegError as error:
            raise SceneError(error.message, error.hint) from error


@dataclass
class DatabasePatient:
    """A patient of Slicer's DICOM database with CT or RTSTRUCT."""

    key: str
    name: str
    series: list[str]
    counts: dict[str, int]


def hasDatabase() -> bool:
    """Whether Slicer's DICOM database is there and open."""
    database = getattr(slicer, "dicomDatabase", None)
    return database is not None and bool(database.isOpen)


def databasePatients() -> list[DatabasePatient]:
    """Return the patients of Slicer's DICOM database that have a CT or an RTSTRUCT."""
    database = slicer.dicomDatabase
    found = []
    for key in database.patients():
        series, counts = [], {"CT": 0, "RTSTRUCT": 0}
        for study in database.studiesForPatient(key):
            for uid in database.seriesForStudy(study):
                modality = database.fieldForSeries("Modality", uid)
                if modality in counts:
                    series.append(uid)
                    counts[modality] += 1
        if series:
            name = database.fieldForPatient("PatientID", key) or database.nameForPatient(key) or str(key)
            found.append(DatabasePatient(str(key), name, series, counts))
    return found


def listFiles(patients: Iterable[DatabasePatient]) -> Path:
    """Write the files of patients of the database into a list that the library takes for a folder; return it.

    Raises
    ------
    SceneError
        If it cannot be written.
    """
    lines = [str(file) for one in patients for uid in one.series for file in slicer.dicomDatabase.filesForSeries(uid)]
    file = Path(tempfile.mkdtemp(prefix="LungSegmentation-", dir=slicer.app.temporaryPath)) / "DICOM database.txt"
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise SceneError(_("{file} cannot be written: {why}.").format(file=file, why=error)) from error
    return file
