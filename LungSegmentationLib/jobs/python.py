"""Which Python runs a job, and in which environment: not the launcher that started us, not Slicer's variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

_LIBRARY_ROOT = Path(__file__).resolve().parents[2]
_INSTALLED_FOLDERS = {"site-packages", "dist-packages"}

_PYTHON_OF_ANOTHER = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONPLATLIBDIR", "__PYVENV_LAUNCHER__")
_SLICER_PREFIXES = (
    "QT_",
    "QML",
    "QTWEBENGINE",
    "DYLD_",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "TCL_",
    "TK_",
    "SSL_CERT_FILE",
)


def real_python() -> Path:
    """Return the Python that child processes should be started with.

    ``sys.executable`` is right in an ordinary Python and in a virtual environment. In PythonSlicer it is a
    launcher, and inside Slicer the process is no Python at all: ``python-real`` beside the launcher is then the
    Python, which works in the environment that the launcher made for us. Where nothing better is found the
    launcher itself is returned; it works too, and ending the job ends the tree below it.
    """
    stated = Path(sys.executable) if sys.executable else None
    if stated is not None and _is_plain_python(stated):
        return stated
    if _in_virtual_environment():  # what runs us is then a Python without our packages
        for place in ("bin/python", "Scripts/python.exe"):
            if (Path(sys.prefix) / place).is_file():
                return Path(sys.prefix) / place
    running = _running_executable()
    if running is not None and _is_python_name(running):
        return running
    for beside in (stated, running):
        if beside is not None:
            for name in ("python-real", "python-real.exe"):
                if (beside.parent / name).is_file():
                    return beside.parent / name
    base = getattr(sys, "_base_executable", None)
    if base and _is_python_name(Path(base)) and Path(base).is_file():
        return Path(base)
    return stated or Path("python3")


def worker_python() -> Path | None:
    """Return the Python for workers that are handed open pipes; None where only a launcher is known: it closes them."""
    python = real_python()
    stated = Path(sys.executable) if sys.executable else None
    return python if python.is_file() and (python != stated or _is_plain_python(python)) else None


def is_other_python(python: Path) -> bool:
    """Whether a Python is another one than that of this process, with packages of its own."""
    ours = {real_python(), Path(sys.executable)} if sys.executable else {real_python()}
    # Not resolved: the Python of a virtual environment is a link to one that lacks its packages.
    return Path(os.path.abspath(python)) not in {Path(os.path.abspath(path)) for path in ours}  # noqa: PTH100


def job_environment(base: Mapping[str, str] | None = None, *, python: Path | None = None) -> dict[str, str]:
    """Return the environment of a job: UTF-8 everywhere, this library found, nothing of Slicer's for another Python.

    Parameters
    ----------
    base
        Variables to begin with; None for those of this process. In Slicer, for another Python,
        ``slicer.util.startupEnvironment()`` keeps what the user had set.
    python
        The Python that will run; None for :func:`real_python`.
    """
    environment = dict(os.environ if base is None else base)
    if python is not None and is_other_python(python):
        for name in _PYTHON_OF_ANOTHER:
            environment.pop(name, None)
        if "SLICER_HOME" in environment:
            for name in [name for name in environment if name.startswith(_SLICER_PREFIXES)]:
                del environment[name]
    # PYTHONIOENCODING would win over UTF-8 mode.
    environment.pop("PYTHONIOENCODING", None)
    environment.update(PYTHONUTF8="1", PYTHONUNBUFFERED="1")
    if _LIBRARY_ROOT.name not in _INSTALLED_FOLDERS:
        # From a source tree only: a folder of installed packages must not leak into another Python.
        others = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        if str(_LIBRARY_ROOT) not in others:
            environment["PYTHONPATH"] = os.pathsep.join([str(_LIBRARY_ROOT), *others])
    return environment


def _is_python_name(path: Path) -> bool:
    return path.name.lower().startswith("python") and not path.stem.lower().startswith("pythonslicer")


def _is_plain_python(stated: Path) -> bool:
    """Whether ``sys.executable`` is what runs us, or belongs to a virtual environment."""
    if not _is_python_name(stated):
        return False
    if _in_virtual_environment() or sys.platform == "darwin":
        # Links, and the stub of a framework build, which runs another file under the same Python.
        return _starts_as_program(stated)
    running = _running_executable()
    if running is None:
        return True
    try:
        return running.samefile(stated) or running.resolve().parent == stated.resolve().parent
    except OSError:
        return False


def _in_virtual_environment() -> bool:
    return sys.prefix != sys.base_prefix


def _starts_as_program(file: Path) -> bool:
    """Whether a file is a program and not a script that starts one."""
    try:
        with file.open("rb") as stream:
            return stream.read(2) != b"#!"
    except OSError:
        return False


def _running_executable() -> Path | None:
    try:
        executable = psutil.Process().exe()
    except (psutil.Error, OSError):
        return None
    return Path(executable) if executable else None
