"""Which files belong together, what is refused, and what an evaluation writes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.errors import BadInputError, ExitCode, GeometryError, UsageError
from LungSegmentationLib.evaluation.evaluate import evaluate_files, evaluate_pairs
from LungSegmentationLib.evaluation.expected import expected_scores
from LungSegmentationLib.evaluation.metrics import METRICS
from LungSegmentationLib.evaluation.pairs import find_pairs
from LungSegmentationLib.evaluation.summary import Spread, summarize
from LungSegmentationLib.jobs.events import SilentReporter
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms

LABELS = load_label_set()
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HEART, CORD = LABELS["heart"].label, LABELS["spinal_cord"].label
DICE = next(metric for metric in METRICS if metric.name == "dice")


def hearts(offset: int = 0) -> NDArray[np.uint8]:
    values = np.zeros((6, 10, 12), np.uint8)
    values[1:5, 2 + offset : 6 + offset, 3:9] = HEART
    return values


def write(values: NDArray[np.generic], path: Path, spacing: tuple[float, float, float] = (1, 2, 3)) -> Path:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin((-100.5, 20.25, 7.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


class Listening(SilentReporter):
    """Remembers warnings and progress."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[tuple[str, str]] = []
        self.steps: list[tuple[int, int | None]] = []

    def warning(self, message: str, subject: str = "") -> None:
        self.warnings.append((subject, message))

    def progress(self, stage: str, done: int, total: int | None, message: str = "") -> None:
        self.steps.append((done, total))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    out = tmp_path_factory.mktemp("evaluation é 日本")
    make_phantoms(out, 2, 4, options=PhantomOptions(in_plane=64, slices=10))
    convert(out / "dicom", out / "cohort")
    return CohortPaths(out / "cohort")


def test_two_files_belong_together_whatever_their_names(tmp_path: Path) -> None:
    reference = write(hearts(), tmp_path / "ärzte 心臓" / "truth.nrrd")
    done = evaluate_files(write(hearts(1), tmp_path / "mine.nii.gz"), reference)
    assert done.case == "truth"
    # Four rows, moved by one: three quarters shared.
    assert [(score.key, score.dice) for score in done.scores] == [("heart", pytest.approx(0.75))]
    assert done.exclusive


def test_in_folders_the_name_of_the_file_or_the_subfolder_is_the_case(tmp_path: Path) -> None:
    for name in ("a", "b", "only-here"):
        write(hearts(), tmp_path / "pred" / f"{name}.nii.gz")
    for name in ("a", "b", "other"):
        write(hearts(), tmp_path / "ref" / name / "labels.nii.gz")
    found = find_pairs(tmp_path / "pred", tmp_path / "ref", LABELS)
    assert [pair.case for pair in found.pairs] == ["a", "b"]
    assert found.without_reference == ("only-here",)
    assert found.without_prediction == ("other",)


def test_a_cohort_is_its_own_perfect_prediction(cohort: CohortPaths, tmp_path: Path) -> None:
    found = find_pairs(cohort.cases, cohort.root, LABELS)
    done = evaluate_pairs(found.pairs, tmp_path)
    assert done.summary.cases == 2
    assert done.summary.mean_dice == 1
    assert not any(case.exclusive for case in done.cases)
    for case, files in zip(done.cases, cohort.finished_cases(), strict=True):
        record = json.loads(files.record.read_text(encoding="utf-8"))
        assert [score.key for score in case.scores] == [key for key in LABELS.keys if key in record["annotated"]]
        for score in case.scores:
            assert score.reference_cc == pytest.approx(record["structures"][score.key]["volume_cc"], abs=0.01)


def test_label_maps_against_a_cohort_are_compared_as_label_maps(cohort: CohortPaths, tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    for case in cohort.finished_cases():
        sitk.WriteImage(sitk.ReadImage(str(case.labels)), str(tmp_path / "pred" / f"{case.name}.mha"))
    done = evaluate_pairs(find_pairs(tmp_path / "pred", cohort.root, LABELS).pairs, tmp_path)
    assert all(case.exclusive for case in done.cases)
    assert done.summary.mean_dice == 1


def test_the_label_map_of_a_case_folder_takes_what_was_annotated_from_its_record(cohort: CohortPaths) -> None:
    case = cohort.finished_cases()[0]
    record = json.loads(case.record.read_text(encoding="utf-8"))
    done = evaluate_files(case.labels, case.labels)
    assert done.case == case.name
    assert {score.key for score in done.scores} == set(record["annotated"])


@pytest.mark.parametrize("change", ["size", "spacing", "origin", "direction"])
def test_another_grid_is_refused_and_both_are_told(tmp_path: Path, change: str) -> None:
    values = hearts()
    reference = write(values, tmp_path / "reference.nii.gz")
    image = sitk.ReadImage(str(reference))
    if change == "size":
        image = image[:, :, 1:]
    elif change == "spacing":
        image.SetSpacing((1, 2, 3.1))
    elif change == "origin":
        image.SetOrigin((0, 0, 0))
    else:
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "prediction.nii.gz"))
    with pytest.raises(GeometryError) as caught:
        evaluate_files(tmp_path / "prediction.nii.gz", reference)
    said = str(caught.value)
    assert "different grids" in said
    assert str(tmp_path / "prediction.nii.gz") in said
    assert "×".join(map(str, image.GetSize())) in said
    assert "12×10×6" in said


def test_rounding_of_a_file_format_is_no_other_grid(tmp_path: Path) -> None:
    reference = write(hearts(), tmp_path / "a.nrrd", (0.9765625, 0.97656251, 3.0000001))
    prediction = write(hearts(), tmp_path / "b.nii.gz", (0.9765625, 0.97656251, 3.0000001))
    assert evaluate_files(prediction, reference).mean_dice == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (hearts() + np.uint8(4), "label set thorax"),
        (hearts() * np.float32(0.5), "whole numbers"),
        (np.full((6, 10, 12), np.nan, np.float32), "whole numbers"),
        (hearts().astype(np.int16) - 1, "label set thorax"),
    ],
)
def test_what_is_no_label_map_is_refused_in_a_sentence(tmp_path: Path, values: NDArray[np.generic], said: str) -> None:
    reference = write(hearts(), tmp_path / "reference.nii.gz")
    with pytest.raises(BadInputError, match=said) as caught:
        evaluate_files(write(values, tmp_path / "odd.nii.gz"), reference)
    assert "odd.nii.gz" in str(caught.value)


def test_a_label_map_of_floating_point_whole_numbers_is_read(tmp_path: Path) -> None:
    reference = write(hearts(), tmp_path / "reference.nii.gz")
    assert evaluate_files(write(hearts().astype(np.float64), tmp_path / "f.nii.gz"), reference).mean_dice == 1


def test_bits_of_a_file_called_structures_are_compared_as_drawn(tmp_path: Path) -> None:
    bits = np.where(hearts() > 0, 1 << (HEART - 1) | 1 << (CORD - 1), 0).astype(np.uint8)
    for side in ("p", "r"):
        write(bits, tmp_path / side / "structures.nii.gz")
    done = evaluate_files(tmp_path / "p" / "structures.nii.gz", tmp_path / "r" / "structures.nii.gz")
    assert not done.exclusive
    assert done.case == "r"
    assert [(score.key, score.dice) for score in done.scores] == [("heart", 1), ("spinal_cord", 1)]


def test_folders_without_counterparts_without_files_or_with_doubtful_ones_are_refused(tmp_path: Path) -> None:
    write(hearts(), tmp_path / "p" / "a.nii.gz")
    write(hearts(), tmp_path / "r" / "b.nii.gz")
    with pytest.raises(BadInputError, match="a against b"):
        find_pairs(tmp_path / "p", tmp_path / "r", LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="no segmentation"):
        find_pairs(tmp_path / "empty", tmp_path / "r", LABELS)
    with pytest.raises(BadInputError, match="no file or folder"):
        find_pairs(tmp_path / "nowhere", tmp_path / "r", LABELS)
    write(hearts(), tmp_path / "doubt" / "b" / "one.nii.gz")
    write(hearts(), tmp_path / "doubt" / "b" / "two.nii.gz")
    with pytest.raises(BadInputError, match="several segmentations"):
        find_pairs(tmp_path / "doubt", tmp_path / "r", LABELS)
    write(hearts(), tmp_path / "twice" / "b.nii.gz")
    write(hearts(), tmp_path / "twice" / "b.nrrd")
    with pytest.raises(BadInputError, match="twice"):
        find_pairs(tmp_path / "twice", tmp_path / "r", LABELS)
    write(hearts(), tmp_path / "p" / "b.nii.gz")
    write(hearts(), tmp_path / "r" / "a.nii.gz")
    with pytest.raises(UsageError, match="2 cases"):
        find_pairs(tmp_path / "p", tmp_path / "r", LABELS, ct=tmp_path / "ct.nii.gz")


def test_a_case_that_fails_is_told_and_the_others_are_scored(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(hearts(), tmp_path / "r" / f"{name}.nii.gz")
    write(hearts(1), tmp_path / "p" / "a.nii.gz")
    (tmp_path / "p" / "b.nii.gz").write_bytes(b"no volume")
    reporter = Listening()
    found = find_pairs(tmp_path / "p", tmp_path / "r", LABELS)
    done = evaluate_pairs(found.pairs, tmp_path / "out", reporter, now=NOW)
    assert [case.case for case in done.cases] == ["a"]
    assert [case for case, _ in done.failures] == ["b"]
    assert [subject for subject, _ in reporter.warnings] == ["b"]
    assert reporter.steps == [(0, 2), (1, 2), (2, 2)]
    (tmp_path / "p" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(BadInputError, match="No case could be evaluated"):
        evaluate_pairs(found.pairs, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_table_has_a_row_a_case_and_structure_and_says_what_was_left_out(tmp_path: Path) -> None:
    write(hearts(), tmp_path / "r" / "=1+1.nii.gz")
    write(hearts(1), tmp_path / "p" / "=1+1.nii.gz")
    done = evaluate_pairs(find_pairs(tmp_path / "p", tmp_path / "r", LABELS).pairs, tmp_path, now=NOW)
    assert done.files["results"].name == "evaluation_results_20260304_050607.csv"
    table = rows(done.files["results"])
    assert [row["structure"] for row in table] == list(LABELS.keys)
    heart = table[LABELS.keys.index("heart")]
    assert heart["case"] == "'=1+1"
    assert (heart["outcome"], heart["compared_as"]) == ("compared", "label map")
    assert float(heart["dice"]) == pytest.approx(0.75)
    assert float(heart["hd95_mm"]) == pytest.approx(2.0)
    assert float(heart["reference_cc"]) == pytest.approx(4 * 4 * 6 * 0.006)
    others = [row for row in table if row["structure"] != "heart"]
    assert {row["outcome"] for row in others} == {"not_annotated"}
    assert {row["dice"] for row in others} == {""}


def test_the_summary_has_the_statistics_of_the_values() -> None:
    values = [("a", 0.5), ("b", 0.9), ("c", 0.8), ("d", 0.6)]
    spread = Spread.of(values, DICE)
    assert spread.mean == pytest.approx(0.7)
    assert spread.std == pytest.approx(np.sqrt((0.04 + 0.04 + 0.01 + 0.01) / 3))
    assert spread.median == pytest.approx(0.7)
    # Linear between the order statistics 0.5, 0.6, 0.8, 0.9.
    assert (spread.lower_quartile, spread.upper_quartile) == (pytest.approx(0.575), pytest.approx(0.825))
    assert (spread.worst, spread.worst_case) == (0.5, "a")
    volume = next(metric for metric in METRICS if metric.name == "volume_difference_cc")
    assert Spread.of([("a", 3.0), ("b", -7.0), ("c", 0.0)], volume).worst_case == "b"
    assert Spread.of([("a", 3.0)], DICE).std is None


def test_missed_structures_lower_the_mean_and_the_successes_and_are_counted(tmp_path: Path) -> None:
    for name, prediction in (("hit", hearts()), ("near", hearts(1)), ("miss", hearts() * np.uint8(0))):
        write(hearts(), tmp_path / "r" / f"{name}.nii.gz")
        write(prediction, tmp_path / "p" / f"{name}.nii.gz")
    done = evaluate_pairs(find_pairs(tmp_path / "p", tmp_path / "r", LABELS).pairs, tmp_path / "out", now=NOW)
    heart = next(one for one in done.summary.structures if one.key == "heart")
    assert heart.mean_dice == pytest.approx((1 + 0.75 + 0) / 3)
    assert heart.successes == {0.5: 2 / 3, 0.6: 2 / 3, 0.7: 2 / 3, 0.8: 1 / 3, 0.9: 1 / 3}
    assert heart.spreads["hd95_mm"].count == 2
    assert {str(k): v for k, v in heart.outcomes.items() if v} == {"compared": 2, "missed": 1}
    assert heart.spreads["dice"].worst_case == "miss"
    content = json.loads(done.files["summary_json"].read_text(encoding="utf-8"))
    assert content["structures"]["heart"]["missed"] == 1
    assert content["structures"]["heart"]["success_rate"]["0.9"] == pytest.approx(1 / 3)
    assert content["compared_as"] == dict.fromkeys(("hit", "miss", "near"), "label map")
    table = {(row["structure"], row["metric"]): row for row in rows(done.files["summary"])}
    assert float(table["heart", "dice"]["median"]) == pytest.approx(0.75)
    confusion = rows(done.files["confusion"])
    found = next(row for row in confusion if row["reference \\ prediction, cc"] == "heart")
    voxel = 0.006
    assert float(found["heart"]) == pytest.approx((96 + 72) * voxel)
    assert float(found["none"]) == pytest.approx((24 + 96) * voxel)


def test_summaries_of_nothing_are_empty() -> None:
    summary = summarize([], LABELS)
    assert (summary.cases, summary.structures, summary.mean_dice) == (0, (), None)


def test_expected_ranges_are_those_of_the_source_and_judge_means() -> None:
    expected = expected_scores(LABELS)
    assert expected.dice["lung_left"] == (0.9, 0.95)
    assert expected.dice["heart"] == (0.85, 0.9)
    assert expected.dice["gtv"] == (0.75, 0.85)
    assert expected.dice["esophagus"] == expected.dice["spinal_cord"] == (0.7, 0.8)
    assert "ptv" not in expected.dice
    verdicts = [expected.verdict("heart", dice) for dice in (0.8, 0.8499, 0.8496, 0.9, 0.91, None)]
    assert verdicts == ["below", "within", "within", "within", "above", ""]
    assert expected.verdict("ptv", 0.5) == ""


def test_the_command_evaluates_and_ends_with_the_right_code(tmp_path: Path) -> None:
    reference = write(hearts(), tmp_path / "ärzte" / "a b.nii.gz")
    prediction = write(hearts(1), tmp_path / "p.nii.gz")
    command = [
        sys.executable,
        "-m",
        "LungSegmentationLib",
        "evaluate",
        "--out",
        str(tmp_path / "out é"),
        "--3d",
        "none",
    ]
    sides = ["--prediction", str(prediction), "--reference", str(reference)]
    done = subprocess.run([*command, *sides, "--events"], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    result = next(event for line in done.stdout.splitlines() if (event := json.loads(line))["event"] == "result")
    assert result["summary"]["dice"] == {"heart": 0.75}
    assert (tmp_path / "out é" / "report.html").is_file()
    bad = subprocess.run([*command, *sides[:3], str(tmp_path / "no")], capture_output=True, check=False)
    assert bad.returncode == ExitCode.BAD_INPUT
    assert b"Traceback" not in bad.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == ExitCode.USAGE


@pytest.mark.realdata
def test_a_real_case_moved_by_two_pixels_and_a_slice_is_off_by_that(data: Path, tmp_path: Path) -> None:
    convert(data / "rt_lung1-002", tmp_path / "cohort")
    (case,) = CohortPaths(tmp_path / "cohort").finished_cases()
    image = sitk.ReadImage(str(case.labels))
    values = sitk.GetArrayFromImage(image)
    moved = sitk.GetImageFromArray(np.roll(values, (1, 2), (0, 2)))
    moved.CopyInformation(image)
    sitk.WriteImage(moved, str(tmp_path / "moved.nii.gz"))
    done = evaluate_files(tmp_path / "moved.nii.gz", case.labels)
    assert len(done.scores) == len(LABELS)
    shift = np.hypot(2 * 0.977, 3.0)
    for score in done.scores:
        mask, other = values == LABELS[score.key].label, np.roll(values, (1, 2), (0, 2)) == LABELS[score.key].label
        assert score.dice == pytest.approx(2 * (mask & other).sum() / (mask.sum() + other.sum()))
        assert score.hd95_mm is not None
        assert score.hd95_mm <= shift * 1.5
    exact = evaluate_files(case.structures, case.folder)
    assert exact.mean_dice == 1
