"""``lungseg predict`` where something goes wrong: all files of a case or none, and a sentence that says why."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
import shutil
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk
from predict_files import phantom
from predict_runs import DICOM_FORMATS, FAST, Place, lungseg, make_place, of, one_thread, visible
from training_files import Recorder

from LungSegmentationLib.errors import CancelledError, ExitCode, StorageError, UsageError
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.input_cases import DicomCase
from LungSegmentationLib.inference.prediction import Prediction
from LungSegmentationLib.inference.predictor import Predictor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("Vorhersage für 肺 mit Raum"))


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
