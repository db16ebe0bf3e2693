"""``lungseg predict``: what it writes lies on the CT, in every format, and is found again by an evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from predict_files import KEYS, phantom
from predict_runs import DICOM_FORMATS, FAST, Place, labels, lungseg, make_place, of, one_thread, visible
from typer.testing import CliRunner

from LungSegmentationLib.cli import app
from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.evaluation.evaluate import score_loaded
from LungSegmentationLib.evaluation.pairs import find_pairs
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, make_patient
from LungSegmentationLib.phantom.dicom_files import write_dicom


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("Vorhersage für 肺 mit Raum"))


LABELS = load_label_set()


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One patient in all formats, and what was said meanwhile."""
    out = tmp_path_factory.mktemp("out") / "Ergebnis 結果"
    code, said, text = lungseg(place.model, place.dicom / "Pätient 0", out, "-f", DICOM_FORMATS, "--confidence")
    assert code == ExitCode.DONE, text
    (folder,) = out.iterdir()
    return folder, said


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
