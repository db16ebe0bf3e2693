"""What the runtime needs of the machine, and a sentence for a test to skip with where something is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

WHEELS = {"slicer_core": "slicer-core", "vtkmodules": "vtk", "PySide6": "PySide6-Essentials"}
# What Qt and VTK load even where no window opens, and the Debian packages that have them.
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
}


def missing() -> str:
    """Return why the runtime cannot start here, or an empty string."""
    absent = [package for module, package in WHEELS.items() if find_spec(module) is None]
    if absent:
        return (
            f"the module's test runtime needs {', '.join(absent)}, which the dependency group “module” brings "
            "where wheels exist: Python 3.11 to 3.13 on Linux x86_64, Windows and macOS arm64"
        )
    unloadable = [name for name in LIBRARIES if sys.platform == "linux" and not _loads(name)]
    if unloadable:
        packages = " ".join(LIBRARIES[name] for name in unloadable)
        return f"Qt and VTK need {', '.join(unloadable)} even without a display (Debian: apt install {packages})"
    return ""


@cache
def rendering_fault() -> str:
    """Return why VTK cannot draw here, or an empty string; asked of another process, as a fault ends the process."""
    code = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(True); w.Render()"
    prepare_environment()
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    return (
        "VTK cannot draw off screen here: its process ended with "
        f"{done.returncode} (Debian: apt install libegl1 libegl-mesa0 libgl1-mesa-dri) {done.stderr.strip()[-200:]}"
    )


def prepare_environment() -> None:
    """Choose windows without a display, before Qt and VTK look."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("QT_LOGGING_RULES", "qt.qpa.*=false")
    if sys.platform == "linux":
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    # OpenCV sets these to its own Qt, which ends a process that then starts another one.
    os.environ.pop("QT_QPA_PLATFORM_PLUGIN_PATH", None)
    os.environ.pop("QT_QPA_FONTDIR", None)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
