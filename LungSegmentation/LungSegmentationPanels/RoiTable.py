"""The table of a patient's ROIs, in which a user says which structure an ROI is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ctk
import qt
from LungSegmentationScene.Patients import IGNORE, Roi
from slicer.i18n import tr as _

from LungSegmentationPanels.TableTools import SWATCH, fillRows, numberItem, textItem

AUTOMATIC = "automatic"
ROI, STRUCTURE, _VOLUME, _CONTOURS, REASON = range(5)
ROW_HEIGHT = 22
STRUCTURE_WIDTH = 122


class RoiTable:
    """One row an ROI; the box for its structure is named ``importStructureComboBox<row>``.

    Parameters
    ----------
    table
        The ``QTableWidget``.
    labelSet
        Structures to choose from.
    onChosen
        Called with the ROI, the key of the structure (None: not used), and whether the rules shall decide again.
    """

    def __init__(self, table, labelSet, onChosen: Callable[[Roi, str | None, bool], None]) -> None:
        self._table = table
        self._labelSet = labelSet
        self._onChosen = onChosen
        self._rois: list[Roi] = []
        self._boxes: list = []
        self._showing = False
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(ROI, qt.QHeaderView.Interactive)
        header.setSectionResizeMode(STRUCTURE, qt.QHeaderView.Fixed)
        header.setSectionResizeMode(REASON, qt.QHeaderView.Stretch)
        table.setColumnWidth(ROI, 80)
        table.setColumnWidth(STRUCTURE, STRUCTURE_WIDTH)
        rows = table.verticalHeader()
        rows.setVisible(False)
        rows.setDefaultSectionSize(ROW_HEIGHT)

    def show(self, rois: Sequence[Roi]) -> None:
        """Show these ROIs; boxes that a user may have open stay where they are."""
        self._rois = list(rois)
        self._showing = True
        try:
            for box in self._boxes[len(rois) :]:
                box.objectName = ""  # Qt removes it later, and its name is to be free at once
            del self._boxes[len(rois) :]
            fillRows(self._table, [self._items(roi) for roi in rois])
            self._boxes += [self._box(row) for row in range(len(self._boxes), len(rois))]
            for roi, box in zip(rois, self._boxes, strict=True):
                self._choose(box, roi)
        finally:
            self._showing = False

    def _items(self, roi: Roi) -> list:
        volume = "" if roi.volumeCc is None else f"{roi.volumeCc:.{1 if roi.volumeCc < 1000 else 0}f}"
        contours = numberItem(str(roi.contours))
        items = [textItem(roi.name), textItem(""), numberItem(volume), contours, textItem(roi.reason)]
        for item in items:
            item.setToolTip(f"{roi.name}: {roi.reason}")
        return items

    def _box(self, row: int):
        box = ctk.ctkComboBox()
        box.objectName = f"importStructureComboBox{row}"
        box.toolTip = _("Which structure this ROI is taken for")
        # A wheel that turns over the table must not change what an ROI is.
        box.scrollWheelEffect = ctk.ctkComboBox.NeverScroll
        box.frame = False
        box.addItem(_("not used"), IGNORE)
        for structure in self._labelSet.structures:
            pixmap = qt.QPixmap(SWATCH, SWATCH)
            pixmap.fill(qt.QColor(*structure.color))
            box.addItem(qt.QIcon(pixmap), structure.name, structure.key)
        box.connect("activated(int)", lambda index, row=row, box=box: self._onActivated(row, box, index))
        self._table.setCellWidget(row, STRUCTURE, box)
        return box

    def _choose(self, box, roi: Roi) -> None:
        place = box.findData(AUTOMATIC)
        if roi.corrected and place < 0:
            box.addItem(_("as the rules say"), AUTOMATIC)
        elif not roi.corrected and place >= 0:
            box.removeItem(place)
        box.setCurrentIndex(box.findData(roi.structure or IGNORE))
        font = box.font
        font.setBold(roi.corrected)
        box.font = font

    def _onActivated(self, row: int, box, index: int) -> None:
        if self._showing or not 0 <= row < len(self._rois):
            return
        roi, chosen = self._rois[row], str(box.itemData(index))
        if chosen == AUTOMATIC:
            self._onChosen(roi, roi.structure, True)
        elif chosen != (roi.structure or IGNORE):
            self._onChosen(roi, None if chosen == IGNORE else chosen, False)
