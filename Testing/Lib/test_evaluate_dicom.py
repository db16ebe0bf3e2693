"""Predictions against a tree of DICOM: each is compared with the contours on its own CT, whatever it is called."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from LungSegmentationLib.cli import app
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.writers import source_of, write_result
from LungSegmentationLib.errors import BadInputError, ExitCode
from LungSegmentationLib.evaluation.evaluate import score_loaded
from LungSegmentationLib.evaluation.pairs import Pairing, find_pairs
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, PhantomPatient, make_patient
from LungSegmentationLib.phantom.dicom_files import write_dicom
from LungSegmentationLib.structures import StructureMap

LABELS = load_label_set()
OPTIONS = PhantomOptions(in_plane=48, slices=8, complete=True)


@cache
def patient(index: int) -> PhantomPatient:
    return make_patient(5, index, OPTIONS)


def deep(root: Path) -> Path:
    """Write two patients as an archive exports them: patient, study, series."""
    for index in range(2):
        write_dicom(patient(index), root / "part")
        place = root / f"Pätient {index}" / "Study"
        for file in files(root / "part"):
            kind = "RS" if pydicom.dcmread(file).Modality == "RTSTRUCT" else "CT"
            (place / kind).mkdir(parents=True, exist_ok=True)
            file.rename(place / kind / file.name)
        shutil.rmtree(root / "part")
    return root


def mixed(root: Path) -> Path:
    """Write two patients into one folder."""
    for index in range(2):
        write_dicom(patient(index), root / "part")
        for file in files(root / "part"):
            file.rename(root / f"{index}-{file.parent.name}-{file.name}")
        shutil.rmtree(root / "part")
    return root


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def write_truth(path: Path, index: int) -> Path:
    """Write the exact truth of a phantom, which is what its contours enclose."""
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = patient(index)
    sitk.WriteImage(truth.grid.image(truth.structures.bits), str(path))
    return path


def dice(pairing: Pairing) -> dict[str, set[float]]:
    found = {}
    for pair in pairing.pairs:
        loaded = pair.load(LABELS)
        assert loaded.ct is not None
        found[pair.case] = {score.dice for score in score_loaded(loaded, LABELS).scores if score.dice is not None}
    return found


def write_seg(tree: Path, index: int, path: Path, structures: StructureMap | None = None, **how: Any) -> Path:
    """Write the truth of a phantom as DICOM that names its series."""
    name = patient(index).patient_id
    (series,) = [one for found in scan(tree).patients if found.patient_id == name for one in found.series]
    volume = read_ct(series)
    return write_result(structures or patient(index).structures, source_of(volume, series), path, **how)


@pytest.mark.parametrize("lay", [deep, mixed])
def test_each_patient_of_a_tree_is_compared_with_the_contours_on_his_own_ct(lay: Any, tmp_path: Path) -> None:
    tree = lay(tmp_path / "Archiv 肺")
    names = [patient(index).patient_id for index in range(2)]
    for index, name in enumerate(names):
        write_truth(tmp_path / "p" / name / "structures.nii.gz", index)
    pairing = find_pairs(tmp_path / "p", tree, LABELS)
    assert dice(pairing) == {name: {1.0} for name in names}
    for index, pair in enumerate(pairing.pairs):
        assert np.array_equal(pair.load(LABELS).ct, patient(index).ct)
    assert (pairing.without_prediction, pairing.without_reference) == ((), ())


def test_the_name_of_a_patients_folder_is_a_name_too(tmp_path: Path) -> None:
    tree = deep(tmp_path / "tree")
    write_truth(tmp_path / "p" / "Pätient 1" / "structures.nii.gz", 1)
    pairing = find_pairs(tmp_path / "p", tree, LABELS)
    assert dice(pairing) == {"Pätient 1": {1.0}}
    assert pairing.without_prediction == (patient(0).patient_id,)


@pytest.mark.parametrize("ending", [".seg.dcm", ".rtstruct.dcm"])
def test_dicom_predictions_belong_to_the_series_that_they_name_whatever_they_are_called(
    tmp_path: Path, ending: str
) -> None:
    tree = deep(tmp_path / "tree")
    # Each bears the name of the other patient.
    for index in range(2):
        write_seg(tree, index, tmp_path / "p" / f"{patient(1 - index).patient_id}{ending}")
    for pair in find_pairs(tmp_path / "p", tree, LABELS).pairs:
        index = 1 if pair.case == patient(0).patient_id else 0
        assert pair.series is not None
        assert pair.series.patient_id == patient(index).patient_id
    alone = find_pairs(tmp_path / "p" / f"{patient(0).patient_id}{ending}", tree, LABELS)
    assert [pair.case for pair in alone.pairs] == [patient(1).patient_id]


def test_the_record_of_a_prediction_says_which_series_it_is_of(tmp_path: Path) -> None:
    from predict_files import write_model

    from LungSegmentationLib.inference.command import predict_command
    from LungSegmentationLib.inference.options import PredictionOptions

    tree = deep(tmp_path / "tree")
    options = PredictionOptions(device="cpu", precision="float32", confidence=False)
    predict_command([write_model(tmp_path / "m.safetensors")], tree, tmp_path / "p", options)
    (tmp_path / "p" / patient(0).patient_id).rename(tmp_path / "p" / "first")
    pairing = find_pairs(tmp_path / "p", tree, LABELS)
    assert {pair.case: pair.series.patient_id for pair in pairing.pairs if pair.series} == {
        "first": patient(0).patient_id,
        patient(1).patient_id: patient(1).patient_id,
    }
    # One prediction's folder alone.
    (pair,) = find_pairs(tmp_path / "p" / "first", tree, LABELS).pairs
    assert (pair.case, pair.prediction.parent.name) == (patient(0).patient_id, "first")


def test_predictions_in_the_tree_are_no_references(tmp_path: Path) -> None:
    tree = deep(tmp_path / "tree")
    wrong = StructureMap(LABELS, np.roll(patient(0).structures.bits, 6, axis=2))
    # It holds as many structures as the physician's and is newer, so it would be taken.
    place = tree / "Pätient 0" / "results"
    write_seg(tree, 0, place / f"{patient(0).patient_id}.rtstruct.dcm", wrong)
    pairing = find_pairs(place, tree, LABELS)
    (pair,) = pairing.pairs
    assert pair.reference.parent.name == "RS"
    assert all(value < 0.95 for value in dice(pairing)[patient(0).patient_id])


def test_of_several_rtstructs_the_choice_is_said(tmp_path: Path) -> None:
    tree = deep(tmp_path / "tree")
    keys = ("gtv",)
    second = tree / "second opinion.dcm"
    write_seg(tree, 0, second, format="rtstruct", keys=keys)
    content = pydicom.dcmread(second)
    content.Manufacturer = "Pinnacle3"
    content.save_as(second)
    write_truth(tmp_path / "p" / patient(0).patient_id / "structures.nii.gz", 0)
    (pair,) = find_pairs(tmp_path / "p", tree, LABELS).pairs
    assert pair.reference.parent.name == "RS"
    assert any("2 RTSTRUCTs" in warning for warning in pair.load(LABELS).warnings)


def test_a_copy_with_other_uids_is_found_by_its_name(tmp_path: Path) -> None:
    tree = deep(tmp_path / "tree")
    write_seg(tree, 0, tmp_path / "p" / f"{patient(0).patient_id}.seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "p" / f"{patient(0).patient_id}.seg.dcm")
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"
    dataset.save_as(tmp_path / "p" / f"{patient(0).patient_id}.seg.dcm")
    (pair,) = find_pairs(tmp_path / "p", tree, LABELS).pairs
    assert pair.series is not None
    assert pair.series.patient_id == patient(0).patient_id
    # It may as well be a prediction of another CT of this patient.
    assert any("names a CT that is not here" in warning for warning in pair.load(LABELS).warnings)
    write_seg(tree, 0, tmp_path / "q" / f"{patient(0).patient_id}.seg.dcm")
    (known,) = find_pairs(tmp_path / "q", tree, LABELS).pairs
    assert not any("is not here" in warning for warning in known.load(LABELS).warnings)


def test_a_folder_that_holds_a_second_patient_without_contours_is_no_name_of_the_first(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for index in range(2):
        write_dicom(patient(index), tree / "both" / str(index))
    for file in files(tree / "both" / "1"):
        if pydicom.dcmread(file).Modality == "RTSTRUCT":
            file.unlink()
    write_truth(tmp_path / "p" / "both" / "structures.nii.gz", 1)
    with pytest.raises(BadInputError, match="both against"):
        find_pairs(tmp_path / "p", tree, LABELS)


def test_a_tree_that_lies_beside_its_predictions_is_a_reference(tmp_path: Path) -> None:
    tree = deep(tmp_path / "dicom")
    for index in range(2):
        write_truth(tmp_path / patient(index).patient_id / "structures.nii.gz", index)
    assert dice(find_pairs(tmp_path, tree, LABELS)) == {patient(index).patient_id: {1.0} for index in range(2)}


def test_two_predictions_of_one_ct_and_none_that_fits_are_refused(tmp_path: Path) -> None:
    tree = deep(tmp_path / "tree")
    for name in ("a", "b"):
        write_seg(tree, 0, tmp_path / "p" / f"{name}.seg.dcm")
    with pytest.raises(BadInputError, match="Two predictions belong to"):
        find_pairs(tmp_path / "p", tree, LABELS)
    write_truth(tmp_path / "q" / "nobody" / "structures.nii.gz", 0)
    with pytest.raises(BadInputError, match="nobody against"):
        find_pairs(tmp_path / "q", tree, LABELS)


def test_the_command_evaluates_a_tree_and_names_who_is_missing(tmp_path: Path) -> None:
    tree = deep(tmp_path / "tree")
    write_truth(tmp_path / "p" / patient(0).patient_id / "structures.nii.gz", 0)
    write_truth(tmp_path / "p" / "nobody" / "structures.nii.gz", 0)
    call = ["evaluate", "--prediction", tmp_path / "p", "--reference", tree, "--out", tmp_path / "out", "--events"]
    result = CliRunner().invoke(app, [*map(str, call), "--3d", "none"])
    assert result.exit_code == ExitCode.DONE, result.output
    said = [json.loads(line) for line in result.stdout.splitlines()]
    warned = {event["subject"]: event["message"] for event in said if event["event"] == "warning"}
    assert "no reference" in warned["nobody"]
    assert "no prediction" in warned[patient(1).patient_id]
    summary = next(event["summary"] for event in said if event["event"] == "result")
    assert (summary["cases"], summary["mean_dice"], summary["left_out"]) == (1, 1.0, 2)


@pytest.mark.realdata
def test_two_real_patients_in_one_tree_have_the_volumes_of_another_program(data: Path, tmp_path: Path) -> None:
    """LUNG1-002: voxels after plastimatch; LUNG1-001: the planning system's RTSTRUCT, which names no image of it."""
    from LungSegmentationLib.cohort.convert import convert
    from LungSegmentationLib.cohort.paths import CohortPaths

    tree = tmp_path / "tree"
    for name in ("rt_lung1-001/image", "rt_lung1-001_xio_rtstruct", "rt_lung1-002"):
        shutil.copytree(data / name, tree / name)
    convert(tree, tmp_path / "cohort")
    for case in CohortPaths(tmp_path / "cohort").finished_cases():
        (tmp_path / "p" / case.name).mkdir(parents=True)
        shutil.copy(case.structures, tmp_path / "p" / case.name)
    pairing = find_pairs(tmp_path / "p", tree, LABELS)
    assert dice(pairing) == {"LUNG1-001": {1.0}, "LUNG1-002": {1.0}}
    loaded = pairing.pairs[1].load(LABELS)
    reference = {score.key: score.reference_cc for score in score_loaded(loaded, LABELS).scores}
    plastimatch = {
        "gtv": 125204,
        "ptv": 347392,
        "heart": 373247,
        "esophagus": 19236,
        "spinal_cord": 22216,
        "lung_right": 658479,
        "lung_left": 686334,
    }
    voxel = 0.9770 * 0.9770 * 3.0 / 1000
    assert reference == {key: pytest.approx(count * voxel, rel=2e-3) for key, count in plastimatch.items()}
