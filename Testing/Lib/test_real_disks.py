"""Disks that are truly full or read-only: a sentence, exit code 3, and no half file.

Each command runs in a mount namespace of its own (``unshare -Urm``), with a small tmpfs in place of its output: a limit
of a process or a patched call stops other writes than a disk does, and for root no folder is read-only by its rights.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from predict_files import write_model, write_phantom

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.options import PredictionOptions

ROOT = Path(__file__).resolve().parents[2]
# Raises for a part of a file.
WHOLE: dict[str, Callable[[bytes], object]] = {
    ".gz": gzip.decompress,
    ".json": json.loads,
    ".jsonl": lambda content: [json.loads(line) for line in content.splitlines()],
    ".png": lambda content: content.index(b"IEND\xaeB\x60\x82"),
    ".html": lambda content: content.index(b"</html>"),
}
SCRIPT = """
set -e
mount -t tmpfs -o size="$SIZE" tmpfs "$DISK"
if [ -n "$SEED" ]; then cp -r "$SEED" "$DISK/"; fi
if [ -n "$READ_ONLY" ]; then mount -o remount,ro "$DISK"; fi
code=0
"$@" || code=$?
cp -r "$DISK/." "$LEFT/"
exit $code
"""


@cache
def may_mount() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def _skip_where_nothing_may_be_mounted() -> None:
    if not may_mount():
        pytest.skip("no file system may be mounted here (unshare -Urm)")


@dataclass(frozen=True)
class Place:
    dicom: Path
    model: Path
    prepared: Path
    predicted: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("Daten 肺")
    for index in range(2):
        write_phantom(root / "dicom" / f"P{index}", index)
    model = write_model(root / "m.safetensors")
    convert(root / "dicom", root / "prepared")
    prepare(root / "prepared", PreparationOptions(slice_size=64, ratios=(0.5, 0.5, 0.0)))
    options = PredictionOptions(device="cpu", precision="float32", confidence=False)
    predict_command([model], root / "dicom", root / "predicted", options, formats=("seg.nrrd",))
    return Place(root / "dicom", model, root / "prepared", root / "predicted")


def command_of(name: str, place: Place, disk: Path) -> tuple[list[object], Path | None, str]:
    """Return the arguments, what has to lie on the disk before, and a size in KiB that is too small."""
    match name:
        case "phantom":
            return ["phantom", disk / "out", "--patients", "1"], None, "2000k"
        case "convert":
            return ["convert", place.dicom, disk / "cohort"], None, "100k"
        case "prepare":
            return ["prepare", disk / "prepared", "--slice-size", "96"], place.prepared, "600k"
        case "train":
            settings = ("epochs=2", "batch_size=4", "network=tiny", "network.widths=[4,4]")
            chosen = [part for setting in settings for part in ("--set", setting)]
            return ["train", disk / "prepared", "--run", "r", "--device", "cpu", *chosen], place.prepared, "520k"
        case "predict":
            formats = "nifti,seg.nrrd,rtstruct"
            return ["predict", place.model, place.dicom, disk / "out", "-f", formats, "--device", "cpu"], None, "300k"
        case "evaluate":
            pair = ["--prediction", place.predicted, "--reference", place.dicom]
            return ["evaluate", *pair, "--out", disk / "out", "--3d", "none"], None, "400k"
        case "export":
            source = next(place.predicted.rglob("*.seg.nrrd"))
            return ["export", source, disk / "a.seg.dcm", "--source", place.dicom], None, "12k"
        case _:
            raise AssertionError(name)


def run(name: str, place: Place, tmp_path: Path, *, read_only: bool) -> tuple[int, str, Path]:
    """Run a command on a small disk; return its exit code, what it said, and a copy of what it left there."""
    disk, left = tmp_path / "Platte 円", tmp_path / "left"
    disk.mkdir()
    left.mkdir()
    arguments, seed, size = command_of(name, place, disk)
    command = [sys.executable, "-m", "LungSegmentationLib", *map(str, arguments)]
    environment = {
        "OMP_NUM_THREADS": "1",
        "SIZE": "100m" if read_only else size,
        "DISK": str(disk),
        "SEED": str(seed or ""),
        "READ_ONLY": "1" if read_only else "",
        "LEFT": str(left),
    }
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", SCRIPT, "sh", *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split()), left


def check_whole(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert ".partial" not in path.name
        if path.is_file():
            WHOLE.get(path.suffix, len)(path.read_bytes())


@pytest.mark.parametrize("name", ["phantom", "convert", "train", "predict", "evaluate", "export"])
def test_a_full_disk_is_said_and_leaves_no_half_file(name: str, place: Place, tmp_path: Path) -> None:
    code, said, left = run(name, place, tmp_path, read_only=False)
    assert code == ExitCode.BAD_INPUT, said
    assert "the disk is full" in said
    assert str(tmp_path / "Platte 円") in said
    assert "Traceback" not in said
    check_whole(left)


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_written(place: Place, tmp_path: Path) -> None:
    code, said, left = run("prepare", place, tmp_path, read_only=False)
    assert code == ExitCode.BAD_INPUT, said
    assert "are free" in said
    assert "Nothing was written" in said
    before = {path.relative_to(place.prepared): path.stat().st_size for path in place.prepared.rglob("*.npy")}
    there = left / "prepared"
    assert {path.relative_to(there): path.stat().st_size for path in there.rglob("*.npy")} == before


@pytest.mark.parametrize("name", ["convert", "prepare", "train", "predict", "evaluate", "export"])
def test_a_read_only_disk_is_said_and_nothing_is_changed(name: str, place: Place, tmp_path: Path) -> None:
    code, said, left = run(name, place, tmp_path, read_only=True)
    assert code == ExitCode.BAD_INPUT, said
    assert "read-only" in said.lower()
    assert "Traceback" not in said
    seed = command_of(name, place, left)[1]
    before = {} if seed is None else {path.relative_to(seed.parent): path for path in seed.rglob("*") if path.is_file()}
    after = {path.relative_to(left): path for path in left.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in after.items()} == {
        name: path.read_bytes() for name, path in before.items()
    }
