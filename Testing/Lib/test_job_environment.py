"""Which Python runs a job, and what of its caller's environment it gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_files import (
    ROOT,
    posix,
    wrapper,
)

from LungSegmentationLib.jobs import python as python_module
from LungSegmentationLib.jobs.python import is_other_python, job_environment, real_python


def test_an_ordinary_python_runs_its_own_jobs() -> None:
    assert real_python() == Path(sys.executable)


@posix
def test_behind_a_launcher_the_real_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = wrapper(tmp_path, "exit 1\n", "PythonSlicer")
    real = tmp_path / "python-real"
    real.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(launcher))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(python_module, "_running_executable", lambda: tmp_path / "SlicerApp-real")
    assert real_python() == real
    monkeypatch.setattr(python_module, "_running_executable", lambda: real)
    assert real_python() == real
    real.unlink()
    monkeypatch.setattr(python_module, "_running_executable", lambda: None)
    monkeypatch.delattr(sys, "_base_executable")
    assert real_python() == launcher


@posix
def test_a_launcher_in_a_virtual_environment_keeps_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    inside = tmp_path / "bin" / "python"
    inside.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(wrapper(tmp_path, "exit 1\n", "python-launcher")))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert real_python() == inside


SLICER = {
    "SLICER_HOME": "/slicer",
    "PYTHONHOME": "/slicer/lib/Python",
    "PYTHONPATH": "/slicer/bin/Python",
    "LD_LIBRARY_PATH": "/slicer/lib",
    "QT_PLUGIN_PATH": "/slicer/plugins",
    "PYTHONIOENCODING": "latin-1",
    "PATH": "/usr/bin",
    "HOME": "/home/é",
}


def test_the_environment_of_slicers_own_python_is_kept() -> None:
    environment = job_environment(SLICER, python=real_python())
    assert environment["PYTHONHOME"] == "/slicer/lib/Python"
    assert environment["LD_LIBRARY_PATH"] == "/slicer/lib"
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/slicer/bin/Python"]
    assert environment["PYTHONUTF8"] == "1"
    assert "PYTHONIOENCODING" not in environment


def test_another_python_gets_nothing_of_slicers(tmp_path: Path) -> None:
    assert is_other_python(tmp_path / "python")
    environment = job_environment(SLICER, python=tmp_path / "python")
    assert environment == {
        "SLICER_HOME": "/slicer", "PATH": "/usr/bin", "HOME": "/home/é",
        "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def test_a_users_own_library_path_is_kept_outside_slicer(tmp_path: Path) -> None:
    environment = job_environment({"LD_LIBRARY_PATH": "/opt/cuda"}, python=tmp_path / "python")
    assert environment["LD_LIBRARY_PATH"] == "/opt/cuda"


def test_an_installed_library_does_not_leak_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_module, "_LIBRARY_ROOT", Path("/venv/lib/site-packages"))
    assert "PYTHONPATH" not in job_environment({})


def test_the_library_is_found_from_any_folder(tmp_path: Path) -> None:
    code = "import LungSegmentationLib, sys; print(LungSegmentationLib.__file__, sys.flags.utf8_mode, sep='\\n')"
    done = subprocess.run(
        [str(real_python()), "-c", code],
        cwd=tmp_path, env=job_environment({"PATH": os.environ["PATH"]}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(ROOT / "LungSegmentationLib" / "__init__.py"), "1"]
