"""Segmentations in another format on their CT: which series is taken, what stays, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import result_files
import SimpleITK as sitk

from LungSegmentationLib.dicom.writers import RESULT_ENDINGS, write_result
from LungSegmentationLib.errors import BadInputError, ExitCode, GeometryError, StorageError, UsageError
from LungSegmentationLib.exporting import export_segmentation, find_series
from LungSegmentationLib.jobs.events import SilentReporter
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.segmentation_files import read_segmentation_file

THORAX = load_label_set()


class Listening(SilentReporter):
    """Remembers warnings and results."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.results: list[dict[str, Any]] = []

    def warning(self, message: str, subject: str = "") -> None:
        self.warnings.append(message)

    def result(self, paths: Any, summary: Any = None) -> None:
        self.results.append(dict(paths))


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """A folder with the CT, and other files beside it."""
    folder = tmp_path / "Patient é 日本"
    result_files.series(folder / "ct")
    (folder / "notes.txt").write_text("no DICOM")
    return folder


@pytest.mark.parametrize("target", RESULT_ENDINGS)
@pytest.mark.parametrize("kind", RESULT_ENDINGS)
def test_every_format_becomes_every_other(tmp_path: Path, ct: Path, kind: str, target: str) -> None:
    volume, source = result_files.source(tmp_path / "same")
    shutil.rmtree(tmp_path / "same")
    overlapping = {"seg.nrrd", "dicom-seg", "rtstruct"}
    structures = result_files.anatomy(overlapping=kind in overlapping)
    given = write_result(structures, source, tmp_path / f"given{RESULT_ENDINGS[kind]}")
    output = tmp_path / "new folder" / f"made{RESULT_ENDINGS[target]}"
    reporter = Listening()
    assert export_segmentation(given, output, reporter, source=ct) == output
    found = read_segmentation_file(output, THORAX, volume)
    if target in overlapping:
        assert np.array_equal(found.structures.bits, structures.bits)
    else:
        assert np.array_equal(found.structures.label_map(), structures.label_map())
    assert reporter.results == [{"segmentation": str(output.resolve())}]
    # Contours of what was looked for and not found, and ragged ones at the border, are always told.
    assert reporter.warnings == [] or kind == "rtstruct"


def test_dicom_says_that_a_person_may_have_had_a_hand_in_it(tmp_path: Path, ct: Path) -> None:
    _, source = result_files.source(tmp_path / "same")
    given = write_result(result_files.anatomy(), source, tmp_path / "a.seg.nrrd", description="edited by N.N.")
    seg = pydicom.dcmread(export_segmentation(given, tmp_path / "a.seg.dcm", source=ct))
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert seg.SeriesDescription == "edited by N.N."
    rtstruct = pydicom.dcmread(export_segmentation(given, tmp_path / "a.rtstruct.dcm", source=ct, description="mine"))
    assert {item.ROIGenerationAlgorithm for item in rtstruct.StructureSetROISequence} == {"SEMIAUTOMATIC"}
    assert rtstruct.SeriesDescription == "mine"
    images = {pydicom.dcmread(file).SOPInstanceUID for file in (ct / "ct").iterdir()}
    (frame,) = rtstruct.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence} == images
    for path in (tmp_path / "a.seg.dcm", tmp_path / "a.rtstruct.dcm"):
        assert result_files.complaints(path) == []


def _second_series(ct: Path, name: str, **elements: Any) -> str:
    """Copy the CT as another series; return its UID."""
    uid = f"1.2.3.{len(name)}.77"
    for number, file in enumerate(sorted((ct / "ct").iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = uid
        dataset.SOPInstanceUID = f"{uid}.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        (ct / name).mkdir(exist_ok=True)
        dataset.save_as(ct / name / file.name)
    return uid


def test_of_several_series_the_one_with_the_voxels_is_taken(tmp_path: Path, ct: Path) -> None:
    _, source = result_files.source(tmp_path / "same")
    given = write_result(result_files.anatomy(), source, tmp_path / "a.seg.nrrd")
    _second_series(ct, "finer", PixelSpacing=[0.5, 0.5])
    assert find_series(given, ct)[0].series_uid == source.series_uid


def test_of_several_series_with_the_same_voxels_none_is_guessed(tmp_path: Path, ct: Path) -> None:
    _, source = result_files.source(tmp_path / "same")
    given = write_result(result_files.anatomy(), source, tmp_path / "a.seg.nrrd")
    other = _second_series(ct, "kernel")
    with pytest.raises(BadInputError, match="2 series") as told:
        export_segmentation(given, tmp_path / "b.seg.dcm", source=ct)
    assert other in str(told.value)
    made = export_segmentation(given, tmp_path / "b.seg.dcm", source=ct, series_uid=other)
    assert pydicom.dcmread(made).ReferencedSeriesSequence[0].SeriesInstanceUID == other
    # A DICOM file says whose it is.
    assert find_series(made, ct)[0].series_uid == other
    with pytest.raises(BadInputError, match="no CT series"):
        export_segmentation(given, tmp_path / "c.seg.dcm", source=ct, series_uid="1.9")


def test_a_segmentation_on_other_voxels_is_refused(tmp_path: Path, ct: Path) -> None:
    volume, _ = result_files.source(tmp_path / "same")
    labels = result_files.anatomy().label_map()
    image = volume.grid.image(labels)
    image.SetOrigin((0, 0, 0))
    for name in ("labels.nii.gz", "labels.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(GeometryError, match="does not lie on the voxels"):
            export_segmentation(tmp_path / name, tmp_path / "a.seg.dcm", source=ct)
    # A part of the volume is no whole one, except for segments, which Slicer cuts.
    part = volume.grid.image(labels)[2:20, 3:30, 1:8]
    sitk.WriteImage(part, str(tmp_path / "part.nii.gz"))
    with pytest.raises(GeometryError):
        export_segmentation(tmp_path / "part.nii.gz", tmp_path / "a.seg.dcm", source=ct)
    part.SetMetaData("Segment0_ID", "x")
    part.SetMetaData("Segment0_Name", "left lung")
    part.SetMetaData("Segment0_LabelValue", "3")
    sitk.WriteImage(part, str(tmp_path / "part.seg.nrrd"))
    made = export_segmentation(tmp_path / "part.seg.nrrd", tmp_path / "a.rtstruct.dcm", source=ct)
    found = read_segmentation_file(made, THORAX, volume).structures.mask("lung_left")
    expected = np.zeros(labels.shape, bool)
    expected[1:8, 3:30, 2:20] = labels[1:8, 3:30, 2:20] == 3
    assert np.array_equal(found, expected)
    assert not (tmp_path / "a.seg.dcm").exists()


def test_what_cannot_be_exported_is_told_in_a_sentence(tmp_path: Path, ct: Path) -> None:
    volume, source = result_files.source(tmp_path / "same")
    given = write_result(result_files.anatomy(), source, tmp_path / "a.seg.nrrd")
    rtstruct = write_result(result_files.anatomy(), source, tmp_path / "a.rtstruct.dcm")
    empty = tmp_path / "empty.nii.gz"
    sitk.WriteImage(volume.grid.image(np.zeros(volume.grid.shape, np.uint8)), str(empty))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("")
    out = tmp_path / "b.seg.dcm"
    cases: list[tuple[type[BadInputError | UsageError], str, Path, Path, Path | None]] = [
        (UsageError, "--source", given, out, None),
        (UsageError, "contours and no voxels", rtstruct, tmp_path / "b.nii.gz", None),
        (UsageError, "is the segmentation itself", given, given, None),
        (UsageError, "ending", given, tmp_path / "b.xyz", None),
        (BadInputError, "no structure", empty, tmp_path / "b.nrrd", None),
        (BadInputError, "no structure", empty, out, ct),
        (BadInputError, "holds no CT", given, out, tmp_path / "nothing"),
        (BadInputError, "no such folder", given, out, tmp_path / "nowhere"),
        (BadInputError, "There is no file", tmp_path / "nowhere.nii.gz", out, ct),
        (StorageError, "cannot be written", given, tmp_path / "file" / "b.nii.gz", None),
    ]
    for kind, said, segmentation, output, folder in cases:
        with pytest.raises(kind, match=said):
            export_segmentation(segmentation, output, source=folder)
    assert not out.exists()


def test_what_is_left_out_is_said(tmp_path: Path, ct: Path) -> None:
    volume, _ = result_files.source(tmp_path / "same")
    image = volume.grid.image(result_files.anatomy(overlapping=False).label_map())
    for number, (name, value) in enumerate({"GTV 1": 1, "Trachea": 3, "Rückenmark": 7}.items()):
        image.SetMetaData(f"Segment{number}_ID", f"Segment_{number}")
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    reporter = Listening()
    made = export_segmentation(tmp_path / "a.seg.nrrd", tmp_path / "a.seg.dcm", reporter, source=ct)
    assert {item.SegmentLabel for item in pydicom.dcmread(made).SegmentSequence} == {"GTV", "spinal cord"}
    assert reporter.warnings == ["Segment “Trachea” is no structure of the label set thorax and left out."]


def test_the_command_writes_and_ends_with_the_right_code(tmp_path: Path, ct: Path) -> None:
    _, source = result_files.source(tmp_path / "same")
    given = write_result(result_files.anatomy(), source, tmp_path / "a.seg.nrrd")

    def lungseg(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "LungSegmentationLib", "export", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)

    done = lungseg(given, tmp_path / "x.dcm", "--source", ct, "--format", "rtstruct", "--events")
    assert done.returncode == ExitCode.DONE
    events = [json.loads(line) for line in done.stdout.splitlines()]
    result = next(event for event in events if event["event"] == "result")
    assert Path(result["paths"]["segmentation"]) == (tmp_path / "x.dcm").resolve()
    assert lungseg(given, tmp_path / "y.seg.dcm").returncode == ExitCode.USAGE
    failed = lungseg(given, tmp_path / "y.seg.dcm", "--source", tmp_path / "nowhere")
    assert failed.returncode == ExitCode.BAD_INPUT
    assert "Traceback" not in failed.stderr
