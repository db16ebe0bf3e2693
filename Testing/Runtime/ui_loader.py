"""Loads ``.ui`` files with the widgets of CTK and MRML, strictly: what Slicer passes over in silence raises here."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import api, qt_signals

CUSTOM: dict[str, type[QtWidgets.QWidget]] = {}


class QUiLoader(QtUiTools.QUiLoader):
    """Makes the widgets of a ``.ui`` file.

    Raises
    ------
    ValueError, AttributeError
        If the file names a class, a property, a signal or a slot that the runtime does not have.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        for cls in CUSTOM.values():
            self.registerCustomWidget(cls)

    def load(self, device: Any, parent: Any = None) -> Any:
        if not device.isOpen():
            device.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        root = ET.fromstring(bytes(device.readAll().data()))
        self._refuse_unknown_classes(root)
        connections = _take_connections(root)
        later = _take_enumerations(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is None:
            raise ValueError(self.errorString())
        _check_properties(root, widget)
        for name, attribute, value in later:
            target = _child(widget, name)
            setattr(target, attribute, _constant(type(target), value))
        for sender, signal, receiver, slot in connections:
            _connect(_child(widget, sender), signal, _child(widget, receiver), slot)
        return widget

    def _refuse_unknown_classes(self, root: ET.Element) -> None:
        known = set(CUSTOM) | {key.removeprefix("qt.") for key in api.facts()["classes"]}
        unknown = {element.get("class") for element in root.iter("widget")} - known
        if unknown:
            raise ValueError(f"the runtime does not model {', '.join(sorted(map(str, unknown)))}")


def _take_connections(root: ET.Element) -> list[tuple[str, ...]]:
    element = root.find("connections")
    if element is None:
        return []
    root.remove(element)
    parts = ("sender", "signal", "receiver", "slot")
    return [tuple(connection.findtext(part, "") for part in parts) for connection in element]


def _take_enumerations(root: ET.Element) -> list[tuple[str, str, str]]:
    # Qt's loader asks the class for its enumerations, which classes written in Python do not have.
    taken = []
    for widget in root.iter("widget"):
        cls = CUSTOM.get(widget.get("class", ""))
        for element in list(widget.findall("property")) if cls else []:
            value = element.findtext("set") or element.findtext("enum")
            name = element.get("name", "")
            if value is not None and isinstance(getattr(cls, name, None), QtCore.Property):
                widget.remove(element)
                taken.append((widget.get("name", ""), name, value))
    return taken


def _constant(cls: type, text: str) -> int:
    value = 0
    for part in text.split("|"):
        value |= int(getattr(cls, part.split("::")[-1]))
    return value


def _check_properties(root: ET.Element, top: Any) -> None:
    for element in root.iter("widget"):
        widget = _child(top, element.get("name", ""))
        known = widget.metaObject()
        for item in element.findall("property"):
            name = item.get("name", "")
            if name == "buddy":
                _child(top, item.findtext("cstring", ""))
            elif item.get("stdset") != "0" and known.indexOfProperty(name) < 0:
                raise ValueError(f"{element.get('class')} “{element.get('name')}” has no property {name}")


def _connect(sender: Any, signal: str, receiver: Any, slot: str) -> None:
    qt_signals.connect(sender, signal, getattr(receiver, slot.split("(", maxsplit=1)[0]))


def _child(widget: Any, name: str) -> Any:
    if widget.objectName == name:
        return widget
    child = widget.findChild(QtCore.QObject, name)
    if child is None:
        raise ValueError(f"the file names an object “{name}” that it does not contain")
    return child
