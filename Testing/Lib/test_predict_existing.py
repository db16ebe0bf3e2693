"""``lungseg predict`` where results are: refused, kept, replaced or joined; killed and at once, never mixed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from predict_files import phantom
from predict_runs import DICOM_FORMATS, FAST, Place, lungseg, make_place, of, one_thread, visible
from training_files import Recorder

from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.inference.command import predict_command
from LungSegmentationLib.inference.prediction import Prediction
from LungSegmentationLib.inference.predictor import Predictor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("Vorhersage für 肺 mit Raum"))


ROOT = Path(__file__).resolve().parents[2]


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


def emptied(calls: list[int]) -> Callable[..., Prediction]:
    """Return a prediction that finds nothing, and counts its calls."""
    predict = Predictor.predict

    def nothing(*arguments: Any, **options: Any) -> Prediction:
        calls.append(1)
        prediction = predict(*arguments, **options)
        prediction.structures.bits[...] = 0
        return prediction

    return nothing


@pytest.fixture
def finds_nothing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make every prediction an empty one; return a list that grows with each."""
    calls: list[int] = []
    monkeypatch.setattr(Predictor, "predict", emptied(calls))
    return calls


def test_nothing_found_is_a_warning_and_a_dicom_seg_is_left_out(
    place: Place, tmp_path: Path, finds_nothing: list[int]
) -> None:
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
    assert not (tmp_path / "only.seg.dcm").exists()


def test_an_empty_result_without_a_dicom_seg_is_whole_and_kept(
    place: Place, tmp_path: Path, finds_nothing: list[int]
) -> None:
    call = (place.model, place.dicom / "Pätient 0", tmp_path, "-f", DICOM_FORMATS, "--keep")
    assert lungseg(*call)[0] == ExitCode.DONE
    (folder,) = tmp_path.iterdir()
    assert list(json.loads((folder / "prediction.json").read_text())["left_out"]) == ["dicom-seg"]
    code, said, _ = lungseg(*call)
    assert (code, of(said, "result")[0]["summary"]["state"]) == (ExitCode.DONE, "kept")
    assert any("DICOM has no empty" in event["message"] for event in of(said, "warning"))
    assert len(finds_nothing) == 1
    # A file that is missing and could be there makes it anew.
    (folder / "segmentation.rtstruct.dcm").unlink()
    assert lungseg(*call)[0] == ExitCode.DONE
    assert len(finds_nothing) == 2
    # So do formats that were not asked for before; what was left out stays known.
    assert lungseg(*call[:3], "-f", "nrrd", "--keep")[0] == ExitCode.DONE
    assert len(finds_nothing) == 3
    assert lungseg(*call)[1][-1]["event"] == "finished"
    assert len(finds_nothing) == 3


def test_an_empty_result_that_no_format_can_hold_fails_and_is_not_predicted_again(
    place: Place, tmp_path: Path, finds_nothing: list[int]
) -> None:
    call = (place.model, place.dicom / "Pätient 0", tmp_path / "only.seg.dcm", "--keep")
    for _ in range(2):
        code, said, _ = lungseg(*call)
        assert (code, of(said, "failed")[0]["kind"]) == (ExitCode.BAD_INPUT, "bad_input")
        assert str(tmp_path / "only.seg.dcm") in of(said, "failed")[0]["message"]
        assert visible(tmp_path) == {"only.prediction.json"}
    assert len(finds_nothing) == 1


@pytest.mark.parametrize("same_model", [False, True])
def test_a_dicom_seg_of_an_earlier_prediction_does_not_stand_for_an_empty_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_model: bool
) -> None:
    """Also of the same model: another device may round a few voxels away."""
    call = (place.dicom / "Pätient 0", tmp_path, "-f", "nifti,dicom-seg")
    assert lungseg(place.model if same_model else place.other, *call)[0] == ExitCode.DONE
    (folder,) = tmp_path.iterdir()
    assert (folder / "segmentation.seg.dcm").exists()
    monkeypatch.setattr(Predictor, "predict", emptied([]))
    assert lungseg(place.model, *call, "--overwrite")[0] == ExitCode.DONE
    assert visible(folder) == {"labels.nii.gz", "prediction.json"}
    assert "dicom-seg" not in json.loads((folder / "prediction.json").read_text())["files"]


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
