"""Connects parameters to the widgets that name them in their property ``SlicerParameterName``."""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Iterator
from typing import Any

import shiboken6
import slicer
from PySide6 import QtWidgets

from .ctk_widgets import ctkDirectoryButton, ctkDoubleSpinBox, ctkPathLineEdit, ctkSliderWidget
from .mrml_widgets import qMRMLNodeComboBox

# Kind of parameter, kind of widget, property of the widget, signal that says that a user changed it.
CONNECTORS: tuple[tuple[Any, Any, str, str], ...] = (
    (bool, (QtWidgets.QCheckBox, QtWidgets.QRadioButton, QtWidgets.QPushButton), "checked", "toggled(bool)"),
    (int, (QtWidgets.QSpinBox, QtWidgets.QSlider), "value", "valueChanged(int)"),
    (float, (QtWidgets.QDoubleSpinBox, ctkDoubleSpinBox, ctkSliderWidget), "value", "valueChanged(double)"),
    (str, QtWidgets.QLineEdit, "text", "textChanged(QString)"),
    (str, QtWidgets.QPlainTextEdit, "plainText", "textChanged()"),
    ((str, enum.Enum), QtWidgets.QComboBox, "currentText", "currentTextChanged(QString)"),
    (pathlib.PurePath, ctkPathLineEdit, "currentPath", "currentPathChanged(QString)"),
    (pathlib.PurePath, ctkDirectoryButton, "directory", "directoryChanged(QString)"),
)


class Connection:
    """All widgets of a panel that show parameters of one node.

    Raises
    ------
    ValueError
        If a widget cannot show the kind of parameter that it names.
    """

    def __init__(self, wrapper: Any, gui: Any) -> None:
        self._wrapper = wrapper
        self._showing = False
        self._undo: list[tuple[Any, str, Any]] = []
        self._rows: list[tuple[Any, Any, str]] = []
        for parameter, widget in _named_widgets(wrapper, gui):
            self._add(parameter, widget)
        self.show()

    def show(self) -> None:
        """Bring the widgets to the values of the parameters."""
        if self._showing:
            return
        self._showing = True
        try:
            for parameter, widget, name in self._rows:
                if shiboken6.isValid(widget):
                    _show(parameter, widget, name, parameter.read(self._wrapper.parameterNode))
        finally:
            self._showing = False

    def close(self) -> None:
        """Disconnect the widgets."""
        for widget, signal, function in self._undo:
            if shiboken6.isValid(widget):
                widget.disconnect(signal, function)

    def _add(self, parameter: Any, widget: Any) -> None:
        name, signal = _connector(parameter, widget)
        _prepare(parameter, widget)
        self._rows.append((parameter, widget, name))

        def take(*_: Any) -> None:
            if not self._showing:
                parameter.write(self._wrapper.parameterNode, _value(parameter, widget, name))

        widget.connect(signal, take)
        self._undo.append((widget, signal, take))


def _named_widgets(wrapper: Any, gui: Any) -> Iterator[tuple[Any, Any]]:
    widgets = slicer.util.findChildren(gui) if isinstance(gui, QtWidgets.QWidget) else vars(gui).values()
    for widget in widgets:
        if not isinstance(widget, QtWidgets.QWidget):
            continue
        name = widget.property("SlicerParameterName")
        if name in wrapper._parameters:
            yield wrapper._parameters[name], widget


def _connector(parameter: Any, widget: Any) -> tuple[str, str]:
    if parameter.node_classes and isinstance(widget, qMRMLNodeComboBox):
        return "", "currentNodeChanged(vtkMRMLNode*)"
    for kind, widget_class, name, signal in CONNECTORS:
        if not parameter.node_classes and issubclass(parameter.kind, kind) and isinstance(widget, widget_class):
            if parameter.kind is bool and kind is not bool:
                continue
            return name, signal
    raise ValueError(f"no connector between {type(widget).__name__} and {parameter.name}: {parameter.kind}")


def _prepare(parameter: Any, widget: Any) -> None:
    for item in parameter.annotations:
        for source, target in (("minimum", "minimum"), ("maximum", "maximum")):
            if hasattr(item, source):
                setattr(widget, target, getattr(item, source))
        if type(item).__name__ == "Decimals":
            widget.decimals = item.value
        elif type(item).__name__ == "SingleStep":
            widget.singleStep = item.value
        elif type(item).__name__ == "Choice" and isinstance(widget, QtWidgets.QComboBox):
            widget.clear()
            widget.addItems([str(choice) for choice in item.choices])
    if not parameter.node_classes and issubclass(parameter.kind, enum.Enum):
        widget.clear()
        widget.addItems([member.name for member in parameter.kind])


def _show(parameter: Any, widget: Any, name: str, value: Any) -> None:
    if not name:
        if widget.mrmlScene() is not None:
            widget.setCurrentNode(value)
        return
    if isinstance(value, enum.Enum):
        value = value.name
    elif isinstance(value, pathlib.PurePath):
        value = str(value)
    if isinstance(widget, QtWidgets.QComboBox):
        widget.setCurrentText(value)
    elif getattr(widget, name) != value:
        setattr(widget, name, value)


def _value(parameter: Any, widget: Any, name: str) -> Any:
    if not name:
        return widget.currentNode()
    value = getattr(widget, name)
    return parameter.kind[value] if issubclass(parameter.kind, enum.Enum) else parameter.kind(value)
