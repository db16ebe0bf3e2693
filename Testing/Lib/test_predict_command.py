"""``lungseg predict``: what it writes lies on the CT, all of a case or none, and never over what is there."""

from __future__ import annotations

import dataclasses
import errno
import gc
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ct_files
import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from predict_files import KEYS, phantom, write_model, write_phantom
from training_files import Recorder
from typer.testing import CliRunner

from LungSegmentationLib.cli import app
from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.errors import CancelledError, ExitCode, StorageError, UsageError
from LungSegmentationLib.evaluation.evaluate import score_loaded
from LungSegmentationLib.evaluation.pairs import find_pairs
from LungSegmentationLib.exporting import export_segmentation
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.input_cases import DicomCase
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.prediction import Prediction
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, make_patient
from LungSegmentationLib.phantom.dicom_files import write_dicom

ROOT = Path(__file__).resolve().parents[2]
LABELS = load_label_set()
FAST = PredictionOptions(device="cpu", precision="float32", confidence=False)
DICOM_FORMATS = "nifti,seg.nrrd,dicom-seg,rtstruct"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class Place:
    model: Path
    other: Path
    overlapping: Path
    dicom: Path
    volume: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("Vorhersage für 肺 mit Raum")
    torch.set_num_threads(1)
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


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One patient in all formats, and what was said meanwhile."""
    out = tmp_path_factory.mktemp("out") / "Ergebnis 結果"
    code, said, text = lungseg(place.model, place.dicom / "Pätient 0", out, "-f", DICOM_FORMATS, "--confidence")
    assert code == ExitCode.DONE, text
    (folder,) = out.iterdir()
    return folder, said


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


def test_the_label_map_lies_on_the_grid_of_the_ct_and_is_what_the_predictor_says(place: Place, whole: Any) -> None:
    folder, _ = whole
    assert visible(folder) == {
        "labels.nii.gz",
        "segmentation.seg.nrrd",
        "segmentation.seg.dcm",
        "segmentation.rtstruct.dcm",
        "confidence.nii.gz",
        "prediction.json",
    }
    patient = phantom()
    expected = Predictor(place.model, FAST).predict((patient.ct, patient.grid)).label_map()
    image = sitk.ReadImage(str(folder / "labels.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), expected)
    assert set(np.unique(expected)) == {0, *(LABELS[key].label for key in KEYS)}
    assert image.GetSize() == patient.grid.size
    for mine, theirs in (
        (image.GetSpacing(), patient.grid.spacing),
        (image.GetOrigin(), patient.grid.origin),
        (image.GetDirection(), patient.grid.direction),
    ):
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_highdicom_reads_the_same_voxels_from_the_dicom_seg(place: Place, whole: Any) -> None:
    folder, _ = whole
    expected = labels(folder / "labels.nii.gz")
    seg = highdicom.seg.segread(folder / "segmentation.seg.dcm")
    slices = sorted(
        (pydicom.dcmread(path) for path in (place.dicom / "Pätient 0").rglob("*") if path.is_file()),
        key=lambda one: float(one.get("ImagePositionPatient", [0, 0, -1e9])[2]),
    )
    uids = [one.SOPInstanceUID for one in slices if one.Modality == "CT"]
    pixels = seg.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    assert [seg.get_segment_description(n).tracking_id for n in seg.segment_numbers] == list(KEYS)
    for number, key in enumerate(KEYS):
        assert np.array_equal(pixels[..., number] > 0, expected == LABELS[key].label), key


def test_simpleitk_reads_the_same_voxels_from_the_seg_nrrd(whole: Any) -> None:
    folder, _ = whole
    image = sitk.ReadImage(str(folder / "segmentation.seg.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), labels(folder / "labels.nii.gz"))
    names = {image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.endswith("_ID")}
    assert names == set(KEYS)


def test_filled_contours_of_the_rtstruct_are_the_same_voxels(whole: Any) -> None:
    folder, _ = whole
    expected, grid = labels(folder / "labels.nii.gz"), phantom().grid
    rois = read_rtstruct(folder / "segmentation.rtstruct.dcm").rois
    assert [roi.name for roi in rois] == [LABELS[key].tg263 for key in KEYS]
    for roi, key in zip(rois, KEYS, strict=True):
        filled = rasterize(roi.contours, grid).full(grid.shape)
        assert np.array_equal(filled, expected == LABELS[key].label), key


@pytest.mark.parametrize(
    ("orientation", "position"),
    [("sagittal", "HFS"), ("oblique", "HFS"), ("axial", "FFP")],
)
def test_every_format_holds_the_same_voxels_in_any_orientation(
    place: Place, tmp_path: Path, orientation: Any, position: Any
) -> None:
    patient = make_patient(3, 0, PhantomOptions(in_plane=48, slices=12, orientation=orientation, position=position))
    write_dicom(patient, tmp_path / "in")
    predict_command([place.model], tmp_path / "in", tmp_path / "out", FAST, formats=(DICOM_FORMATS,))
    folder = tmp_path / "out" / patient.patient_id
    image = sitk.ReadImage(str(folder / "labels.nii.gz"))
    ct = read_ct(next(study for study in scan(tmp_path / "in").patients[0].studies).series[0])
    assert Grid.of(image).matches(ct.grid, 1e-3)
    expected = sitk.GetArrayFromImage(image)
    assert np.array_equal(labels(folder / "segmentation.seg.nrrd"), expected)
    seg = highdicom.seg.segread(folder / "segmentation.seg.dcm")
    pixels = seg.get_pixels_by_source_instance(
        list(ct.sop_instance_uids), assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    found = {seg.get_segment_description(number).tracking_id: number for number in seg.segment_numbers}
    assert found
    rois = {roi.name: roi for roi in read_rtstruct(folder / "segmentation.rtstruct.dcm").rois}
    for key in KEYS:
        mask = expected == LABELS[key].label
        assert np.array_equal(rasterize(rois[LABELS[key].tg263].contours, ct.grid).full(ct.grid.shape), mask), key
        assert mask.any() == (key in found)
        if key in found:
            assert np.array_equal(pixels[..., found[key] - 1] > 0, mask), key


@pytest.mark.oracle
def test_plastimatch_reads_the_same_voxels_from_the_rtstruct(place: Place, whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    # The oracle takes neither blanks nor accents in paths.
    shutil.copy(folder / "segmentation.rtstruct.dcm", tmp_path / "rs.dcm")
    (tmp_path / "ct").mkdir()
    for path in (place.dicom / "Pätient 0").rglob("*"):
        if path.is_file() and pydicom.dcmread(path, stop_before_pixels=True).Modality == "CT":
            shutil.copy(path, tmp_path / "ct")
    command = ["plastimatch", "convert", "--input", str(tmp_path / "rs.dcm"), "--referenced-ct", str(tmp_path / "ct")]
    command += ["--output-prefix", str(tmp_path / "masks"), "--prefix-format", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    reference = sitk.ReadImage(str(folder / "labels.nii.gz"))
    for key in KEYS:
        image = sitk.ReadImage(str(tmp_path / "masks" / f"{LABELS[key].tg263}.nrrd"))
        onto = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
        expected = sitk.GetArrayFromImage(reference) == LABELS[key].label
        assert np.array_equal(sitk.GetArrayFromImage(onto) > 0, expected), key


def test_the_record_says_all_but_who_it_is(place: Place, whole: Any) -> None:
    folder, _ = whole
    text = (folder / "prediction.json").read_text(encoding="utf-8")
    record = json.loads(text)
    patient = pydicom.dcmread(next(path for path in (place.dicom / "Pätient 0").rglob("*") if path.is_file()))
    assert str(patient.PatientName) not in text
    assert str(place.dicom) not in text
    assert record["models"][0]["file"] == "Modell 1.safetensors"
    assert record["models"][0]["sha256"] == hashlib.sha256(place.model.read_bytes()).hexdigest()
    assert record["input"]["source"]["series_uid"] in {
        str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
        for path in (place.dicom / "Pätient 0").rglob("*")
        if path.is_file()
    }
    assert set(record["structures"]) == set(KEYS)
    expected = labels(folder / "labels.nii.gz")
    for key in KEYS:
        voxels = int((expected == LABELS[key].label).sum())
        cc = voxels * float(np.prod(sitk.ReadImage(str(folder / "labels.nii.gz")).GetSpacing())) / 1000
        assert record["structures"][key]["voxels"] == voxels
        assert record["structures"][key]["cc"] == pytest.approx(cc, abs=0.01)
        assert 0 < record["structures"][key]["confidence"] <= 1
    assert record["files"]["rtstruct"] == "segmentation.rtstruct.dcm"
    assert record["marked"] == bool(record["marked"])
    assert record["software"]["lungsegmentation"]


def test_the_events_tell_progress_paths_and_volumes(whole: Any) -> None:
    folder, said = whole
    assert (said[0]["event"], said[-1]["event"]) == ("started", "finished")
    slices = [event for event in of(said, "progress") if event["stage"] == "prediction"]
    assert (slices[-1]["done"], slices[-1]["total"]) == (10, 10)
    case, last = of(said, "result")
    assert case["paths"]["nifti"] == str(folder / "labels.nii.gz")
    assert case["paths"]["record"] == str(folder / "prediction.json")
    assert case["summary"]["state"] == "predicted"
    assert set(case["summary"]["structures"]) == set(KEYS)
    assert last["summary"] == {"cases": 1, "predicted": 1, "kept": 0, "failed": 0}


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nii", "c d.nrrd", "肺.mha", "e.seg.nrrd"])
def test_a_file_is_written_by_its_ending_with_its_record_beside(place: Place, tmp_path: Path, name: str) -> None:
    out = tmp_path / "new folder" / name
    done = predict_command([place.model], place.volume, out, FAST)
    stem = name.split(".", maxsplit=1)[0]
    assert visible(out.parent) == {name, f"{stem}.prediction.json"}
    assert np.array_equal(labels(out), Predictor(place.model, FAST).predict((phantom().ct, phantom().grid)).label_map())
    assert done.cases[0].files["record"] == out.parent / f"{stem}.prediction.json"


def test_several_formats_lie_beside_a_file_with_its_name(place: Place, tmp_path: Path) -> None:
    code, _, text = lungseg(
        place.model, place.dicom / "Pätient 0", tmp_path / "p.nii.gz", "-f", "nifti", "-f", "rtstruct,dicom-seg"
    )
    assert code == ExitCode.DONE, text
    assert visible(tmp_path) == {"p.nii.gz", "p.rtstruct.dcm", "p.seg.dcm", "p.prediction.json"}
    code, _, _ = lungseg(place.model, place.dicom / "Pätient 0", tmp_path / "q.dcm", "-f", "rtstruct")
    assert code == ExitCode.DONE
    assert pydicom.dcmread(tmp_path / "q.dcm").Modality == "RTSTRUCT"


def test_an_evaluation_finds_the_results_of_each_case_as_they_are(place: Place, tmp_path: Path) -> None:
    for index in range(2):
        folder = tmp_path / "truth" / phantom(index).patient_id
        folder.mkdir(parents=True)
        sitk.WriteImage(phantom(index).grid.image(phantom(index).structures.bits), str(folder / "structures.nii.gz"))
    for model, name in ((place.model, "labels.nii.gz"), (place.overlapping, "structures.nii.gz")):
        out = tmp_path / model.stem
        options = dataclasses.replace(FAST, confidence=True)
        predict_command([model], place.dicom, out, options, formats=(DICOM_FORMATS,))
        pairing = find_pairs(out, tmp_path / "truth", LABELS)
        assert [pair.prediction for pair in pairing.pairs] == [
            out / phantom(index).patient_id / name for index in range(2)
        ]
        assert pairing.without_reference == pairing.without_prediction == ()


@pytest.mark.parametrize("formats", ["nifti,dicom-seg", "seg.nrrd,dicom-seg,rtstruct"])
def test_the_folder_of_one_prediction_is_compared_with_any_reference(
    place: Place, tmp_path: Path, formats: str
) -> None:
    predict_command([place.model], place.dicom / "Pätient 0", tmp_path / "out", FAST, formats=(formats,))
    truth = tmp_path / "structures.nii.gz"
    sitk.WriteImage(phantom().grid.image(phantom().structures.bits), str(truth))
    (pair,) = find_pairs(tmp_path / "out" / phantom().patient_id, truth, LABELS).pairs
    assert pair.prediction.name == ("labels.nii.gz" if "nifti" in formats else "segmentation.seg.nrrd")


def test_structures_that_a_model_never_learned_are_not_held_against_it(place: Place, tmp_path: Path) -> None:
    truth = tmp_path / "truth.nii.gz"
    sitk.WriteImage(phantom().grid.image(phantom().structures.label_map()), str(truth))
    assert set(np.unique(labels(truth))) >= {LABELS[key].label for key in ("gtv", "spinal_cord", *KEYS)}
    for name in ("p.nii.gz", "p.seg.dcm"):
        predict_command([place.model], place.dicom / "Pätient 0", tmp_path / "out" / name, FAST)
        (pair,) = find_pairs(tmp_path / "out" / name, truth, LABELS).pairs
        scores = score_loaded(pair.load(LABELS), LABELS)
        assert [score.key for score in scores.scores] == list(KEYS)
        (tmp_path / "out" / "p.prediction.json").unlink()
        # Nobody says any more what was looked for.
        assert "gtv" in [score.key for score in score_loaded(pair.load(LABELS), LABELS).scores]


def test_of_several_cts_one_fails_the_others_go_on_and_the_end_says_so(place: Place, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(place.dicom, tree)
    files = ct_files.write_series(tree / "broken", np.zeros((8, 6, 7), np.uint16), PatientID="AAA broken")
    files[3].unlink()
    files[4].unlink()
    code, said, text = lungseg(place.model, tree, tmp_path / "out")
    assert code == ExitCode.BAD_INPUT
    assert visible(tmp_path / "out") == {phantom(0).patient_id, phantom(1).patient_id}
    assert of(said, "result")[-1]["summary"] == {"cases": 3, "predicted": 2, "kept": 0, "failed": 1}
    assert "1 of 3 CTs could not be segmented" in of(said, "failed")[0]["message"]
    assert "AAA_broken" in of(said, "failed")[0]["message"]
    assert any("not segmented" in event["message"] for event in of(said, "warning"))
    assert [event["done"] for event in of(said, "progress") if event["stage"] == "cases"][-1] == 3
    assert "Traceback" not in text


def test_a_single_ct_that_cannot_be_read_ends_with_its_own_sentence(place: Place, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([9, 9, 9], sitk.sitkUInt8), str(tmp_path / "x.nii"))
    code, said, _ = lungseg(place.model, tmp_path / "x.nii", tmp_path / "out" / "y.nii.gz")
    assert code == ExitCode.BAD_INPUT
    assert "8-bit" in of(said, "failed")[0]["message"]
    assert not (tmp_path / "out").exists()


def test_results_that_are_there_are_refused_kept_or_overwritten_as_asked(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert lungseg(place.model, place.volume, out)[0] == ExitCode.DONE
    result = out / "Jane_Doe" / "labels.nii.gz"
    stamp = result.stat().st_mtime_ns
    code, said, _ = lungseg(place.model, place.volume, out)
    assert code == ExitCode.USAGE
    assert "--overwrite" in of(said, "failed")[0]["hint"]
    _, said, _ = lungseg(place.model, place.volume, out, "--keep")
    assert of(said, "result")[-1]["summary"]["kept"] == 1
    assert result.stat().st_mtime_ns == stamp
    _, said, _ = lungseg(place.model, place.volume, out, "--overwrite")
    assert of(said, "result")[-1]["summary"]["predicted"] == 1
    assert result.stat().st_mtime_ns > stamp


@pytest.mark.parametrize("change", ["model", "options", "ct", "file missing", "record damaged", "format"])
def test_what_was_made_otherwise_or_is_not_whole_is_not_kept(place: Place, tmp_path: Path, change: str) -> None:
    ct = Path(shutil.copy(place.volume, tmp_path / "p.nii.gz"))
    out = tmp_path / "out"
    folder = out / "p"
    predict_command([place.model], ct, out, FAST)
    model, options, formats = place.model, FAST, ()
    if change == "model":
        model = place.other
    elif change == "options":
        options = dataclasses.replace(FAST, augmentation="flip")
    elif change == "ct":
        sitk.WriteImage(phantom(1).grid.image(phantom(1).ct), str(ct))
    elif change == "file missing":
        (folder / "labels.nii.gz").unlink()
    elif change == "record damaged":
        (folder / "prediction.json").write_text('{"schema_version": 1, "cas')
    else:
        formats = ("nifti,seg.nrrd",)
    assert predict_command([model], ct, out, options, formats=formats, existing="keep").count("predicted") == 1
    assert predict_command([model], ct, out, options, formats=formats, existing="keep").count("kept") == 1
    more = {"segmentation.seg.nrrd"} if formats else set()
    assert visible(folder) == {"labels.nii.gz", "prediction.json", *more}


def test_a_further_format_joins_the_record_of_the_same_prediction(place: Place, tmp_path: Path) -> None:
    predict_command([place.model], place.volume, tmp_path / "a.nii.gz", FAST)
    predict_command([place.model], place.volume, tmp_path / "a.seg.nrrd", FAST)
    files = json.loads((tmp_path / "a.prediction.json").read_text())["files"]
    assert files == {"nifti": "a.nii.gz", "seg.nrrd": "a.seg.nrrd"}
    heard = Recorder()
    predict_command([place.other], place.volume, tmp_path / "a.seg.nrrd", FAST, existing="overwrite", reporter=heard)
    assert any("a.nii.gz is of an earlier prediction" in event.message for event in heard.of("warning"))
    assert json.loads((tmp_path / "a.prediction.json").read_text())["files"] == {"seg.nrrd": "a.seg.nrrd"}


def test_a_model_that_keeps_overlaps_writes_every_structure_as_predicted(place: Place, tmp_path: Path) -> None:
    predict_command([place.overlapping], place.volume, tmp_path, FAST, formats=("nifti,seg.nrrd",))
    folder = tmp_path / "Jane_Doe"
    expected = Predictor(place.overlapping, FAST).predict((phantom().ct, phantom().grid))
    assert np.array_equal(labels(folder / "structures.nii.gz"), expected.structures.bits)
    assert np.array_equal(labels(folder / "labels.nii.gz"), expected.label_map())
    # Of another prediction they must not stay: an evaluation would take them for this one's.
    predict_command([place.model], place.volume, tmp_path, FAST, existing="overwrite")
    assert not (folder / "structures.nii.gz").exists()


def test_only_the_structures_asked_for_are_written_and_none_that_was_not_learned(place: Place, tmp_path: Path) -> None:
    source = place.dicom / "Pätient 0"
    code, _, text = lungseg(
        place.model, source, tmp_path / "out", "-f", DICOM_FORMATS, "--structures", "heart, lung_left"
    )
    assert code == ExitCode.DONE, text
    (folder,) = (tmp_path / "out").iterdir()
    wanted = {LABELS["heart"].label, LABELS["lung_left"].label}
    assert set(np.unique(labels(folder / "labels.nii.gz"))) == {0, *wanted}
    assert {item.TrackingID for item in pydicom.dcmread(folder / "segmentation.seg.dcm").SegmentSequence} == {
        "heart",
        "lung_left",
    }
    rois = pydicom.dcmread(folder / "segmentation.rtstruct.dcm").StructureSetROISequence
    assert {roi.ROIName for roi in rois} == {LABELS["heart"].tg263, LABELS["lung_left"].tg263}
    assert set(json.loads((folder / "prediction.json").read_text())["structures"]) == {"heart", "lung_left"}
    code, said, _ = lungseg(place.model, source, tmp_path / "no", "--structures", "gtv")
    assert code == ExitCode.USAGE
    assert "lung_right" in of(said, "failed")[0]["hint"]
    assert not (tmp_path / "no").exists()


def test_an_ensemble_is_written_with_all_its_models(place: Place, tmp_path: Path) -> None:
    code, said, text = lungseg(place.model, place.volume, tmp_path / "a.nii.gz", "--ensemble", place.other)
    assert code == ExitCode.DONE, text
    record = json.loads((tmp_path / "a.prediction.json").read_text())
    assert [model["file"] for model in record["models"]] == ["Modell 1.safetensors", "other.safetensors"]
    # Trained by an older version: that is said, and written down.
    assert any("older version" in event["message"] for event in of(said, "warning"))
    assert any("older version" in text for text in record["warnings"])


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


def test_nothing_found_is_a_warning_and_a_dicom_seg_is_left_out(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Predictor.predict

    def nothing(*arguments: Any, **options: Any) -> Prediction:
        prediction = predict(*arguments, **options)
        prediction.structures.bits[...] = 0
        return prediction

    monkeypatch.setattr(Predictor, "predict", nothing)
    source = place.dicom / "Pätient 0"
    code, said, _ = lungseg(place.model, source, tmp_path / "out", "-f", DICOM_FORMATS)
    assert code == ExitCode.DONE
    (folder,) = (tmp_path / "out").iterdir()
    assert visible(folder) == {
        "labels.nii.gz",
        "segmentation.seg.nrrd",
        "segmentation.rtstruct.dcm",
        "prediction.json",
    }
    assert any("no structure was found" in event["message"] for event in of(said, "warning"))
    code, said, _ = lungseg(place.model, source, tmp_path / "only.seg.dcm")
    assert code == ExitCode.BAD_INPUT
    assert "no structure was found" in of(said, "failed")[0]["message"]


def test_one_ct_is_in_memory_at_a_time(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, alive = DicomCase.load, []

    def counted(case: DicomCase) -> Any:
        gc.collect()
        assert not any(reference() for reference in alive)
        loaded = load(case)
        alive.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr(DicomCase, "load", counted)
    assert predict_command([place.model], place.dicom, tmp_path, FAST).count("predicted") == 2


def test_what_cannot_be_meant_is_refused_before_anything_is_touched(place: Place, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    (cohort / "cases" / "P1").mkdir(parents=True)
    (cohort / "cohort.json").write_text("{}")
    (cohort / "cases" / "P1" / "case.json").write_text("{}")
    shutil.copy(place.volume, cohort / "cases" / "P1" / "ct.nii.gz")
    ct = Path(shutil.copy(place.volume, tmp_path / "ct.nii.gz"))
    before = sorted(path for path in tmp_path.rglob("*"))
    for source, out, formats, said in (
        (place.dicom, tmp_path / "a.nii.gz", (), "one file, but there are 2"),
        (ct, tmp_path / "a.rtstruct.dcm", (), "the input is none"),
        (ct, tmp_path / "a", ("dicom-seg",), "the input is none"),
        (ct, tmp_path / "a.stl", (), "does not tell"),
        (ct, tmp_path / "a.nii.gz", ("seg.nrrd",), "ends as a nifti"),
        (ct, tmp_path / "a", ("nii",), "no format"),
        (ct, ct, (), "would be overwritten"),
        (cohort, cohort / "cases", (), "belongs to a cohort"),
        (ct, cohort, (), "belongs to a cohort"),
        (ct, place.model, (), "is a file"),
        (ct, tmp_path / ".nii.gz", (), "no name"),
    ):
        with pytest.raises(UsageError, match=said):
            predict_command([place.model], source, out, FAST, formats=formats, existing="overwrite")
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert lungseg(place.model, place.volume, tmp_path / "a", "--tta", "most")[0] == ExitCode.USAGE
    assert lungseg(place.volume, place.volume, tmp_path / "a")[0] == ExitCode.BAD_INPUT


def test_cancelled_in_the_middle_what_was_finished_stays_and_nothing_else(place: Place, tmp_path: Path) -> None:
    def second_begins(heard: Recorder) -> bool:
        return sum(event.stage == "prediction" and event.done > 0 for event in heard.of("progress")) > 2

    heard = Recorder(second_begins)
    options = dataclasses.replace(FAST, batch_size=4)
    with pytest.raises(CancelledError):
        predict_command([place.model], place.dicom, tmp_path, options, formats=("nifti,rtstruct",), reporter=heard)
    first, second = (phantom(index).patient_id for index in range(2))
    assert not (tmp_path / second).exists()
    assert not (tmp_path / first).exists() or "prediction.json" in visible(tmp_path / first)


def test_cancelled_while_writing_what_was_there_is_whole(place: Place, tmp_path: Path) -> None:
    source, formats = place.dicom / "Pätient 0", (DICOM_FORMATS,)
    done = predict_command([place.model], source, tmp_path, FAST, formats=formats)
    folder = done.cases[0].files["record"].parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    heard = Recorder(lambda heard: any(event.stage == "writing" and event.done == 2 for event in heard.of("progress")))
    with pytest.raises(CancelledError):
        predict_command([place.other], source, tmp_path, FAST, formats=formats, existing="overwrite", reporter=heard)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal ends the process at once")
def test_a_signal_in_the_middle_ends_with_4_and_leaves_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Predictor.predict

    def interrupted(*arguments: Any, **options: Any) -> Prediction:
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(*arguments, **options)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    code, said, _ = lungseg(place.model, place.volume, tmp_path / "out" / "a.nii.gz")
    assert code == ExitCode.CANCELLED
    assert of(said, "cancelled")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
@pytest.mark.parametrize("kind", ["nifti", "nrrd", "seg.nrrd", "dicom-seg", "rtstruct", "confidence"])
def test_on_a_full_disk_nothing_new_is_there_and_what_was_there_is_whole(
    place: Place, tmp_path: Path, kind: str
) -> None:
    import resource

    options = dataclasses.replace(FAST, confidence=kind == "confidence")
    formats = ("seg.nrrd",) if kind == "confidence" else (kind,)
    source = place.dicom / "Pätient 0"
    done = predict_command([place.model], source, tmp_path, options, formats=formats)
    folder = done.cases[0].files["record"].parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (done.cases[0].files[kind].stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(StorageError) as refused:
            predict_command([place.other], source, tmp_path, options, formats=formats, existing="overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(folder / done.cases[0].files[kind].name) in str(refused.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_without_room_for_the_record_nothing_new_is_there_and_the_next_case_is_not_tried(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    code, said, _ = lungseg(place.model, place.dicom, tmp_path / "out")
    assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "storage")
    assert "the disk is full" in of(said, "failed")[0]["hint"]
    assert list((tmp_path / "out").iterdir()) == []
    assert not of(said, "result")


def test_a_folder_that_cannot_be_written_is_said_before_the_work(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "predict", lambda *_a, **_k: pytest.fail("the work was done for nothing"))
    (tmp_path / "file").write_text("in the way")
    code, said, _ = lungseg(place.model, place.volume, tmp_path / "file" / "deeper" / "a.nii.gz")
    assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "storage")
    assert "a part of this path is a file" in of(said, "failed")[0]["hint"]
    if Path("/proc/self").exists():
        for output in ("/proc/results", "/proc/p.nii.gz"):
            code, said, _ = lungseg(place.model, place.volume, output)
            assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "storage")
            assert ".lock" not in of(said, "failed")[0]["message"]
    mkdir = os.mkdir

    def refused(path: Any, *arguments: Any, **options: Any) -> None:
        if ".partial" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refused)
    code, said, _ = lungseg(place.model, place.volume, tmp_path / "out")
    assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "storage")
    assert "may write to" in of(said, "failed")[0]["hint"]


def test_odd_places_are_said_in_a_sentence(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, _ = lungseg(place.model, place.volume, tmp_path / ("x" * 300))
    assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "storage")
    assert "too long" in of(said, "failed")[0]["hint"]
    (tmp_path / "a.nii.gz").mkdir()
    code, said, _ = lungseg(place.model, place.volume, tmp_path / "a.nii.gz", "-f", "seg.nrrd")
    assert code == ExitCode.DONE  # a folder, whatever its name
    (tmp_path / "out" / "Jane_Doe" / "labels.nii.gz").mkdir(parents=True)
    code, said, _ = lungseg(place.model, place.volume, tmp_path / "out", "--overwrite")
    assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "storage")
    assert visible(tmp_path / "out" / "Jane_Doe") == {"labels.nii.gz"}
    predict = Predictor.predict

    def meanwhile_removed(*arguments: Any, **options: Any) -> Prediction:
        shutil.rmtree(tmp_path / "gone")
        return predict(*arguments, **options)

    monkeypatch.setattr(Predictor, "predict", meanwhile_removed)
    assert lungseg(place.model, place.volume, tmp_path / "gone" / "a.seg.nrrd")[0] == ExitCode.DONE
    assert visible(tmp_path / "gone") == {"a.seg.nrrd", "a.prediction.json"}
    monkeypatch.setattr(Predictor, "predict", predict)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not Unicode")
def test_a_name_that_is_no_unicode_fails_alone(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "Latin"
    folder.mkdir()
    shutil.copy(place.volume, Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.nii.gz")))
    shutil.copy(place.volume, folder / "plain.nii.gz")
    shutil.copy(place.volume, Path(os.fsdecode(os.fsencode(folder) + b"/B\xe9.nrrd")))
    code, said, text = lungseg(place.model, folder, tmp_path / "out")
    assert code == ExitCode.BAD_INPUT, text
    assert of(said, "result")[-1]["summary"] == {"cases": 3, "predicted": 1, "kept": 0, "failed": 2}
    assert "not in UTF-8" in of(said, "failed")[0]["message"]
    assert visible(tmp_path / "out") == {"plain"}


_KILLED = """
import os, pathlib, signal, sys
import torch
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.options import PredictionOptions

torch.set_num_threads(1)
replace, calls = pathlib.Path.replace, [0]

def killed(self, target):
    calls[0] += 1
    if calls[0] == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

pathlib.Path.replace = killed
model, source, out = map(pathlib.Path, sys.argv[1:4])
options = PredictionOptions(device="cpu", precision="float32", confidence=False)
predict_command([model], source, out, options, formats=("nifti,rtstruct",), existing="overwrite")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
@pytest.mark.parametrize(("at", "survives"), [(2, True), (5, False)], ids=["while writing", "while moving"])
def test_killed_leaves_nothing_that_a_next_call_takes_for_done(
    place: Place, tmp_path: Path, at: int, survives: bool
) -> None:
    source, out, formats = place.dicom / "Pätient 0", tmp_path / "out", ("nifti,rtstruct",)
    done = predict_command([place.model], source, out, FAST, formats=formats)
    folder = done.cases[0].files["record"].parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, place.other, source, out, str(at)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    shown = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    if survives:
        assert shown == before
    else:
        assert "prediction.json" not in shown
    again = predict_command([place.other], source, out, FAST, formats=formats, existing="keep")
    assert again.count("predicted") == 1
    assert "prediction.json" in visible(folder)
    # What the killed one left goes when it surely belongs to nobody.
    for left in folder.glob(".partial-*"):
        os.utime(left, (0, 0))
    predict_command([place.other], source, out, FAST, formats=formats, existing="overwrite")
    assert visible(folder) == {"labels.nii.gz", "segmentation.rtstruct.dcm", "prediction.json"}


def test_results_that_another_prediction_is_writing_are_left_to_it_and_the_others_are_done(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, inner = Predictor.predict, []

    def twice(self: Predictor, *arguments: Any, **options: Any) -> Prediction:
        if not inner:  # while the first CT is segmented, somebody else begins with the same
            inner.append(None)
            inner[0] = lungseg(place.other, place.dicom, tmp_path / "out")
        return predict(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "predict", twice)
    code, said, _ = lungseg(place.model, place.dicom, tmp_path / "out")
    other_code, other_said, _ = inner[0]
    assert other_code == ExitCode.BAD_INPUT
    assert of(other_said, "result")[-1]["summary"] == {"cases": 2, "predicted": 1, "kept": 0, "failed": 1}
    assert "being written" in of(other_said, "failed")[0]["message"]
    # What the other one has made meanwhile is not replaced unasked, as at the start.
    assert code == ExitCode.BAD_INPUT
    assert of(said, "result")[-1]["summary"] == {"cases": 2, "predicted": 1, "kept": 0, "failed": 1}
    assert "exists already" in of(said, "failed")[0]["message"]
    models = [
        json.loads((tmp_path / "out" / phantom(index).patient_id / "prediction.json").read_text())["models"][0]["file"]
        for index in range(2)
    ]
    assert models == [place.model.name, place.other.name]
    for index in range(2):
        assert visible(tmp_path / "out" / phantom(index).patient_id) == {"labels.nii.gz", "prediction.json"}


def test_of_two_at_once_the_one_that_keeps_takes_what_the_other_has_finished(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, inner = Predictor.predict, []

    def twice(self: Predictor, *arguments: Any, **options: Any) -> Prediction:
        if not inner:
            inner.append(None)
            inner[0] = lungseg(place.model, place.dicom, tmp_path / "out", "--keep")
        return predict(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "predict", twice)
    code, said, _ = lungseg(place.model, place.dicom, tmp_path / "out", "--keep")
    assert of(inner[0][1], "result")[-1]["summary"]["predicted"] == 1
    assert code == ExitCode.DONE
    assert of(said, "result")[-1]["summary"] == {"cases": 2, "predicted": 1, "kept": 1, "failed": 0}


def test_the_folder_of_a_run_stands_for_its_best_model(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    code, said, _ = lungseg(run, place.volume, tmp_path / "out")
    assert code == ExitCode.BAD_INPUT
    assert "folder without a model" in of(said, "failed")[0]["message"]
    shutil.copy(place.model, run / "best_unet_multi_organ.safetensors")
    assert lungseg(run, place.volume, tmp_path / "out")[0] == ExitCode.DONE
    record = json.loads((tmp_path / "out" / "Jane_Doe" / "prediction.json").read_text())
    assert record["models"][0]["file"] == "best_unet_multi_organ.safetensors"
    assert CliRunner().invoke(app, ["info", str(run)]).exit_code == ExitCode.DONE
