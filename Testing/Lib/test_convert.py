"""A folder of DICOM becomes a cohort: right voxels, whole cases, nothing mixed up, nothing done twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from LungSegmentationLib.cohort.batch import side_by_side
from LungSegmentationLib.cohort.convert import Conversion, convert
from LungSegmentationLib.cohort.options import NO_MAP, ConversionOptions
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.errors import (
    BadInputError,
    CancelledError,
    ExitCode,
    MemoryLimitError,
    StorageError,
    UsageError,
)
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.events import SilentReporter
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms
from LungSegmentationLib.structures import StructureMap

LABELS = load_label_set()
SMALL = PhantomOptions(in_plane=64, slices=14)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small patients: ``dicom/<patient>`` and ``truth/<patient>``."""
    out = tmp_path_factory.mktemp("Fantômes 患者 a b")
    make_phantoms(out, 3, 7, options=SMALL)
    return out


@pytest.fixture(scope="module")
def converted(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    return convert(phantoms / "dicom", tmp_path_factory.mktemp("cohort") / "c")


def _array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _record(conversion: Conversion, name: str) -> CaseRecord:
    return read_record(CaseRecord, conversion.paths.case(name).record)


def test_every_phantom_becomes_a_case_with_its_four_files(converted: Conversion) -> None:
    assert [outcome.state for outcome in converted.outcomes] == ["converted"] * 3
    for case in converted.paths.finished_cases():
        names = sorted(entry.name for entry in case.folder.iterdir())
        assert names == ["case.json", "ct.nii.gz", "labels.nii.gz", "structures.nii.gz"]


def test_structures_equal_the_phantoms_truth_where_they_were_drawn(phantoms: Path, converted: Conversion) -> None:
    for case in converted.paths.finished_cases():
        record = read_record(CaseRecord, case.record)
        truth = sitk.ReadImage(str(phantoms / "truth" / case.name / "structures.nii.gz"))
        assert Grid.of(sitk.ReadImage(str(case.structures))).matches(Grid.of(truth))
        ours, theirs = (
            StructureMap(LABELS, _array(case.structures)),
            StructureMap(LABELS, sitk.GetArrayFromImage(truth)),
        )
        assert record.annotated
        for key in record.annotated:
            a, b = ours.mask(key), theirs.mask(key)
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99, (case.name, key)


def test_ct_labels_and_structures_lie_on_one_grid_and_agree(converted: Conversion) -> None:
    for case in converted.paths.finished_cases():
        grids = [Grid.of(sitk.ReadImage(str(path))) for path in (case.ct, case.structures, case.labels)]
        assert grids[0].matches(grids[1])
        assert grids[0].matches(grids[2])
        bits, labels = _array(case.structures), _array(case.labels)
        painted = np.zeros_like(labels)
        for key in ("lung_right", "lung_left", "heart", "ptv", "esophagus", "spinal_cord", "gtv"):
            painted[bits & (1 << (LABELS[key].label - 1)) > 0] = LABELS[key].label
        assert (labels == painted).all()


def test_a_structure_that_nobody_drew_is_not_recorded_as_annotated(phantoms: Path, converted: Conversion) -> None:
    for case in converted.paths.finished_cases():
        truth = json.loads((phantoms / "truth" / case.name / "truth.json").read_text())
        assert sorted(read_record(CaseRecord, case.record).annotated) == sorted(truth["drawn"])


def test_each_roi_keeps_its_number_name_and_a_reason(phantoms: Path, converted: Conversion) -> None:
    for case in converted.paths.finished_cases():
        record = read_record(CaseRecord, case.record)
        dataset = pydicom.dcmread(record.source.rtstruct_file)
        assert [(roi.number, roi.name) for roi in record.rois] == [
            (int(item.ROINumber), str(item.ROIName)) for item in dataset.StructureSetROISequence
        ]
        assert all(roi.reason for roi in record.rois)


def test_the_table_has_a_row_a_case_with_the_volumes_of_the_label_files(converted: Conversion) -> None:
    with converted.paths.cases_table.open(encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == [case.name for case in converted.paths.finished_cases()]
    for row in rows:
        case = converted.paths.case(row["case"])
        bits, spacing = _array(case.structures), sitk.ReadImage(str(case.structures)).GetSpacing()
        for key in row["annotated"].split():
            voxels = (bits & (1 << (LABELS[key].label - 1)) > 0).sum()
            assert float(row[f"{key}_cc"]) == pytest.approx(voxels * np.prod(spacing) / 1000, abs=0.006)


def test_a_second_call_keeps_what_is_there_and_redoes_only_what_changed(phantoms: Path, tmp_path: Path) -> None:
    dicom, cohort = tmp_path / "dicom", tmp_path / "cohort"
    shutil.copytree(phantoms / "dicom", dicom)
    first = convert(dicom, cohort)
    stamps = {case.name: case.record.stat().st_mtime_ns for case in first.paths.finished_cases()}
    assert {o.state for o in convert(dicom, cohort).outcomes} == {"kept"}
    changed = sorted(stamps)[1]
    rtstruct = Path(_record(first, changed).source.rtstruct_file)
    dataset = pydicom.dcmread(rtstruct)
    dataset.StructureSetLabel = "CHANGED"
    dataset.save_as(rtstruct)
    (CohortPaths(cohort).case(sorted(stamps)[2]).labels).unlink()
    states = {o.case: o.state for o in convert(dicom, cohort).outcomes}
    assert states == dict(zip(sorted(stamps), ("kept", "converted", "converted"), strict=True))
    assert CohortPaths(cohort).case(min(stamps)).record.stat().st_mtime_ns == stamps[min(stamps)]


def test_two_processes_make_the_same_cases_as_one(phantoms: Path, converted: Conversion, tmp_path: Path) -> None:
    both = convert(phantoms / "dicom", tmp_path / "cohort", ConversionOptions(jobs=2))
    for case in converted.paths.finished_cases():
        other = both.paths.case(case.name)
        for name in ("ct.nii.gz", "structures.nii.gz", "labels.nii.gz"):
            assert (case.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_killed_at_any_moment_the_next_call_completes_the_cohort(phantoms: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    command = [sys.executable, "-m", "LungSegmentationLib", "convert", str(phantoms / "dicom"), str(cohort), "--events"]
    seen: list[str] = []
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if '"stage":"convert"' in line or '"message":"3 of' in line:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for case in CohortPaths(cohort).finished_cases():
            read_record(CaseRecord, case.record)
            assert sitk.ReadImage(str(case.labels)).GetSize() == sitk.ReadImage(str(case.ct)).GetSize()
    final = convert(phantoms / "dicom", cohort)
    assert len(final.paths.finished_cases()) == 3, seen
    assert final.count("failed") == 0
    left = [entry.name for entry in final.paths.cases.iterdir() if entry.name.startswith(".partial-")]
    assert left == []


def _reidentify(folder: Path, **values: str) -> None:
    uids: dict[str, str] = {}
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        dataset = pydicom.dcmread(file)
        for element in dataset.iterall():
            new_uid = element.VR == "UI" and "UID" in element.keyword and "Class" not in element.keyword
            if new_uid and element.keyword != "TransferSyntaxUID":
                element.value = uids.setdefault(str(element.value), pydicom.uid.generate_uid())
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(file)


def test_the_same_id_in_two_studies_gives_two_cases_whose_names_stay(phantoms: Path, tmp_path: Path) -> None:
    dicom, cohort = tmp_path / "dicom", tmp_path / "cohort"
    one, two = sorted((phantoms / "dicom").iterdir())[:2]
    shutil.copytree(one, dicom / "a")
    _reidentify(dicom / "a", PatientID="X/1", PatientName="A")
    first = convert(dicom, cohort)
    shutil.copytree(two, dicom / "b")
    _reidentify(dicom / "b", PatientID="X/1", PatientName="A")
    shutil.copytree(two, dicom / "c")
    _reidentify(dicom / "c", PatientID="X_1", PatientName="B")
    second = convert(dicom, cohort)
    assert [outcome.case for outcome in first.outcomes] == ["X_1"]
    names = [outcome.case for outcome in second.outcomes]
    assert len(set(names)) == 3
    assert "X_1" in names
    assert {o.case: o.state for o in second.outcomes}["X_1"] == "kept"
    sources = {name: _record(second, name).source.series_uid for name in names}
    assert sources["X_1"] == _record(first, "X_1").source.series_uid
    assert len(set(sources.values())) == 3


def test_a_case_that_fails_is_reported_with_its_reason_and_the_rest_go_on(phantoms: Path, tmp_path: Path) -> None:
    dicom = tmp_path / "dicom"
    shutil.copytree(phantoms / "dicom", dicom)
    broken = min(dicom.iterdir())
    for file in broken.rglob("*"):
        if file.is_file():
            dataset = pydicom.dcmread(file)
            if dataset.Modality == "CT" and int(dataset.InstanceNumber) == 5:
                dataset.ImagePositionPatient = [-9999, 0, 77]
                dataset.save_as(file)
    done = convert(dicom, tmp_path / "cohort")
    failed = [outcome for outcome in done.outcomes if outcome.state == "failed"]
    assert len(failed) <= 1
    assert len(done.paths.finished_cases()) >= 2
    for outcome in failed:
        assert outcome.reason
        assert outcome.reason in done.paths.cases_table.read_text(encoding="utf-8-sig").replace('""', '"')


def test_nothing_to_convert_is_one_sentence_and_exit_code_3(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "note.txt").write_text("hello")
    with pytest.raises(BadInputError, match="holds no CT"):
        convert(empty, tmp_path / "cohort")
    done = subprocess.run(
        [sys.executable, "-m", "LungSegmentationLib", "convert", str(empty), str(tmp_path / "c2")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.BAD_INPUT
    assert "Traceback" not in done.stderr
    assert "holds no CT" in done.stderr


def test_a_ct_without_contours_and_contours_without_a_ct_are_told(phantoms: Path, tmp_path: Path) -> None:
    dicom = tmp_path / "dicom"
    patients = sorted((phantoms / "dicom").iterdir())
    shutil.copytree(patients[0], dicom / "whole")
    for source, keep in ((patients[1], "CT"), (patients[2], "RTSTRUCT")):
        for file in source.rglob("*"):
            if file.is_file() and pydicom.dcmread(file, stop_before_pixels=True).Modality == keep:
                (dicom / keep).mkdir(exist_ok=True)
                shutil.copy(file, dicom / keep / file.name)
    done = convert(dicom, tmp_path / "cohort")
    assert len(done.outcomes) == 1
    reasons = " ".join(skipped.reason for skipped in done.plan.skipped)
    assert "no RTSTRUCT belongs to this CT" in reasons
    assert "no CT belongs to this RTSTRUCT" in reasons


def test_a_correction_wins_is_remembered_and_converts_anew(phantoms: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    first = convert(phantoms / "dicom", cohort)
    name = first.outcomes[0].case
    roi = next(roi.name for roi in _record(first, name).rois if roi.structure == "gtv")
    second = convert(phantoms / "dicom", cohort, ConversionOptions(corrections=(f"{name}/{roi}=heart",)))
    assert {o.case: o.state for o in second.outcomes}[name] == "converted"
    corrected = next(r for r in _record(second, name).rois if r.name == roi)
    assert (corrected.structure, corrected.by) == ("heart", "correction")
    third = convert(phantoms / "dicom", cohort)
    assert {o.state for o in third.outcomes} == {"kept"}
    with pytest.raises(UsageError, match="no structure"):
        convert(phantoms / "dicom", cohort, ConversionOptions(corrections=(f"{name}/{roi}=hart",)))


def _states(conversion: Conversion) -> set[str]:
    return {outcome.state for outcome in conversion.outcomes}


@pytest.mark.parametrize(
    "wrong",
    [
        {"synthetic_ptv": 500.0},
        {"synthetic_ptv": -3.0},
        {"ct": "best"},
        {"jobs": 0},
        {"roi_map": {"Heart": "hart"}},
        {"corrections": ("nonsense",)},
    ],
)
def test_a_mistyped_option_touches_no_finished_case(phantoms: Path, tmp_path: Path, wrong: dict[str, object]) -> None:
    cohort = tmp_path / "cohort"
    convert(phantoms / "dicom", cohort)
    if "roi_map" in wrong:
        (tmp_path / "map.json").write_text(json.dumps(wrong["roi_map"]))
        wrong = {"roi_map": tmp_path / "map.json"}
    with pytest.raises((UsageError, BadInputError)):
        convert(phantoms / "dicom", cohort, ConversionOptions(**wrong))  # type: ignore[arg-type]
    assert len(CohortPaths(cohort).finished_cases()) == 3
    assert _states(convert(phantoms / "dicom", cohort)) == {"kept"}


def test_the_cohort_remembers_how_it_was_converted_until_told_otherwise(phantoms: Path, tmp_path: Path) -> None:
    cohort, table = tmp_path / "cohort", tmp_path / "map.csv"
    table.write_text("name,structure\nBODY,heart\nHaert,heart\n", encoding="utf-8")
    convert(phantoms / "dicom", cohort, ConversionOptions(roi_map=table, synthetic_ptv=15.0))
    table.unlink()
    assert _states(convert(phantoms / "dicom", cohort)) == {"kept"}
    plain = convert(phantoms / "dicom", cohort, ConversionOptions(roi_map=NO_MAP, synthetic_ptv=0))
    assert "converted" in _states(plain)
    assert not any(_record(plain, o.case).synthetic for o in plain.outcomes)
    assert not any(r.by == "map" for o in plain.outcomes for r in _record(plain, o.case).rois)
    assert _states(convert(phantoms / "dicom", cohort)) == {"kept"}


def test_a_case_that_is_not_taken_any_more_is_no_case_any_more(phantoms: Path, tmp_path: Path) -> None:
    dicom, cohort = tmp_path / "dicom", tmp_path / "cohort"
    one = min((phantoms / "dicom").iterdir())
    for name, date in (("a", "20200101"), ("b", "20210101")):
        shutil.copytree(one, dicom / name)
        _reidentify(dicom / name, PatientID="X", PatientName="A", PatientBirthDate="", StudyDate=date)
    assert len(convert(dicom, cohort).outcomes) == 2
    newest = convert(dicom, cohort, ConversionOptions(ct="newest"))
    assert len(newest.outcomes) == 1
    assert [case.name for case in newest.paths.finished_cases()] == [newest.outcomes[0].case]
    assert len(convert(dicom, cohort, ConversionOptions(ct="all")).paths.finished_cases()) == 2


def test_a_truncated_file_of_a_case_is_seen_and_made_again(phantoms: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    first = convert(phantoms / "dicom", cohort)
    victim = first.paths.case(first.outcomes[0].case).ct
    victim.write_bytes(victim.read_bytes()[:500])
    states = {o.case: o.state for o in convert(phantoms / "dicom", cohort).outcomes}
    assert states[first.outcomes[0].case] == "converted"
    assert sorted(states.values()) == ["converted", "kept", "kept"]


def _dies_for_one(number: int) -> str:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"did {number}"


def test_an_item_whose_process_is_killed_is_lost_alone() -> None:
    results = list(side_by_side(_dies_for_one, range(5), 2, lambda number: f"lost {number}"))
    assert sorted(results) == ["did 0", "did 1", "did 3", "did 4", "lost 2"]


def test_a_machine_without_memory_does_not_take_finished_cases_away(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = tmp_path / "cohort"
    convert(phantoms / "dicom", cohort)

    def hungry(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("LungSegmentationLib.cohort.convert.import_case", hungry)
    with pytest.raises(MemoryLimitError, match="None of the 3"):
        convert(phantoms / "dicom", cohort, ConversionOptions(synthetic_ptv=15.0))
    assert len(CohortPaths(cohort).finished_cases()) == 3


def test_a_stop_is_heard_during_the_scan(phantoms: Path, tmp_path: Path) -> None:
    class StopAtOnce(SilentReporter):
        def check_cancelled(self) -> None:
            raise CancelledError("Stopped as asked.")

    with pytest.raises(CancelledError):
        convert(phantoms / "dicom", tmp_path / "cohort", reporter=StopAtOnce())
    assert not (tmp_path / "cohort").exists()


def test_an_roi_in_another_frame_of_reference_is_left_out_and_told(phantoms: Path, tmp_path: Path) -> None:
    dicom = tmp_path / "dicom"
    shutil.copytree(min((phantoms / "dicom").iterdir()), dicom)
    files = [file for file in dicom.rglob("*") if file.is_file()]
    rtstruct = next(f for f in files if pydicom.dcmread(f, stop_before_pixels=True).Modality == "RTSTRUCT")
    before = _record(convert(dicom, tmp_path / "before"), min((phantoms / "dicom").iterdir()).name)
    moved = next(roi for roi in before.rois if roi.structure == "lung_left")
    dataset = pydicom.dcmread(rtstruct)
    for item in dataset.StructureSetROISequence:
        if int(item.ROINumber) == moved.number:
            item.ReferencedFrameOfReferenceUID = pydicom.uid.generate_uid()
    dataset.save_as(rtstruct)
    after = convert(dicom, tmp_path / "after")
    record = _record(after, after.outcomes[0].case)
    assert set(before.annotated) - set(record.annotated) == {"lung_left"}
    assert any(moved.name in warning and "frame of reference" in warning for warning in record.warnings)


def test_a_users_map_of_roi_names_wins_over_the_rules(phantoms: Path, tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text("name,structure\nBODY,heart\n", encoding="utf-8")
    done = convert(phantoms / "dicom", tmp_path / "cohort", ConversionOptions(roi_map=table))
    bodies = [r for o in done.outcomes for r in _record(done, o.case).rois if r.name == "BODY"]
    assert bodies
    assert all(roi.structure == "heart" and roi.by == "map" for roi in bodies)


def test_a_synthetic_ptv_is_the_gtv_with_a_margin_and_marked(phantoms: Path, tmp_path: Path) -> None:
    done = convert(phantoms / "dicom", tmp_path / "cohort", ConversionOptions(synthetic_ptv=15.0))
    made = [o.case for o in done.outcomes if _record(done, o.case).synthetic]
    assert made
    for name in made:
        record = _record(done, name)
        case = done.paths.case(name)
        structures = StructureMap(LABELS, _array(case.structures))
        gtv, ptv = structures.mask("gtv"), structures.mask("ptv")
        distance = sitk.GetArrayFromImage(
            sitk.SignedMaurerDistanceMap(
                record.geometry.grid.image(gtv.astype(np.uint8)), squaredDistance=False, useImageSpacing=True
            )
        )
        assert record.synthetic == ("ptv",)
        assert "ptv" in record.annotated
        assert (ptv & ~gtv).any()
        assert distance[ptv].max() <= 15.0 + 1e-3
        assert not (gtv & ~ptv).any()


def test_a_request_to_stop_keeps_the_finished_cases_and_says_so(phantoms: Path, tmp_path: Path) -> None:
    class StopAfterOne(SilentReporter):
        asked = False

        def progress(self, stage: str, done: int, total: int | None, message: str = "") -> None:
            self.asked = stage == "convert"

        def check_cancelled(self) -> None:
            if self.asked:
                raise CancelledError("Stopped as asked.")

    with pytest.raises(CancelledError):
        convert(phantoms / "dicom", tmp_path / "cohort", reporter=StopAfterOne())
    paths = CohortPaths(tmp_path / "cohort")
    assert len(paths.finished_cases()) == 1
    assert paths.finished_cases()[0].name in paths.cases_table.read_text(encoding="utf-8-sig")


def test_sigterm_ends_with_exit_code_4_and_whole_cases(phantoms: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    process = subprocess.Popen(
        [sys.executable, "-m", "LungSegmentationLib", "convert", str(phantoms / "dicom"), str(cohort), "--events"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"message":"3 of' in line:
            process.terminate()
            break
    rest = process.stdout.read()
    assert process.wait(timeout=120) == ExitCode.CANCELLED
    assert '"event":"cancelled"' in rest
    assert CohortPaths(cohort).finished_cases()


def test_a_cohort_that_cannot_be_written_is_one_sentence(phantoms: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        convert(phantoms / "dicom", blocked / "cohort")


def test_a_full_disk_stops_the_work_with_the_cure(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("LungSegmentationLib.cohort.case.write_volume", full)
    with pytest.raises(StorageError, match="disk is full"):
        convert(phantoms / "dicom", tmp_path / "cohort")
    assert CohortPaths(tmp_path / "cohort").finished_cases() == ()


def test_another_label_set_is_not_mixed_into_a_cohort(phantoms: Path, converted: Conversion, tmp_path: Path) -> None:
    content = json.loads((Path(__file__).parents[2] / "Resources" / "LabelSets" / "thorax.json").read_text())
    content["structures"][0]["color"] = [250, 0, 0]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="another version of the label set"):
        convert(phantoms / "dicom", converted.paths.root, ConversionOptions(label_set=str(other)))


def test_nothing_of_a_patients_name_is_in_the_cohort(phantoms: Path, converted: Conversion) -> None:
    names = set()
    for file in (phantoms / "dicom").rglob("*"):
        if file.is_file():
            names.add(str(pydicom.dcmread(file, stop_before_pixels=True).PatientName).split("^")[0])
    for file in converted.paths.root.rglob("*.[jc]s*"):
        text = file.read_text(encoding="utf-8-sig")
        assert not [name for name in names if len(name) > 3 and name in text and name not in file.parent.name]


@pytest.mark.realdata
def test_lung1_002_and_its_second_rtstruct_become_one_case_by_the_stated_rule(data: Path, tmp_path: Path) -> None:
    dicom = tmp_path / "dicom"
    shutil.copytree(data / "rt_lung1-002", dicom / "a")
    shutil.copytree(data / "rt_lung1-002_second_rtstruct", dicom / "b")
    done = convert(dicom, tmp_path / "cohort")
    record = _record(done, "LUNG1-002")
    assert record.annotated == ("gtv", "ptv", "lung_right", "lung_left", "heart", "esophagus", "spinal_cord")
    # plastimatch convert, voxels
    expected = {"gtv": 125204, "ptv": 347392, "heart": 373247, "esophagus": 19236, "spinal_cord": 22216}
    expected |= {"lung_right": 658479, "lung_left": 686334}
    for key, voxels in expected.items():
        assert record.structures[key].voxels == pytest.approx(voxels, rel=1e-3)
    assert any("2 RTSTRUCTs" in warning for warning in record.choice_warnings)
    newest = convert(dicom, tmp_path / "newest", ConversionOptions(rtstruct="newest"))
    assert len(newest.outcomes) == 1


@pytest.mark.realdata
def test_lung1_001_is_converted_from_an_rtstruct_whose_references_match_nothing(data: Path, tmp_path: Path) -> None:
    dicom = tmp_path / "dicom"
    shutil.copytree(data / "rt_lung1-001" / "image", dicom / "image")
    shutil.copytree(data / "rt_lung1-001_xio_rtstruct", dicom / "rt")
    done = convert(dicom, tmp_path / "cohort")
    record = _record(done, "LUNG1-001")
    # In this pair the frames of reference differ as well: only the positions of the contours tell.
    assert record.source.linked_by == "geometry"
    assert record.annotated == ("gtv", "ptv", "lung_right", "lung_left", "spinal_cord")
    assert {roi.name: roi.structure for roi in record.rois}["CTV-1"] is None
