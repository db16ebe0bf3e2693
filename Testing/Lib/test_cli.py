"""The command line: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.jobs.events import parse_event
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms


def lungseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "LungSegmentationLib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli é 日本")
    make_phantoms(out, 2, 5, options=PhantomOptions(in_plane=64, slices=10))
    return out / "dicom"


def test_version_and_help() -> None:
    assert lungseg("--version").stdout.strip() == f"lungseg {__version__}"
    shown = lungseg("--help").stdout
    for command in ("scan", "convert", "figures", "phantom", "demo"):
        assert command in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("scan",),
        ("convert", "only-one"),
        ("scan", "x", "--ct"),
        ("phantom", "x", "-n", "0"),
        ("convert", "x", "y", "--label-set", "nosuch"),
        ("evaluate", "--prediction", "x", "--reference", "y", "--out", "z", "--label-set", "nosuch"),
        ("evaluate", "--prediction", "x", "--reference", "y", "--out", "z", "--structures", "heart,nosuch"),
        ("evaluate", "--prediction", "x", "--reference", "y", "--out", "z", "--annotated", "nosuch"),
    ],
)
def test_wrong_usage_ends_with_code_2_and_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = lungseg(*arguments)
    assert done.returncode == ExitCode.USAGE
    assert "Traceback" not in done.stderr


def test_scan_as_json_tells_each_roi_and_its_fate(phantoms: Path) -> None:
    done = lungseg("scan", phantoms, "--json")
    assert done.returncode == 0
    content = json.loads(done.stdout)
    assert len(content["cases"]) == 2
    for case in content["cases"]:
        assert {"number", "name", "contours", "structure", "kind", "by", "reason", "volume_cc"} == set(case["rois"][0])
        assert any(roi["structure"] == "gtv" for roi in case["rois"])
        assert case["linked_by"] == "reference"


def test_scan_for_people_names_patients_rois_and_structures(phantoms: Path) -> None:
    done = lungseg("scan", phantoms)
    assert done.returncode == 0
    assert "PHANTOM" in done.stdout
    assert "spinal cord" in done.stdout
    assert "2 case(s) to convert" in done.stdout


def test_events_are_json_lines_from_started_to_finished(phantoms: Path, tmp_path: Path) -> None:
    done = lungseg("convert", phantoms, tmp_path / "c", "--events")
    assert done.returncode == 0
    events = [parse_event(line) for line in done.stdout.splitlines()]
    assert None not in events
    kinds = [event.event for event in events if event is not None]
    assert kinds[0] == "started"
    assert kinds[-2:] == ["result", "finished"]
    assert "progress" in kinds
    result = events[-2]
    assert result is not None
    assert result.model_dump()["summary"] == {"converted": 2, "kept": 0, "failed": 0, "skipped": 0}


def test_a_missing_folder_ends_with_code_3_and_one_sentence_that_names_it(tmp_path: Path) -> None:
    for command in (("scan", tmp_path / "no"), ("convert", tmp_path / "no", tmp_path / "c"), ("figures", tmp_path)):
        done = lungseg(*command)
        assert done.returncode == ExitCode.BAD_INPUT, command
        assert "Traceback" not in done.stderr
        assert str(tmp_path) in done.stderr.replace("\n", "")


def test_a_fault_of_the_program_keeps_its_traceback_and_ends_with_code_1(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lungseg', 'figures', sys.argv[1]]\n"
        "import LungSegmentationLib.figures.conversion as c\n"
        "def broken(*a): raise ZeroDivisionError('our fault')\n"
        "c.conversion_figures = broken\n"
        "from LungSegmentationLib.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAULT
    assert "ZeroDivisionError" in done.stderr
    assert "line" in done.stderr


def test_phantoms_from_the_command_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = lungseg("phantom", tmp_path / name, "-n", 1, "--seed", 9, "--size", 64, "--slices", 6)
        assert done.returncode == 0, done.stderr
    first, second = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("a", "b")
    )
    assert first == second


def test_the_demo_runs_on_a_users_own_folder_and_says_where_to_look(phantoms: Path, tmp_path: Path) -> None:
    done = lungseg("demo", tmp_path / "out", "--dicom", phantoms)
    assert done.returncode == 0, done.stderr
    assert "phase2_5_multi_organ" in done.stderr
    assert str((tmp_path / "out" / "cohort" / "figures").resolve()) in done.stdout.replace("\n", "")
    assert not (tmp_path / "out" / "phantoms").exists()
