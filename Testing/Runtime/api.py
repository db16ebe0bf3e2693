"""The names that a real Slicer 5.8 offers, so that the runtime offers no others.

``slicer_api.json`` holds, for each class that the runtime models, its properties, signals, methods and constants.
``python Testing/Runtime/api.py INTROSPECTION.json`` writes it from what was read off a running Slicer.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("slicer_api.json")

KINDS = ("properties", "signals", "methods", "constants")

# PythonQt resolves a trailing underscore where the plain name is a word of Python.
RESERVED = {"exec": "exec_", "raise": "raise_", "print": "print_", "del": "del_"}

INSTANCES = ("slicer.app", "slicer.app.moduleManager()", "slicer.app.ioManager()", "slicer.app.layoutManager()")

MODELED = {
    "qt": """
        QObject QWidget QPushButton QToolButton QLabel QLineEdit QComboBox QSpinBox QDoubleSpinBox QCheckBox
        QProgressBar QTableWidget QTableWidgetItem QPlainTextEdit QSlider QGroupBox QFrame QProcess QTimer QFileDialog
        QMessageBox QSettings QDialog QDialogButtonBox QHeaderView QScrollArea QFormLayout QGridLayout QHBoxLayout
        QVBoxLayout QDesktopServices QUrl QIcon QPixmap QColor QFont QProcessEnvironment QAbstractItemView QSizePolicy
        QPalette
    """,
    "ctk": """
        ctkCollapsibleButton ctkCollapsibleGroupBox ctkComboBox ctkPathLineEdit ctkSliderWidget ctkDICOMDatabase
        ctkDICOMIndexer
    """,
    "slicer": """
        qMRMLWidget qMRMLNodeComboBox qMRMLCheckableNodeComboBox qMRMLPlotWidget qSlicerScriptedLoadableModule
        qSlicerScriptedLoadableModuleWidget
    """,
}


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


@cache
def facts() -> dict[str, Any]:
    """Return the content of ``slicer_api.json``."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@cache
def names(key: str, kind: str) -> frozenset[str]:
    """Return a class's names of one kind, its bases included.

    Parameters
    ----------
    key : str
        Module and class, as in ``qt.QPushButton``.
    kind : str
        One of ``properties``, ``signals``, ``methods``, ``constants``.
    """
    entry = facts()["classes"][key]
    found = frozenset(entry.get(kind, "").split())
    return found | (names(entry["base"], kind) if "base" in entry else frozenset())


@cache
def offered(key: str) -> frozenset[str]:
    """Return all names of a class, its bases included."""
    return frozenset().union(*(names(key, kind) for kind in KINDS))


def instance_names(key: str) -> frozenset[str]:
    """Return the names of an application object, as ``slicer.app``."""
    return frozenset(facts()["instances"][key].split())


def functions() -> dict[str, str]:
    """Return the signatures of ``slicer.util`` and of the scripted module classes."""
    return facts()["functions"]


def condensed(introspection: dict[str, Any]) -> dict[str, Any]:
    """Return what the runtime needs of the introspection of a running Slicer."""
    classes = {}
    for module, listed in MODELED.items():
        for name in listed.split():
            source = introspection["classes"][f"{module}.{name}"]
            entry = {"base": source["adds to"]} if source.get("adds to") else {}
            entry |= {kind: " ".join(sorted(found)) for kind, found in _kinds(source).items() if found}
            classes[f"{module}.{name}"] = entry
    instances = {key: " ".join(sorted(introspection["instances"][key])) for key in INSTANCES}
    return {
        "about": "Names in Slicer 5.8.1 (Qt 5.15.8, PythonQt), read off by introspection.",
        "classes": classes,
        "instances": instances,
        "functions": introspection["functions"],
        "modules": " ".join(introspection["modules"]),
        "parameterNodeWrapper": " ".join(introspection["parameterNodeWrapper"]),
    }


def _kinds(source: dict[str, list[str]]) -> dict[str, set[str]]:
    # Introspection calls “other” what is neither number nor text nor function: types, and properties that hold objects.
    other = set(source.get("other", ())) - {"singleShot"}
    objects = {name for name in other if name[0].islower()}
    return {
        "properties": set(source.get("properties", ())) | objects,
        "signals": set(source.get("signals", ())),
        "methods": set(source.get("slots", ())) | (set(source.get("other", ())) & {"singleShot"}),
        "constants": set(source.get("constants", ())) | (other - objects),
    }


def main(source: str) -> int:
    """Write ``slicer_api.json``."""
    content = condensed(json.loads(Path(source).read_text(encoding="utf-8")))
    FILE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
