"""``evaluate --model``: a model is tried on a part of a cohort's split, and the report says how sure it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from predict_files import KEYS, write_model, write_phantom
from typer.testing import CliRunner

from LungSegmentationLib.cli import app
from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.splits import Split, write_splits
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.labels import load_label_set

LABELS = load_label_set()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    """Three phantoms, one a part."""
    root = tmp_path_factory.mktemp("Kohorte é")
    for index in range(3):
        write_phantom(root / "dicom" / str(index), index)
    convert(root / "dicom", root / "cohort", ConversionOptions())
    paths = CohortPaths(root / "cohort")
    names = [case.name for case in paths.finished_cases()]
    write_splits(paths, Split((names[0],), (names[1],), (names[2],)))
    return paths


def evaluate(*arguments: object) -> object:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def rows(out: Path) -> dict[str, dict[str, str]]:
    (table,) = out.glob("evaluation_results_*.csv")
    with table.open(encoding="utf-8-sig", newline="") as stream:
        return {row["structure"]: row for row in csv.DictReader(stream)}


def values(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
def test_scores_are_those_of_the_part_and_of_structures_that_were_learned(
    cohort: CohortPaths, tmp_path: Path, overlap: str
) -> None:
    model = write_model(tmp_path / "model.safetensors", overlap)
    out = tmp_path / "out"
    done = evaluate("--model", model, "--cohort", cohort.root, "--out", out, "--3d", "none", "--device", "cpu")
    assert done.exit_code == 0, done.output
    (name,) = cohort.split("test").read_text(encoding="utf-8").split()
    assert [folder.name for folder in (out / "predictions").iterdir()] == [name]
    found = rows(out)
    assert {key for key, row in found.items() if row["dice"]} == set(KEYS)
    truth = values(cohort.case(name).structures)
    if overlap == "keep":
        predicted = values(out / "predictions" / name / "structures.nii.gz")
        sides = {key: (truth & 1 << LABELS[key].label - 1, predicted & 1 << LABELS[key].label - 1) for key in KEYS}
    else:
        predicted = values(out / "predictions" / name / "labels.nii.gz")
        # Painted with what was learned only: right lung, left lung, heart last.
        painted = np.zeros_like(truth)
        for key in KEYS:
            painted[truth & 1 << LABELS[key].label - 1 != 0] = LABELS[key].label
        sides = {key: (painted == LABELS[key].label, predicted == LABELS[key].label) for key in KEYS}
    for key, (a, b) in sides.items():
        expected = 2 * np.count_nonzero((a != 0) & (b != 0)) / (np.count_nonzero(a) + np.count_nonzero(b))
        assert float(found[key]["dice"]) == pytest.approx(expected, abs=1e-6)


def test_table_and_report_say_how_sure_the_network_was_as_the_record_does(cohort: CohortPaths, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    out = tmp_path / "out"
    assert evaluate("--model", model, "--cohort", cohort.root, "--out", out, "--3d", "none").exit_code == 0
    (record,) = (out / "predictions").glob("*/prediction.json")
    stated = json.loads(record.read_text(encoding="utf-8"))["structures"]
    for key, row in rows(out).items():
        if row["dice"]:
            assert float(row["confidence"]) == pytest.approx(stated[key]["confidence"], rel=1e-5)
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "<th>Confidence</th>" in report
    assert f"<td>{stated['heart']['confidence']:.0%}</td>" in report


def test_a_second_evaluation_does_not_predict_again(cohort: CohortPaths, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    arguments = ("--model", model, "--cohort", cohort.root, "--out", tmp_path / "out", "--3d", "none")
    assert evaluate(*arguments).exit_code == 0
    (labels,) = (tmp_path / "out").glob("predictions/*/labels.nii.gz")
    before = labels.stat().st_mtime_ns
    assert evaluate(*arguments).exit_code == 0
    assert labels.stat().st_mtime_ns == before


def test_a_segmentation_without_a_record_has_no_confidence(cohort: CohortPaths, tmp_path: Path) -> None:
    case = cohort.finished_cases()[0]
    copy = tmp_path / "mine.nii.gz"
    copy.write_bytes(case.labels.read_bytes())
    out = tmp_path / "out"
    assert (
        evaluate("--prediction", copy, "--reference", case.record.parent, "--out", out, "--3d", "none").exit_code == 0
    )
    assert {row["confidence"] for row in rows(out).values()} == {""}
    assert "<th>Confidence</th>" not in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--model", "m.safetensors"),
        ("--prediction", "p.nii.gz"),
        ("--model", "m.safetensors", "--cohort", "c", "--prediction", "p.nii.gz"),
        ("--model", "m.safetensors", "--cohort", "c", "--ct", "ct.nii.gz"),
        ("--model", "m.safetensors", "--cohort", "c", "--split", "dev"),
    ],
)
def test_half_or_double_questions_are_wrong_usage(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    assert evaluate("--out", tmp_path / "out", *wrong).exit_code == ExitCode.USAGE
    assert not (tmp_path / "out").exists()


def test_a_cohort_without_a_split_is_told_in_a_sentence(cohort: CohortPaths, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "cohort.json").write_bytes(cohort.cohort.read_bytes())
    model = write_model(tmp_path / "model.safetensors")
    done = evaluate("--model", model, "--cohort", tmp_path / "cohort", "--out", tmp_path / "out")
    assert done.exit_code == ExitCode.BAD_INPUT
    assert "prepare" in done.output
    assert "Traceback" not in done.output
