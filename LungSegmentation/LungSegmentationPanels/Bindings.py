"""Keeps widgets and the parameter node alike: a widget with the property ``SlicerParameterName`` shows that parameter.

Slicer's own ``connectGui`` knows neither paths as texts nor choices by key, and some versions of it return nothing to
disconnect by; this does both, for the widgets that the panels use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import vtk

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class _Kind:
    """How a kind of widget is read, written and followed.

    The kind is the name of its class: in Slicer ``isinstance`` does not know the base classes of every widget.
    """

    widget: str
    signals: tuple[str, ...]
    read: Callable
    write: Callable


def _choice(box) -> str:
    """Return the data (a text) of the chosen item: what is saved then does not depend on the language."""
    data = box.itemData(box.currentIndex)
    return box.currentText if data is None else str(data)


def _choose(box, value: str) -> None:
    """Choose by data; a value that no item has, as from another version, leaves the box as it is."""
    index = box.findData(value)
    if index >= 0:
        box.setCurrentIndex(index)


KINDS = (
    _Kind("QCheckBox", ("toggled(bool)",), lambda w: w.checked, lambda w, v: setattr(w, "checked", v)),
    _Kind("QSpinBox", ("valueChanged(int)",), lambda w: w.value, lambda w, v: setattr(w, "value", v)),
    _Kind("QDoubleSpinBox", ("valueChanged(double)",), lambda w: w.value, lambda w, v: setattr(w, "value", v)),
    _Kind("ctkSliderWidget", ("valueChanged(double)",), lambda w: w.value, lambda w, v: setattr(w, "value", v)),
    _Kind("QComboBox", ("currentIndexChanged(int)",), _choice, _choose),
    _Kind("QLineEdit", ("textChanged(QString)",), lambda w: w.text, lambda w, v: setattr(w, "text", v)),
    _Kind(
        "ctkPathLineEdit",
        # A path that is cleared is no valid one any more, and of that only the second one tells.
        ("currentPathChanged(QString)", "validInputChanged(bool)"),
        lambda w: w.currentPath,
        lambda w, v: setattr(w, "currentPath", v),
    ),
    _Kind(
        "qMRMLNodeComboBox",
        ("currentNodeChanged(vtkMRMLNode*)",),
        lambda w: w.currentNode(),
        lambda w, v: w.setCurrentNode(v),
    ),
)


class Bindings:
    """The widgets of one panel and one parameter node, until :meth:`release`.

    Parameters
    ----------
    parameters
        Wrapper of the parameter node.
    widgets
        Widgets by the name of their parameter.
    onChanged
        Called after each change of the node, when the widgets show it already.
    """

    def __init__(self, parameters, widgets: dict, onChanged: Callable[[], None]) -> None:
        self._parameters = parameters
        self._onChanged = onChanged
        self._showing = False
        self._bound = []
        for name, widget in widgets.items():
            kind = next((kind for kind in KINDS if widget.inherits(kind.widget)), None)
            if kind is None:
                raise TypeError(f"{widget.objectName} is of a kind that cannot show the parameter {name}")
            self._bound.append((name, widget, kind, self._reader(name, widget, kind)))
        self.show()
        for _name, widget, kind, read in self._bound:
            for signal in kind.signals:
                widget.connect(signal, read)
        self._observer = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onModified)

    def show(self) -> None:
        """Bring all widgets in line with the node."""
        if self._showing:
            return
        self._showing = True
        try:
            for name, widget, kind, _read in self._bound:
                value = getattr(self._parameters, name)
                if kind.read(widget) != value:
                    kind.write(widget, value)
        finally:
            self._showing = False

    def release(self) -> None:
        """Leave node and widgets to themselves."""
        self._parameters.RemoveObserver(self._observer)
        for _name, widget, kind, read in self._bound:
            for signal in kind.signals:
                widget.disconnect(signal, read)
        self._bound = []

    def _reader(self, name: str, widget, kind: _Kind) -> Callable:
        def read(*_values) -> None:
            if not self._showing:
                setattr(self._parameters, name, kind.read(widget))

        return read

    def _onModified(self, caller=None, event=None) -> None:  # noqa: ARG002 - the signature of observers
        self.show()
        self._onChanged()
