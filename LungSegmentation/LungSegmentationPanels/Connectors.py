"""How widgets show texts of the parameter node that Slicer's own connectors do not know: paths and choices by key."""

from __future__ import annotations

import ctk
import qt
from slicer.parameterNodeWrapper import GuiConnector


class _SignalConnector(GuiConnector):
    """A widget whose change is one signal."""

    signal = ""

    def __init__(self, widget) -> None:
        super().__init__()
        self._widget = widget

    def _connect(self) -> None:
        self._widget.connect(self.signal, self.changed)

    def _disconnect(self) -> None:
        self._widget.disconnect(self.signal, self.changed)

    def changed(self, *_values) -> None:
        """Hand the widget's value to the parameter node."""
        super().changed()

    def widget(self):
        """Return the widget."""
        return self._widget


class PathConnector(_SignalConnector):
    """Connects ``ctkPathLineEdit`` with a text; an empty path stays empty."""

    signal = "currentPathChanged(QString)"

    @staticmethod
    def canRepresent(widget, datatype) -> bool:
        """Whether this connector is the one for a widget and a type."""
        return isinstance(widget, ctk.ctkPathLineEdit) and datatype is str

    @staticmethod
    def create(widget, datatype):
        """Return a connector, or None where another is needed."""
        return PathConnector(widget) if PathConnector.canRepresent(widget, datatype) else None

    def read(self) -> str:
        """Return the path that the widget shows."""
        return self._widget.currentPath

    def write(self, value: str) -> None:
        """Show a path."""
        if self._widget.currentPath != value:
            self._widget.currentPath = value


class ChoiceConnector(_SignalConnector):
    """Connects ``QComboBox`` with the data (a text) of its items: what is saved does not depend on the language.

    A value that no item has leaves the box as it is: a scene may come from a version with other choices.
    """

    signal = "currentIndexChanged(int)"

    @staticmethod
    def canRepresent(widget, datatype) -> bool:
        """Whether this connector is the one for a widget and a type."""
        return isinstance(widget, qt.QComboBox) and datatype is str

    @staticmethod
    def create(widget, datatype):
        """Return a connector, or None where another is needed."""
        return ChoiceConnector(widget) if ChoiceConnector.canRepresent(widget, datatype) else None

    def read(self) -> str:
        """Return the data of the chosen item."""
        data = self._widget.itemData(self._widget.currentIndex)
        return self._widget.currentText if data is None else str(data)

    def write(self, value: str) -> None:
        """Choose the item with this data."""
        index = self._widget.findData(value)
        if index >= 0 and index != self._widget.currentIndex:
            self._widget.setCurrentIndex(index)


def connectorFor(widget, datatype):
    """Return one of our connectors where it is needed, else the widget, for which Slicer has one."""
    for kind in (PathConnector, ChoiceConnector):
        if kind.canRepresent(widget, datatype):
            return kind.create(widget, datatype)
    return widget
