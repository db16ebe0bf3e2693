"""Segmentations of small series in any orientation, for tests of the writers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import ct_files
import numpy as np
import pytest

from LungSegmentationLib.dicom.ct import CTVolume, read_ct
from LungSegmentationLib.dicom.writers import DicomSource, source_of
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.structures import StructureMap

SLANT = np.deg2rad(20)
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (np.cos(SLANT), 0, np.sin(SLANT), 0, 1, 0),
}
SHAPE = (9, 36, 30)
SPACING = (0.8, 1.1, 2.5)
ORIGIN = (-123.4567, 87.65, -1033.25)

ELEMENTS: dict[str, Any] = {
    "StudyTime": "101500",
    "StudyID": "7",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Who^Doctor",
    "PatientSex": "F",
    "PatientAge": "070Y",
    "StudyDescription": "Thorax",
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller^Zoë",
}


def series(
    folder: Path, orientation: str = "axial", shape: tuple[int, int, int] = SHAPE, **elements: Any
) -> list[Path]:
    """Write a CT of noise."""
    stored = np.random.default_rng(5).integers(0, 2000, shape).astype(np.uint16)
    return ct_files.write_series(
        folder,
        stored,
        origin=ORIGIN,
        orientation=ORIENTATIONS[orientation],
        spacing=SPACING,
        **{**ELEMENTS, **elements},
    )


def source(folder: Path, orientation: str = "axial", **elements: Any) -> tuple[CTVolume, DicomSource]:
    files = series(folder, orientation, **elements)
    ct = read_ct(files)
    return ct, source_of(ct, files)


def anatomy(shape: tuple[int, int, int] = SHAPE, *, overlapping: bool = True, seed: int = 3) -> StructureMap:
    """Round and ragged structures, one with a hole and an island, one with several parts, the heart missing."""
    z, y, x = (np.arange(size).reshape([-1 if axis == n else 1 for n in range(3)]) for axis, size in enumerate(shape))
    rng = np.random.default_rng(seed)
    radius = np.hypot(y - 17.3, x - 14.8) + 0 * z
    masks = {
        "lung_right": (radius < 13) & ~((radius < 9) & (radius > 4)),
        "gtv": (np.hypot(y - 12, x - 9) + 0 * z < 3.3) & (z > 2) & (z < 7),
        "spinal_cord": (np.hypot(y - 33, x - 15) + 0 * z < 2.2),
        "esophagus": rng.random(shape) < 0.08,
    }
    masks["ptv"] = (np.hypot(y - 12, x - 9) + 0 * z < 5.3) & (z > 1) & (z < 8)
    label_set = load_label_set("thorax")
    result = StructureMap.from_masks(label_set, masks, shape)
    return result if overlapping else StructureMap.from_label_map(label_set, result.label_map())


def complaints(path: Path) -> list[str]:
    """Return what dciodvfy calls an error; skips the test where the program is missing."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: apt install dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60, check=False)
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    assert any(line in {"Segmentation", "RTStructureSet"} for line in lines), lines
    return [line for line in lines if line.startswith("Error")]
