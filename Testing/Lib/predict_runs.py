"""What the tests of ``lungseg predict`` share: models and patients in a folder, the command run, its events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from predict_files import phantom, write_model, write_phantom
from typer.testing import CliRunner

from LungSegmentationLib.cli import app
from LungSegmentationLib.inference.options import PredictionOptions

FAST = PredictionOptions(device="cpu", precision="float32", confidence=False)
DICOM_FORMATS = "nifti,seg.nrrd,dicom-seg,rtstruct"


@dataclass(frozen=True)
class Place:
    model: Path
    other: Path
    overlapping: Path
    dicom: Path
    volume: Path


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_place(root: Path) -> Place:
    """Write three models, two patients as DICOM, and one of them as a volume."""
    with one_thread():
        for index in range(2):
            write_phantom(root / "DICOM é" / f"Pätient {index}", index)
        sitk.WriteImage(phantom().grid.image(phantom().ct), str(root / "Jane Doe.nii.gz"))
        return Place(
            write_model(root / "Modell 1.safetensors"),
            write_model(root / "other.safetensors", software={"lungsegmentation": "0.0.1"}),
            write_model(root / "keep.safetensors", overlap="keep"),
            root / "DICOM é",
            root / "Jane Doe.nii.gz",
        )


def lungseg(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command with events; return its exit code, the events, and all that it wrote."""
    flags = ("--device", "cpu", "--precision", "float32", "--events")
    result = CliRunner().invoke(app, ["predict", *map(str, arguments), *flags])
    lines = result.stdout.splitlines()
    return result.exit_code, [json.loads(line) for line in lines if line.startswith("{")], result.output


def of(said: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in said if event["event"] == kind]


def labels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
