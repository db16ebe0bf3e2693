"""Which Python runs the jobs, in which environment, and where the files of the extension are."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import qt
import slicer

PYTHON_SETTING = "LungSegmentation/PythonPath"
"""Key in the application's settings; empty for Slicer's own Python."""

MODULE_FOLDER = Path(__file__).resolve().parents[1]


def chosenPython() -> Path | None:
    """Return the Python that the user chose for jobs; None for Slicer's own."""
    text = str(qt.QSettings().value(PYTHON_SETTING, "") or "").strip()
    return Path(text) if text else None


def chosenProgram() -> Path | None:
    """Return the program of the chosen Python, also where its virtual environment's folder was chosen."""
    python = chosenPython()
    return None if python is None else programOf(python)


def programOf(path: Path) -> Path:
    """Return the Python in a folder of a virtual environment; any other path as it is."""
    if path.is_dir():
        for place in ("bin/python", "bin/python3", "Scripts/python.exe", "python.exe"):
            if (path / place).is_file():
                return path / place
    return path


def setChosenPython(python: Path | str | None) -> None:
    """Remember the Python for jobs; None or an empty text for Slicer's own."""
    qt.QSettings().setValue(PYTHON_SETTING, str(python).strip() if python else "")


def temporaryFolder() -> Path:
    """Return a new folder in the application's temporary one, which may have been removed meanwhile."""
    parent = Path(slicer.app.temporaryPath)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="LungSegmentation-", dir=parent))


def libraryFolder() -> Path:
    """Return the folder that holds ``LungSegmentationLib``."""
    import LungSegmentationLib

    return Path(LungSegmentationLib.__file__).resolve().parents[1]


def resourcePath(*parts: str) -> Path:
    """Return the path of a file in the module's ``Resources``."""
    return MODULE_FOLDER.joinpath("Resources", *parts)


def baseEnvironment(python: Path | None) -> dict[str, str]:
    """Return the variables that a job begins with.

    Slicer's own Python needs those that Slicer's launcher made; another Python gets what the user had before Slicer
    was started.
    """
    environment = dict(os.environ) if python is None else dict(slicer.util.startupEnvironment())
    environment.update(PYTHONUTF8="1", PYTHONUNBUFFERED="1")
    return environment


def foreignEnvironment(python: Path | None) -> dict[str, str]:
    """Return the variables for a child process that is not started through the library's ``start_job``."""
    environment = baseEnvironment(python)
    if python is not None:
        for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONIOENCODING"):
            environment.pop(name, None)
    return environment


def ownPython() -> Path:
    """Return Slicer's Python as a program that can be started, without importing the library's job part."""
    executable = Path(sys.executable) if sys.executable else None
    if executable is not None and executable.name.lower().startswith("python"):
        return executable
    for name in ("PythonSlicer", "PythonSlicer.exe"):
        candidate = Path(slicer.app.slicerHome) / "bin" / name
        if candidate.is_file():
            return candidate
    return executable or Path("python3")


def isTesting() -> bool:
    """Whether the application was started for tests: then nothing is ever installed."""
    return bool(slicer.app.testingEnabled())
