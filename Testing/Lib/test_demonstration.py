"""The demo: from nothing to a report on patients that the network never saw; and on a user's own folder."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest
from predict_files import write_model, write_phantom
from typer.testing import CliRunner

from LungSegmentationLib import demonstration
from LungSegmentationLib.cli import app
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.phantom import PhantomOptions


def demo(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration, "PHANTOMS", PhantomOptions(in_plane=64, slices=10, complete=True))
    monkeypatch.setattr(demonstration, "SLICE_SIZE", 64)
    settings = (*demonstration.SETTINGS, "epochs=1", "network.widths=[4,8]", "network.name=small")
    monkeypatch.setattr(
        demonstration, "SETTINGS", tuple(text for text in settings if text not in {"epochs=14", "network=tiny"})
    )


@pytest.mark.usefixtures("small")
def test_the_demo_ends_with_a_report_on_patients_that_were_not_learned_from(tmp_path: Path) -> None:
    out = tmp_path / "démo 日本"
    shown = demo(out, "-n", 4)
    assert [f"{step} of 7" in shown for step in range(1, 8)] == [True] * 7
    # The last line says where to look.
    last = re.sub(r"\s+", "", shown)
    assert last.endswith(re.sub(r"\s+", "", str((out / "evaluation" / "report.html").resolve())))
    parts = {part: (out / "cohort" / "splits" / f"{part}.txt").read_text().split() for part in ("train", "val", "test")}
    assert sorted(map(len, parts.values())) == [1, 1, 2]
    report = (out / "evaluation" / "report.html").read_text(encoding="utf-8")
    for part, names in parts.items():
        assert all((name in report) == (part == "test") for name in names)
    for name in parts["test"]:
        folder = out / "predictions" / name
        assert pydicom.dcmread(folder / "segmentation.rtstruct.dcm").Modality == "RTSTRUCT"
        assert (folder / "labels.nii.gz").is_file()
        assert (folder / "segmentation.seg.nrrd").is_file()


@pytest.mark.usefixtures("small")
def test_a_second_demo_trains_and_predicts_nothing_again(tmp_path: Path) -> None:
    demo(tmp_path, "-n", 4)
    kept = [*tmp_path.glob("predictions/*/labels.nii.gz"), *tmp_path.glob("cohort/runs/demo/*.safetensors")]
    before = [path.stat().st_mtime_ns for path in kept]
    demo(tmp_path, "-n", 4)
    assert len(kept) >= 2
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_users_ct_is_segmented_and_compared_with_its_contours(tmp_path: Path) -> None:
    dicom = write_phantom(tmp_path / "mine")
    out = tmp_path / "out"
    shown = demo(out, "--dicom", dicom, "--model", write_model(tmp_path / "model.safetensors"))
    assert "report.html" in shown
    (folder,) = (out / "predictions").iterdir()
    assert {"labels.nii.gz", "segmentation.seg.nrrd", "segmentation.seg.dcm", "segmentation.rtstruct.dcm"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_ct_without_contours_is_segmented_all_the_same(tmp_path: Path) -> None:
    dicom = write_phantom(tmp_path / "mine")
    for path in dicom.rglob("*"):
        if path.is_file() and pydicom.dcmread(path, stop_before_pixels=True).Modality == "RTSTRUCT":
            path.unlink()
    out = tmp_path / "out"
    shown = demo(out, "--dicom", dicom, "--model", write_model(tmp_path / "model.safetensors"))
    assert "no contours to compare with" in shown
    assert [*out.glob("predictions/*/segmentation.rtstruct.dcm")]


@pytest.mark.parametrize("wrong", [("-n", 3), ("--model", "m.safetensors")])
def test_what_cannot_be_meant_is_wrong_usage(tmp_path: Path, wrong: tuple[object, ...]) -> None:
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "out"), *map(str, wrong)])
    assert done.exit_code == ExitCode.USAGE
    assert not (tmp_path / "out").exists()
