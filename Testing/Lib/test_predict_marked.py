"""A result outside of what the model is made for says so in every file, whatever it becomes."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import SimpleITK as sitk
from predict_files import phantom
from predict_runs import DICOM_FORMATS, FAST, Place, lungseg, make_place, of, one_thread

from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.exporting import export_segmentation
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.predictor import Predictor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("Vorhersage für 肺 mit Raum"))


def test_a_marked_result_says_so_in_every_file_and_aloud(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Predictor.predict
    monkeypatch.setattr(
        Predictor,
        "predict",
        lambda *a, **k: dataclasses.replace(predict(*a, **k), warnings=("It has only 2 slices.",)),
    )
    code, said, _ = lungseg(place.model, place.dicom / "Pätient 0", tmp_path / "out", "-f", DICOM_FORMATS)
    assert code == ExitCode.DONE
    (folder,) = (tmp_path / "out").iterdir()
    assert any("CHECK THIS RESULT" in event["message"] for event in of(said, "warning"))
    for name in ("segmentation.seg.dcm", "segmentation.rtstruct.dcm"):
        assert "OUTSIDE MODEL RANGE" in pydicom.dcmread(folder / name).SeriesDescription
    assert "OUTSIDE MODEL RANGE" in sitk.ReadImage(str(folder / "segmentation.seg.nrrd")).GetMetaData(
        "LungSegmentation_Description"
    )
    # The header's own field, 80 bytes from byte 148 on (NIfTI-1).
    assert b"OUTSIDE MODEL RANGE" in gzip.decompress((folder / "labels.nii.gz").read_bytes())[148:228]
    record = json.loads((folder / "prediction.json").read_text())
    assert record["marked"] is True
    assert "It has only 2 slices." in record["warnings"]
    assert of(said, "result")[0]["summary"]["marked"] is True
    _, said, _ = lungseg(place.model, place.dicom / "Pätient 0", tmp_path / "out", "-f", DICOM_FORMATS, "--keep")
    assert of(said, "result")[0]["summary"]["state"] == "kept"
    assert any("CHECK THIS RESULT" in e["message"] and "only 2 slices" in e["message"] for e in of(said, "warning"))


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.nrrd", "labels.mha", "segmentation.seg.nrrd", "structures"])
@pytest.mark.parametrize("becomes", ["p.seg.dcm", "p.rtstruct.dcm", "p.nii", "p.mha"])
def test_a_mark_outlives_every_change_of_format(
    marked: Path, place: Place, tmp_path: Path, name: str, becomes: str
) -> None:
    source = place.dicom / "Pätient 0"
    segmentation = next(marked.glob(f"{name}*"))
    export_segmentation(segmentation, tmp_path / becomes, source=source)
    again = tmp_path / "again.nrrd"
    export_segmentation(tmp_path / becomes, again, source=source)
    assert "OUTSIDE MODEL RANGE" in sitk.ReadImage(str(again)).GetMetaData("LungSegmentation_Description")


@pytest.fixture(scope="module")
def marked(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written of a marked prediction of a model that keeps overlaps."""
    out = tmp_path_factory.mktemp("marked")
    with pytest.MonkeyPatch.context() as patch:
        predict = Predictor.predict
        patch.setattr(Predictor, "predict", lambda *a, **k: dataclasses.replace(predict(*a, **k), warnings=("Odd.",)))
        kinds = "nifti,nrrd,mha,seg.nrrd"
        predict_command([place.overlapping], place.dicom / "Pätient 0", out, FAST, formats=(kinds,))
    return out / phantom().patient_id
