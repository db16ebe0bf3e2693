"""``slicer.dicomDatabase`` and the indexer that fills it: patients, studies, series and files, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from PySide6 import QtCore

from .ctk_widgets import ctk
from .widget_tools import stored

TAGS = ["PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality"]
DESCRIPTIONS = ["StudyDescription", "SeriesDescription", "SeriesNumber", "StudyDate"]


class ctkDICOMDatabase(QtCore.QObject):
    """Knows indexed files by the identifiers in their headers."""

    databaseChanged = QtCore.Signal()
    SIGNALS = {"databaseChanged": ("",)}

    isOpen = stored(bool, "isOpen", True)

    def __init__(self) -> None:
        super().__init__()
        self._headers: dict[str, dict[str, str]] = {}
        self._patients: list[str] = []

    def patients(self) -> list[str]:
        # The real one numbers its patients in the order in which they came, and gives no number twice.
        present = set(self._values("PatientID"))
        return [str(number) for number, name in enumerate(self._patients, start=1) if name in present]

    def studiesForPatient(self, patient: str) -> list[str]:
        return self._values("StudyInstanceUID", PatientID=self._patients[int(patient) - 1])

    def seriesForStudy(self, study: str) -> list[str]:
        return self._values("SeriesInstanceUID", StudyInstanceUID=study)

    def filesForSeries(self, series: str) -> list[str]:
        return [file for file, header in self._headers.items() if header["SeriesInstanceUID"] == series]

    def instancesForSeries(self, series: str) -> list[str]:
        return self._values("SOPInstanceUID", SeriesInstanceUID=series)

    def fieldForPatient(self, field: str, patient: str) -> str:
        names = {"PatientsName": "PatientName"}
        return self._field(names.get(field, field), PatientID=self._patients[int(patient) - 1])

    def fieldForStudy(self, field: str, study: str) -> str:
        return self._field(field, StudyInstanceUID=study)

    def fieldForSeries(self, field: str, series: str) -> str:
        return self._field(field, SeriesInstanceUID=series)

    def nameForPatient(self, patient: str) -> str:
        return self.fieldForPatient("PatientName", patient)

    def descriptionForSeries(self, series: str) -> str:
        return self.fieldForSeries("SeriesDescription", series)

    def fileForInstance(self, instance: str) -> str:
        found = (file for file, header in self._headers.items() if header["SOPInstanceUID"] == instance)
        return next(found, "")

    def seriesForFile(self, file: str) -> str:
        return self._headers.get(file, {}).get("SeriesInstanceUID", "")

    def allFiles(self) -> list[str]:
        return list(self._headers)

    def removePatient(self, patient: str) -> bool:
        gone = self._patients[int(patient) - 1]
        self._headers = {file: header for file, header in self._headers.items() if header["PatientID"] != gone}
        self.databaseChanged.emit()
        return True

    def insert(self, file: str) -> None:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*TAGS, *DESCRIPTIONS])
        self._headers[str(file)] = {tag: str(header.get(tag, "")) for tag in [*TAGS, *DESCRIPTIONS]}
        if str(header.PatientID) not in self._patients:
            self._patients.append(str(header.PatientID))

    def _values(self, field: str, **conditions: str) -> list[str]:
        chosen = (header for header in self._headers.values() if conditions.items() <= header.items())
        return list(dict.fromkeys(header[field] for header in chosen))

    def _field(self, field: str, **conditions: str) -> str:
        chosen = (header for header in self._headers.values() if conditions.items() <= header.items())
        return next((header.get(field, "") for header in chosen), "")


class ctkDICOMIndexer(QtCore.QObject):
    """Puts the DICOM files of a folder into a database."""

    def addDirectory(self, database: ctkDICOMDatabase, folder: str, *_: Any) -> None:
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            if pydicom.misc.is_dicom(file):
                database.insert(str(file))
        database.databaseChanged.emit()

    def waitForImportFinished(self, timeout: int = -1) -> None:
        """Return at once: the work is done when ``addDirectory`` returns."""


ctk.ctkDICOMDatabase = ctkDICOMDatabase
ctk.ctkDICOMIndexer = ctkDICOMIndexer
