"""Small things that the tables of the panels share, and opening a file or folder outside of Slicer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import qt

ROW_HEIGHT = 20
SWATCH = 12


def fitColumns(table) -> None:
    """Let the first column take the room that the others leave, and rows be as low as their text."""
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    header.setHighlightSections(False)
    rows = table.verticalHeader()
    rows.setVisible(False)
    rows.setDefaultSectionSize(ROW_HEIGHT)


def fillRows(table, rows: Sequence[Sequence]) -> None:
    """Replace the rows of a table by items; the scroll position stays."""
    if table.rowCount != len(rows):
        table.setRowCount(len(rows))
    for row, items in enumerate(rows):
        for column, item in enumerate(items):
            shown = table.item(row, column)
            if shown is not None and shown.text() == item.text() and shown.toolTip() == item.toolTip():
                continue
            table.setItem(row, column, item)


def fitHeight(table, mostRows: int) -> None:
    """Make a table as high as its rows, or as a number of rows where it has more."""
    rows = min(max(1, table.rowCount), mostRows)
    # With large letters no row is as low as was asked for.
    rowHeight = max(ROW_HEIGHT, table.verticalHeader().minimumSectionSize)
    # The height of the header is known before it was ever shown only by its hint.
    table.setFixedHeight(table.horizontalHeader().sizeHint.height() + rows * rowHeight + 2 * table.frameWidth)


def textItem(text: str):
    """Return an item that shows a text."""
    return qt.QTableWidgetItem(text)


def numberItem(text: str):
    """Return an item that shows a number, at the right."""
    item = qt.QTableWidgetItem(text)
    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return item


def colorItem(text: str, color: Sequence[int]):
    """Return an item with a patch of a color (red, green, blue, 0–255) before its text."""
    item = qt.QTableWidgetItem(text)
    pixmap = qt.QPixmap(SWATCH, SWATCH)
    pixmap.fill(qt.QColor(*color))
    item.setIcon(qt.QIcon(pixmap))
    return item


def openPath(path: Path) -> bool:
    """Show a file or folder with the program that the system has for it; returns whether there is one."""
    return bool(qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path))))
