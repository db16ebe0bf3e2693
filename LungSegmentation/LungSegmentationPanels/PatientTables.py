"""The tables of patients in the import panel: what a scan found, and what is in Slicer's DICOM database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
from LungSegmentationScene import Patients
from LungSegmentationScene.Patients import DatabasePatient, PatientCt
from slicer.i18n import tr as _

from LungSegmentationPanels.Panel import errorColor
from LungSegmentationPanels.TableTools import ROW_HEIGHT, fillRows, fitHeight, numberItem, textItem

MOST_PATIENTS = 5
"""Rows of the patients' table before it scrolls."""

STATUS = 3


class PatientTable:
    """One row a CT that a scan found.

    Parameters
    ----------
    table
        The ``QTableWidget``.
    onChosen
        Called when another row was chosen by the user.
    """

    def __init__(self, table, onChosen: Callable[[], None]) -> None:
        self._table = table
        self._onChosen = onChosen
        self._patients: list[PatientCt] = []
        self._filling = False
        _layOut(table, stretched=STATUS)
        fitHeight(table, MOST_PATIENTS)
        table.connect("itemSelectionChanged()", self._onSelectionChanged)

    def show(self, patients: Sequence[PatientCt], chosen: str = "") -> None:
        """Show these patients and choose that of a name, else the first."""
        self._patients = list(patients)
        self._filling = True
        fillRows(self._table, [self._items(one) for one in patients])
        fitHeight(self._table, MOST_PATIENTS)
        self._table.clearSelection()
        if patients:
            self._table.selectRow(next((row for row, one in enumerate(patients) if one.name == chosen), 0))
        self._filling = False

    def refresh(self, patient: PatientCt) -> None:
        """Show anew how a patient stands."""
        row, wasChosen = self._patients.index(patient), patient is self.chosen()
        self._filling = True
        for column, item in enumerate(self._items(patient)):
            self._table.setItem(row, column, item)
        if wasChosen:
            self._table.selectRow(row)
        self._filling = False

    def chosen(self) -> PatientCt | None:
        """Return the patient of the chosen row."""
        row = self._table.currentRow()
        return self._patients[row] if self._table.selectedItems() and 0 <= row < len(self._patients) else None

    def _onSelectionChanged(self) -> None:
        if not self._filling:
            self._onChosen()

    def _items(self, one: PatientCt) -> list:
        contours = one.rtstruct if one.rtstruct is not None else "–"
        items = [textItem(one.name), numberItem(str(one.slices)), textItem(contours), textItem(statusOf(one))]
        if one.error or one.state == "failed":
            items[STATUS].setForeground(qt.QBrush(qt.QColor(errorColor(self._table))))
        toolTip = "\n".join(filter(None, [f"{one.name}: {one.description}", one.error, *one.warnings]))
        for item in items:
            item.setToolTip(toolTip)
        return items


class DatabaseTable:
    """Patients of Slicer's DICOM database, to be checked.

    Parameters
    ----------
    table
        The ``QTableWidget``.
    onChecked
        Called when the user checked or unchecked one.
    """

    def __init__(self, table, onChecked: Callable[[], None]) -> None:
        self._table = table
        self._onChecked = onChecked
        self._patients: list[DatabasePatient] | None = None
        self._filling = False
        _layOut(table, stretched=0)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)

    def fill(self) -> None:
        """Read the database, the first time that it is wanted."""
        if self._patients is None:
            self._read()

    def refresh(self) -> None:
        """Read the database again if it was read before: patients may have come since."""
        if self._patients is not None:
            self._read()

    def checked(self) -> list[DatabasePatient]:
        """Return the patients that are checked."""
        items = [self._table.item(row, 0) for row in range(len(self._patients or []))]
        return [
            one
            for one, item in zip(self._patients or [], items, strict=True)
            if item is not None and item.checkState() == qt.Qt.Checked
        ]

    def _read(self) -> None:
        found = Patients.databasePatients()
        if found == self._patients:
            return
        checked = {one.key for one in self.checked()}
        self._patients = found
        rows = []
        for one in found:
            first = textItem(one.name)
            first.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            first.setCheckState(qt.Qt.Checked if one.key in checked else qt.Qt.Unchecked)
            rows.append([first, *(numberItem(str(one.counts[kind])) for kind in ("CT", "RTSTRUCT"))])
        self._filling = True
        self._table.setRowCount(0)
        fillRows(self._table, rows)
        self._filling = False

    def _onItemChanged(self, _item) -> None:
        if not self._filling:
            self._onChecked()


def statusOf(patient: PatientCt) -> str:
    """Return in a few words how a patient stands."""
    if patient.error:
        return _("cannot be used")
    if patient.state == "failed":
        return _("not converted")
    if patient.rtstruct is None:
        return _("CT only")
    if patient.state == "converted":
        return _("converted")
    if not any(roi.structure for roi in patient.rois):
        return _("no structure")
    count = len(patient.warnings)
    if not count:
        return _("ready")
    return _("1 warning") if count == 1 else _("{count} warnings").format(count=count)


def _layOut(table, stretched: int) -> None:
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(stretched, qt.QHeaderView.Stretch)
    header.setHighlightSections(False)
    rows = table.verticalHeader()
    rows.setVisible(False)
    rows.setDefaultSectionSize(ROW_HEIGHT)
