"""What a path holds to be segmented is found whatever it looks like, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk

from LungSegmentationLib.errors import BadInputError, GeometryError, LungSegError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.hounsfield import as_hounsfield
from LungSegmentationLib.inference.sources import find_inputs

GRID = Grid((7, 6, 5), (0.9, 1.1, 3.0), (-12.5, 33.25, -700.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def stored(slices: int = 4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2000, (slices, 6, 7)).astype(np.uint16)


def hounsfield(kind: str = "int16", seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 1500, GRID.shape).astype(kind)


def write_image(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(GRID.image(array), str(path))
    return path


def names(path: Path) -> list[str]:
    return [case.name for case in find_inputs(path).cases]


def test_a_folder_with_one_series_is_one_case_with_its_hounsfield_grid_and_source(tmp_path: Path) -> None:
    values = stored()
    folder = tmp_path / "Ordner mit Raum 肺"
    ct_files.write_series(folder, values, spacing=(0.8, 1.2, 2.5), origin=(-10, 20, -300))
    (case,) = find_inputs(folder).cases
    loaded = case.load()
    assert case.name == "P1"
    assert case.is_dicom
    assert len(case.files) == 4
    assert loaded.ct.dtype == np.int16
    assert (loaded.ct == values.astype(int) - 1024).all()
    assert loaded.grid.spacing == pytest.approx((0.8, 1.2, 2.5))
    assert loaded.grid.origin == pytest.approx((-10, 20, -300))
    assert loaded.source is not None
    assert loaded.source.series_uid == "1.2.3.2"
    assert len(loaded.source.images) == 4


def test_two_cts_of_a_patient_are_two_cases_whose_names_do_not_depend_on_order(tmp_path: Path) -> None:
    ct_files.write_series(tmp_path / "in" / "a", stored())
    assert names(tmp_path / "in") == ["P1"]
    ct_files.write_series(tmp_path / "in" / "b", stored(seed=2), SeriesInstanceUID="1.2.3.9")
    found = find_inputs(tmp_path / "in").cases
    assert len({case.name for case in found}) == 2
    assert all(case.name.startswith("P1_") for case in found)
    by_series = {case.about["series_uid"]: case.name for case in found}
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "z")
    assert {case.about["series_uid"]: case.name for case in find_inputs(tmp_path / "in").cases} == by_series


def test_cts_of_several_patients_with_one_series_uid_are_kept_apart(tmp_path: Path) -> None:
    for number in range(3):
        ct_files.write_series(tmp_path / str(number), stored(seed=number), PatientID="", PatientName=f"N{number}")
    found = find_inputs(tmp_path).cases
    assert len({case.name for case in found}) == 3
    first = {int(case.load().ct[0, 0, 0]) + 1024 for case in found}
    assert first == {int(stored(seed=number)[0, 0, 0]) for number in range(3)}


def test_what_is_no_ct_is_left_out_and_counted(tmp_path: Path) -> None:
    ct_files.write_series(tmp_path / "ct", stored())
    ct_files.write_slice(tmp_path / "scout", stored()[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ct_files.write_slice(tmp_path / "mr", stored()[0], Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    ct_files.write_series(tmp_path / "bolus", stored(2), SeriesInstanceUID="1.2.3.7", SeriesDescription="bolus")
    (tmp_path / "letter.txt").write_text("no DICOM")
    found = find_inputs(tmp_path)
    assert [len(case.files) for case in found.cases] == [4]
    assert any("1 MR" in note and "1 CT localizer" in note for note in found.notes)
    assert any("fewer than 3 slices" in text and "bolus" in text for text in found.warnings)
    assert any("letter.txt" in text for text in found.warnings)


def test_a_ct_of_two_slices_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    ct_files.write_series(tmp_path, stored(2))
    assert names(tmp_path) == ["P1"]


def test_a_single_file_stands_for_its_series_and_for_no_other(tmp_path: Path) -> None:
    first = ct_files.write_series(tmp_path, stored())
    for number, plane in enumerate(stored(5, seed=2)):
        ct_files.write_slice(
            tmp_path / f"other{number}",
            plane,
            SeriesInstanceUID="1.2.3.8",
            SOPInstanceUID=f"1.2.3.8.{number}",
            ImagePositionPatient=[0, 0, 3 * number],
        )
    ct_files.write_series(tmp_path / "deeper", stored(), SeriesInstanceUID="1.2.3.10")
    (case,) = find_inputs(first[2]).cases
    assert case.about["series_uid"] == "1.2.3.2"
    assert case.load().ct.shape == (4, 6, 7)
    (case,) = find_inputs(tmp_path / "other3").cases
    assert case.load().ct.shape == (5, 6, 7)
    copy = shutil.copy(first[1], tmp_path / "zz copy")
    (case,) = find_inputs(Path(copy)).cases
    assert case.load().ct.shape == (4, 6, 7)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, "a PET image"),
        ({"Modality": "SEG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "a DICOM SEG"),
        ({"Modality": "RTSTRUCT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "an RTSTRUCT"),
        ({"Modality": "MG"}, "of the kind MG"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImagePositionPatient": ct_files.LEFT_OUT}, "without a place"),
    ],
)
def test_a_file_that_is_no_ct_is_refused_by_what_it_is(tmp_path: Path, elements: dict, said: str) -> None:
    path = ct_files.write_slice(tmp_path / "file.dcm", stored()[0], **elements)
    with pytest.raises(UnsupportedFileError, match=said) as refused:
        find_inputs(path)
    assert str(path) in str(refused.value)
    with pytest.raises(BadInputError, match="holds no CT"):
        find_inputs(tmp_path)


def test_paths_without_any_ct_are_refused_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no file or folder"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="empty"):
        find_inputs(tmp_path)
    write_image(tmp_path / "labels.nii.gz", hounsfield("uint8"))
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(BadInputError, match=r"1 segmentation.*labels\.nii\.gz.*1 file\(s\) that are no DICOM"):
        find_inputs(tmp_path)
    with pytest.raises(UnsupportedFileError, match="neither DICOM nor a volume"):
        find_inputs(tmp_path / "note.txt")
    with pytest.raises(UnsupportedFileError, match="segmentation"):
        find_inputs(tmp_path / "labels.nii.gz")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_volume_file_is_read_as_it_is(tmp_path: Path, ending: str) -> None:
    path = write_image(tmp_path / "Ünïcode ct 患者" / f"a b{ending}", hounsfield())
    (case,) = find_inputs(path).cases
    loaded = case.load()
    assert case.name == "a_b"
    assert (loaded.ct == hounsfield()).all()
    assert loaded.grid.matches(GRID, 1e-4)
    assert loaded.source is None
    assert isinstance(loaded.no_source, LungSegError)
    assert loaded.warnings == ()


@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64"])
def test_other_numbers_become_hounsfield(tmp_path: Path, kind: str) -> None:
    (case,) = find_inputs(write_image(tmp_path / "a.nrrd", hounsfield(kind))).cases
    loaded = case.load()
    assert loaded.ct.dtype == np.int16
    assert (loaded.ct == hounsfield()).all()


def test_the_voxels_of_an_image_outlive_it() -> None:
    values = hounsfield()
    array, _ = as_hounsfield(GRID.image(values))
    others = [GRID.image(np.full(GRID.shape, number, np.int16)) for number in range(50)]
    assert np.array_equal(array, values)
    assert len(others) == 50


def test_fractions_are_rounded_padding_is_air_and_both_as_the_reader_of_dicom_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1024, 1500, (5, 30, 40)).astype(np.float32)
    values[1, 2, 3], values[2, 2, 2], values[0, 0, 0] = 40.6, -3024, 33000
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nii"))
    (case,) = find_inputs(tmp_path / "a.nii").cases
    loaded = case.load()
    assert (loaded.ct[1, 2, 3], loaded.ct[2, 2, 2], loaded.ct[0, 0, 0]) == (41, -1024, 32767)
    assert any("1 slice(s) have values finer than 1 HU" in text for text in loaded.warnings)
    assert any("1 voxel(s) lie above 32767 HU" in text for text in loaded.warnings)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(GRID.shape, np.uint8), "8-bit"),
        (np.random.default_rng(0).random(GRID.shape).astype(np.float32), "no HU"),
        (hounsfield().astype(np.uint16), "unsigned"),
        (np.full(GRID.shape, -1000, np.int16), "no HU"),
        (np.where(hounsfield() < 0, np.nan, hounsfield("float32")).astype(np.float32), "no numbers"),
    ],
    ids=["bytes", "normalized", "wrapped", "constant", "nan"],
)
def test_what_cannot_be_hounsfield_is_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    path = write_image(tmp_path / "ct.nrrd", values)
    (case,) = find_inputs(path).cases
    with pytest.raises(BadInputError, match=said) as refused:
        case.load()
    assert "ct.nrrd" in str(refused.value)


def test_volumes_that_are_no_scalar_volume_are_refused(tmp_path: Path) -> None:
    color = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.int16), isVector=True)
    sitk.WriteImage(color, str(tmp_path / "color.nrrd"))
    sitk.WriteImage(sitk.Image([3, 4, 5, 2], sitk.sitkInt16), str(tmp_path / "four.nii.gz"))
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b no volume")
    found = find_inputs(tmp_path)
    assert [case.name for case in found.cases] == ["color", "cut", "four"]
    for case in found.cases:
        with pytest.raises(BadInputError, match=case.name):
            case.load()


def test_a_file_that_does_not_say_how_the_patient_lies_is_told(tmp_path: Path) -> None:
    lines = ["NRRD0004", "type: short", "dimension: 3", "sizes: 7 6 5", "encoding: raw", "endian: little", "", ""]
    (tmp_path / "lost.nrrd").write_bytes("\n".join(lines).encode() + hounsfield().tobytes())
    (case,) = find_inputs(tmp_path / "lost.nrrd").cases
    assert any("right and left" in text for text in case.load().warnings)


def test_a_folder_of_volumes_is_a_case_each_without_segmentations_and_results(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nrrd", "A.mha", "result.nii.gz", "result.confidence.nii.gz", "c.seg.nrrd", ".d.nii"):
        write_image(tmp_path / name, hounsfield())
    (tmp_path / "result.prediction.json").write_text(json.dumps({}))
    write_image(tmp_path / "mask.nii.gz", hounsfield("uint8"))
    write_image(tmp_path / "deep" / "x.nii.gz", hounsfield())
    found = find_inputs(tmp_path)
    assert [case.name for case in found.cases] == ["A", "a_2", "b"]
    assert any("4 volume file(s) were left out" in text for text in found.warnings)


def test_case_folders_and_cohorts_give_their_cts_under_the_names_of_the_cases(tmp_path: Path) -> None:
    cases = tmp_path / "cohort" / "cases"
    for name in ("P2", "P 1"):
        write_image(cases / name / "ct.nii.gz", hounsfield())
        write_image(cases / name / "labels.nii.gz", hounsfield("uint8"))
        (cases / name / "case.json").write_text("{}")
    (cases / "P3").mkdir()
    (cases / "P3" / "case.json").write_text("{}")
    assert names(cases) == ["P 1", "P2"]
    (tmp_path / "cohort" / "cohort.json").write_text("{}")
    found = find_inputs(tmp_path / "cohort")
    assert [case.name for case in found.cases] == ["P 1", "P2"]
    assert any("1 case(s)" in text for text in found.warnings)
    assert names(cases / "P2") == ["P2"]
    assert names(cases / "P2" / "ct.nii.gz") == ["P2"]


def test_dicom_goes_before_volumes_beside_it_and_that_is_told(tmp_path: Path) -> None:
    ct_files.write_series(tmp_path, stored())
    write_image(tmp_path / "copy.nii.gz", hounsfield())
    found = find_inputs(tmp_path)
    assert [case.is_dicom for case in found.cases] == [True]
    assert any("copy.nii.gz" in text for text in found.warnings)
    assert names(tmp_path / "copy.nii.gz") == ["copy"]


def test_a_series_that_is_no_regular_grid_is_found_and_refused_when_it_is_read(tmp_path: Path) -> None:
    files = ct_files.write_series(tmp_path, stored(8))
    for file in files[3:6]:
        file.unlink()
    (case,) = find_inputs(tmp_path).cases
    with pytest.raises(GeometryError):
        case.load()


def test_a_series_without_frame_of_reference_can_be_segmented_but_not_referred_to(tmp_path: Path) -> None:
    ct_files.write_series(tmp_path, stored(), FrameOfReferenceUID="")
    (case,) = find_inputs(tmp_path).cases
    loaded = case.load()
    assert loaded.source is None
    assert "frame of reference" in str(loaded.no_source)


def test_the_fingerprint_stays_until_a_file_is_exchanged(tmp_path: Path) -> None:
    files = ct_files.write_series(tmp_path / "dicom", stored())
    volume = write_image(tmp_path / "a.nii", hounsfield())
    before = [find_inputs(path).cases[0].fingerprint() for path in (files[0].parent, volume)]
    assert before == [find_inputs(path).cases[0].fingerprint() for path in (files[0].parent, volume)]
    ct_files.write_series(tmp_path / "dicom", stored(), PatientName="A much longer name than before")
    write_image(volume, hounsfield("float32"))
    after = [find_inputs(path).cases[0].fingerprint() for path in (files[0].parent, volume)]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_what_a_record_gets_names_no_person_and_no_place(tmp_path: Path) -> None:
    ct_files.write_series(tmp_path / "dicom", stored(), PatientName="Doe^Jane")
    write_image(tmp_path / "Jane Doe.nii", hounsfield())
    for path in (tmp_path / "dicom", tmp_path / "Jane Doe.nii"):
        said = json.dumps(find_inputs(path).cases[0].about)
        assert "Doe" not in said
        assert str(tmp_path) not in said


@pytest.mark.realdata
def test_multi_frame_dicomdir_and_files_without_endings_are_found(data: Path) -> None:
    frames = data / "tricky" / "geometry" / "legacy_enhanced_24x38x3"
    file = next(path for path in sorted(frames.rglob("*")) if path.is_file() and b"DICM" in path.read_bytes()[128:132])
    (case,) = find_inputs(file).cases
    assert len(case.files) >= 1
    assert case.load().ct.ndim == 3
    tree = find_inputs(data / "tricky" / "dicomdir_noext")
    assert {case.name for case in tree.cases} == {"77654033", "98890234"}
    assert any("2 CT localizer" in note for note in tree.notes)
    (case,) = find_inputs(data / "totalseg_j2k").cases
    assert case.load().ct.shape == (20, 512, 512)
