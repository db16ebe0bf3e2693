"""The data files are found wherever the library lies: source tree, wheel, installed extension."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from LungSegmentationLib.errors import InstallationError
from LungSegmentationLib.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {path.relative_to(ROOT / "Resources") for path in (ROOT / "Resources").rglob("*.json")}

SCRIPT = """
import json
import LungSegmentationLib
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.resources import resource_path
print(json.dumps({
    "package": LungSegmentationLib.__file__,
    "resource": str(resource_path("LabelSets", "thorax.json")),
    "structures": len(load_label_set()),
    "shipped": sorted(str(p.relative_to(resource_path())) for p in resource_path().rglob("*.json")),
}))
"""


def _run_from(place: Path, elsewhere: Path) -> dict[str, Any]:
    """Import the library from ``place`` in a fresh Python that works in another folder."""
    elsewhere.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def _assert_complete(answer: dict[str, Any], place: Path) -> None:
    assert Path(answer["package"]).is_relative_to(place)
    assert Path(answer["resource"]).is_relative_to(place)
    assert answer["structures"] == 7
    assert {Path(name) for name in answer["shipped"]} == SHIPPED


def test_resources_are_found_in_the_source_tree(tmp_path: Path) -> None:
    assert resource_path("LabelSets", "thorax.json") == ROOT / "Resources" / "LabelSets" / "thorax.json"
    _assert_complete(_run_from(ROOT, tmp_path / "elsewhere"), ROOT)


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling, which builds wheels, is missing")
def test_resources_are_found_in_an_unpacked_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _copy_library(source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=source,
        capture_output=True,
        check=True,
        timeout=300,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    place = tmp_path / "site packages"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(place)
    assert "LungSegmentationLib/py.typed" in names
    assert not [name for name in names if name.startswith(("Testing", "Docs", "Tools"))]
    _assert_complete(_run_from(place, tmp_path / "elsewhere"), place)


def test_resources_are_found_in_an_installed_extension(tmp_path: Path) -> None:
    place = tmp_path / "Slicer 5.10" / "Élodie 肺" / "qt-scripted-modules"
    place.mkdir(parents=True)
    _copy_library(place)
    _assert_complete(_run_from(place, tmp_path / "elsewhere"), place)


def _copy_library(place: Path) -> None:
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "LungSegmentationLib", place / "LungSegmentationLib", ignore=leave_out)
    shutil.copytree(ROOT / "Resources", place / "Resources", ignore=leave_out)


def test_a_missing_resource_is_a_broken_installation_and_is_called_so() -> None:
    with pytest.raises(InstallationError, match=r"LabelSets/abdomen\.json.*Install LungSegmentation again"):
        resource_path("LabelSets", "abdomen.json")
