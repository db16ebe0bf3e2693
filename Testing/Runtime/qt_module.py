"""The module ``qt`` of Slicer, over PySide6: the classes and functions that the extension may use, by name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import api
from .ui_loader import QUiLoader

# Value types, name spaces and helpers that the introspection of Slicer did not cover; all are in PythonQt's Qt.
PLAIN = """
    Qt QApplication QBrush QByteArray QCursor QDir QEvent QFile QFileInfo QImage QKeySequence QPainter QPoint QRect
    QSize QUiLoader
"""


def build() -> ModuleType:
    """Return the module ``qt``."""
    qt = ModuleType("qt", "Qt as PythonQt gives it to Slicer's modules")
    wanted = [key.removeprefix("qt.") for key in api.facts()["classes"] if key.startswith("qt.")]
    for name in [*wanted, *PLAIN.split()]:
        setattr(qt, name, QUiLoader if name == "QUiLoader" else _find(name))
    _return_file_names_alone()
    return qt


def _find(name: str) -> Any:
    for module in (QtCore, QtGui, QtWidgets):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"PySide6 has no {name}")


def _return_file_names_alone() -> None:
    # PySide6 gives the chosen filter beside the name.
    for name in ("getOpenFileName", "getOpenFileNames", "getSaveFileName"):
        setattr(QtWidgets.QFileDialog, name, staticmethod(_first(getattr(QtWidgets.QFileDialog, name))))


def _first(function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        return function(*arguments)[0]

    return call
