"""Synthetic patients: the same seed gives the same bytes, and truth, contours and CT agree with each other."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Outline

from LungSegmentationLib.errors import StorageError, UsageError
from LungSegmentationLib.phantom import PhantomOptions, PhantomPatient, make_patient, make_phantoms, write_patient
from LungSegmentationLib.phantom.contours import keyhole, nudge, outlines
from LungSegmentationLib.phantom.dicom_files import draw_style
from LungSegmentationLib.phantom.rois import NAMES, drawn_structures

SMALL = PhantomOptions(in_plane=96, slices=20, complete=True)
KEYS = ("gtv", "ptv", "lung_right", "lung_left", "heart", "esophagus", "spinal_cord")


@pytest.fixture(scope="module")
def patient() -> PhantomPatient:
    return make_patient(11, 0, SMALL)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_headers(folder: Path) -> tuple[list[tuple[Path, pydicom.Dataset]], pydicom.Dataset]:
    datasets = [(path, pydicom.dcmread(path)) for path in folder.rglob("*") if path.is_file()]
    structure_sets = [dataset for _, dataset in datasets if dataset.Modality == "RTSTRUCT"]
    assert len(structure_sets) == 1
    return [(path, dataset) for path, dataset in datasets if dataset.Modality == "CT"], structure_sets[0]


def even_odd_fill(structure_set: pydicom.Dataset, patient: PhantomPatient, name: str) -> np.ndarray:
    """Fill the contours of one ROI by matplotlib's point-in-polygon test, from what the file says."""
    number = next(roi.ROINumber for roi in structure_set.StructureSetROISequence if roi.ROIName == name)
    item = next(roi for roi in structure_set.ROIContourSequence if roi.ReferencedROINumber == number)
    grid = patient.grid
    rows, columns = grid.shape[1:]
    centers = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    mask = np.zeros(grid.shape, bool)
    for contour in item.ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        index = grid.to_index(points)
        slices = np.round(index[:, 2]).astype(int)
        assert np.ptp(slices) == 0
        assert np.abs(index[:, 2] - slices).max() < 1e-3
        assert index[:, :2].min() > -0.51
        assert (index[:, :2].max(axis=0) < np.array([columns, rows]) - 0.49).all()
        mask[slices[0]] ^= Outline(index[:, :2]).contains_points(centers).reshape(rows, columns)
    return mask


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2.0 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    options = PhantomOptions(in_plane=64, slices=8)
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        make_phantoms(tmp_path / name, 2, seed, options)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())


def test_patients_of_one_seed_are_all_different() -> None:
    options = PhantomOptions(in_plane=48, slices=6)
    patients = [make_patient(1, index, options) for index in range(4)]
    assert len({patient.ct.tobytes() for patient in patients}) == 4
    assert len({patient.structures.bits.tobytes() for patient in patients}) == 4
    assert len({patient.patient_id for patient in patients}) == 4


def test_the_plane_of_the_images_does_not_change_the_anatomy() -> None:
    volumes = {}
    for orientation in ("axial", "oblique", "sagittal", "coronal"):
        patient = make_patient(5, 1, PhantomOptions(in_plane=128, slices=60, orientation=orientation))
        counts = patient.structures.voxel_counts()
        volumes[orientation] = counts["heart"] * patient.grid.voxel_volume
    assert all(abs(volume / volumes["axial"] - 1) < 0.05 for volume in volumes.values()), volumes


@pytest.mark.parametrize(
    ("orientation", "position"),
    [("axial", "HFS"), ("axial", "FFS"), ("axial", "HFP"), ("axial", "FFP"), ("sagittal", "HFS"), ("coronal", "FFS"),
     ("oblique", "HFS"), ("oblique", "FFP")],
)  # fmt: skip
@pytest.mark.parametrize("index", [0, 1])
def test_itk_reads_the_same_voxels_at_the_same_places(
    tmp_path: Path, orientation: str, position: str, index: int
) -> None:
    options = PhantomOptions(in_plane=80, slices=14, orientation=orientation, position=position, complete=True)
    patient = make_patient(21, index, options)
    folder = write_patient(patient, tmp_path)
    images, _ = read_headers(folder)
    normal = patient.grid.axes[:, 2]
    images.sort(key=lambda entry: float(np.dot(np.array(entry[1].ImagePositionPatient, float), normal)))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path, _ in images])
    volume = reader.Execute()
    array = np.maximum(sitk.GetArrayFromImage(volume), -1024)
    np.testing.assert_array_equal(array, patient.ct)
    np.testing.assert_allclose(volume.GetOrigin(), patient.grid.origin, atol=1e-4)
    np.testing.assert_allclose(volume.GetSpacing(), patient.grid.spacing, atol=1e-4)
    np.testing.assert_allclose(volume.GetDirection(), patient.grid.direction, atol=1e-6)
    assert {str(dataset.PatientPosition) for _, dataset in images} == {position}
    right, left = (center_of(patient, key) for key in ("lung_right", "lung_left"))
    assert right[0] < left[0]
    heart, cord = (center_of(patient, key) for key in ("heart", "spinal_cord"))
    assert heart[1] < cord[1]


def center_of(patient: PhantomPatient, key: str) -> np.ndarray:
    index = np.argwhere(patient.structures.mask(key))[:, ::-1]
    return patient.grid.to_physical(index).mean(axis=0)


@pytest.mark.parametrize(
    ("seed", "orientation", "position"),
    [(11, "axial", "HFS"), (12, "axial", "FFS"), (13, "sagittal", "HFS"), (14, "oblique", "HFP"),
     (15, "coronal", "HFS")],
)  # fmt: skip
def test_filling_the_written_contours_gives_the_truth(
    tmp_path: Path, seed: int, orientation: str, position: str
) -> None:
    options = PhantomOptions(in_plane=96, slices=20, orientation=orientation, position=position, complete=True)
    patient = make_patient(seed, 0, options)
    _, structure_set = read_headers(write_patient(patient, tmp_path))
    filled: dict[str, np.ndarray] = {}
    for name, key in patient.roi_names.items():
        if key is not None:
            mask = even_odd_fill(structure_set, patient, name)
            filled[key] = filled[key] | mask if key in filled else mask
    assert set(filled) == set(KEYS)
    for key, mask in filled.items():
        assert dice(mask, patient.structures.mask(key)) == pytest.approx(1.0, abs=1e-4), key


def test_the_written_truth_is_the_patient(tmp_path: Path, patient: PhantomPatient) -> None:
    write_patient(patient, tmp_path)
    folder = tmp_path / "truth" / patient.patient_id
    bits = sitk.ReadImage(str(folder / "structures.nii.gz"))
    labels = sitk.ReadImage(str(folder / "labels.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(bits), patient.structures.bits)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), patient.structures.label_map())
    np.testing.assert_allclose(bits.GetOrigin(), patient.grid.origin, atol=1e-3)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    assert set(truth["drawn"]) == set(KEYS)
    assert truth["roi_names"] == dict(patient.roi_names)
    assert not list((tmp_path / "dicom").rglob("*.nii.gz"))


def test_references_of_the_structure_set_lead_to_the_images(tmp_path: Path, patient: PhantomPatient) -> None:
    images, structure_set = read_headers(write_patient(patient, tmp_path))
    by_uid = {dataset.SOPInstanceUID: dataset for _, dataset in images}
    assert len(by_uid) == patient.grid.size[2]
    frame = structure_set.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == images[0][1].FrameOfReferenceUID
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == images[0][1].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence} == set(by_uid)
    numbers = [roi.ROINumber for roi in structure_set.StructureSetROISequence]
    assert len(set(numbers)) == len(numbers)
    assert numbers != list(range(1, len(numbers) + 1))
    for roi in structure_set.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == int(contour.NumberOfContourPoints)
            if contour.ContourGeometricType == "CLOSED_PLANAR":
                image = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
                away = (points - np.array(image.ImagePositionPatient, float)) @ patient.grid.axes[:, 2]
                assert np.abs(away).max() < 2e-3


def test_no_decimal_string_is_longer_than_sixteen_characters(tmp_path: Path) -> None:
    patient = make_patient(31, 2, PhantomOptions(in_plane=64, slices=8, orientation="oblique"))
    images, structure_set = read_headers(write_patient(patient, tmp_path))
    for dataset in (images[0][1], structure_set):
        for element in dataset.iterall():
            if element.VR == "DS" and not element.is_empty:
                values = element.value if element.VM > 1 else [element.value]
                assert max(len(str(value)) for value in values) <= 16, element.tag


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: apt install dicom3tools)"
)
@pytest.mark.parametrize("index", range(4))
def test_dciodvfy_finds_no_error(tmp_path: Path, index: int) -> None:
    orientation, position = (("axial", "HFS"), ("axial", "FFS"), ("sagittal", "HFS"), ("oblique", "HFP"))[index]
    options = PhantomOptions(in_plane=64, slices=8, orientation=orientation, position=position, complete=index % 2 == 0)
    folder = write_patient(make_patient(41, index, options), tmp_path)
    images, structure_set = read_headers(folder)
    paths = [images[0][0], *(path for path in folder.rglob("*") if path.is_file() and path not in dict(images))]
    assert structure_set.Modality == "RTSTRUCT"
    for path in paths:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        assert "Error" not in said, said


@pytest.mark.oracle
def test_plastimatch_fills_the_contours_as_the_truth_says(tmp_path: Path) -> None:
    patient = make_patient(51, 0, PhantomOptions(in_plane=128, slices=24, complete=True))
    folder = write_patient(patient, tmp_path)
    # plastimatch does not look into subfolders.
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(path for path in folder.rglob("*") if path.is_file()):
        shutil.copy(path, flat / f"{number}.dcm")
    command = ["plastimatch", "convert", "--input", str(flat), "--output-prefix", str(tmp_path / "masks"),
               "--prefix-format", "mha", "--prune-empty"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    checked = 0
    for name, key in patient.roi_names.items():
        paths = [path for path in (tmp_path / "masks").glob("*.mha") if path.stem == name]
        if key in {"lung_right", "lung_left", "heart", "spinal_cord", "esophagus"} and paths:
            mask = sitk.GetArrayFromImage(sitk.ReadImage(str(paths[0]))) > 0
            assert dice(mask, patient.structures.mask(key)) >= 0.99, key
            checked += 1
    assert checked >= 2


def test_structures_are_drawn_in_the_stated_part_of_a_cohort() -> None:
    for seed in range(6):
        counts = Counter(key for index in range(100) for key in drawn_structures(seed, index, PhantomOptions()))
        expected = {
            "gtv": 100,
            "ptv": 15,
            "lung_right": 97,
            "lung_left": 97,
            "heart": 28,
            "esophagus": 70,
            "spinal_cord": 95,
        }
        assert all(abs(counts[key] - number) <= 1 for key, number in expected.items()), counts
        dozen = Counter(key for index in range(12) for key in drawn_structures(seed, index, PhantomOptions()))
        assert 3 <= dozen["heart"] <= 4


def test_names_come_in_several_languages_and_extra_rois_are_there() -> None:
    options = PhantomOptions(in_plane=32, slices=4)
    patients = [make_patient(9, index, options) for index in range(30)]
    names = {name: key for patient in patients for name, key in patient.roi_names.items()}
    assert any(not name.isascii() for name in names)
    assert {"CTV", "Isocentre"} & set(names)
    assert all(key is None for name, key in names.items() if name.startswith(("CTV", "z", "PRV", "Lungs-", "Isoc")))
    assert sum(len([name for name, key in p.roi_names.items() if key == "gtv"]) > 1 for p in patients) >= 3
    lungs = {name for name, key in names.items() if key == "lung_left"}
    for table in NAMES.values():
        assert lungs & {style["lung_left"] for style in table}


def test_tissues_have_the_hu_of_a_chest_ct() -> None:
    for index in range(4):
        patient = make_patient(61, index, PhantomOptions(in_plane=128, slices=24))
        lungs = patient.ct[patient.structures.mask("lung_right") | patient.structures.mask("lung_left")]
        assert -900 < np.median(lungs) < -700
        heart = float(np.median(patient.ct[patient.structures.mask("heart")]))
        assert 20 < heart < (200 if patient.contrast else 60)
        cord = float(np.median(patient.ct[patient.structures.mask("spinal_cord")]))
        assert 20 < cord < 60
        assert patient.ct.max() > 350
        assert -40 < np.percentile(patient.ct[patient.structures.mask("gtv")], 75) < 130


def test_organs_have_the_size_of_an_adults() -> None:
    right, left = [], []
    for index in range(6):
        patient = make_patient(71, index, PhantomOptions(in_plane=128, slices=60))
        cc = {key: count * patient.grid.voxel_volume for key, count in patient.structures.voxel_counts().items()}
        right.append(cc["lung_right"])
        left.append(cc["lung_left"])
        assert 900 < cc["lung_left"] < 3500
        assert 300 < cc["heart"] < 1100
        assert 20 < cc["esophagus"] < 120
        assert 1 < cc["gtv"] < cc["ptv"] < 900
    assert len({round(volume) for volume in right}) == 6
    assert np.mean(np.array(left) / np.array(right)) < 0.97


def test_a_ptv_holds_its_gtv_and_a_lung_leaves_the_gtv_out_where_said() -> None:
    seen = set()
    for index in range(6):
        patient = make_patient(81, index, PhantomOptions(in_plane=96, slices=16))
        gtv, ptv = patient.structures.mask("gtv"), patient.structures.mask("ptv")
        assert not (gtv & ~ptv).any()
        lungs = patient.structures.mask("lung_right") | patient.structures.mask("lung_left")
        if patient.lung_excludes_gtv:
            assert not (gtv & lungs).any()
        seen.add(patient.lung_excludes_gtv)
    assert seen == {True, False}


def test_a_round_field_of_view_is_padded(tmp_path: Path) -> None:
    options = PhantomOptions(in_plane=64, slices=4)
    padded = next(p for i in range(40) if draw_style(p := make_patient(91, i, options)).padded)
    images, _ = read_headers(write_patient(padded, tmp_path))
    dataset = images[0][1]
    assert dataset.PixelPaddingValue == -2000
    assert dataset.pixel_array[0, 0] == -2000
    assert (dataset.pixel_array[32] > -2000).all()
    assert (padded.ct[:, 0, 0] == -1024).all()


@pytest.mark.parametrize("slices", [1, 2])
def test_even_one_slice_is_a_patient(tmp_path: Path, slices: int) -> None:
    patient = make_patient(0, 0, PhantomOptions(in_plane=32, slices=slices))
    assert "gtv" in patient.drawn
    assert len(read_headers(write_patient(patient, tmp_path))[0]) == slices


def test_default_sizes_are_those_of_a_clinic() -> None:
    grids = [make_patient(101, index, PhantomOptions(in_plane=32)).grid for index in range(8)]
    assert all(40 <= grid.size[2] <= 80 for grid in grids)
    assert len({grid.size[2] for grid in grids}) > 3
    assert all(2 <= grid.spacing[2] <= 6 for grid in grids)


@pytest.mark.parametrize("name", ["with spaces", "Épreuve é", "肺の患者", "a'b"])
def test_odd_folder_names_work(tmp_path: Path, name: str) -> None:
    folders = make_phantoms(tmp_path / name, 1, 0, PhantomOptions(in_plane=32, slices=2))
    assert folders[0].is_relative_to(tmp_path / name / "dicom")
    assert (tmp_path / name / "truth" / folders[0].name / "labels.nii.gz").exists()


def test_progress_counts_patients(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    make_phantoms(tmp_path, 2, 0, PhantomOptions(in_plane=32, slices=1), lambda done, total: said.append((done, total)))
    assert said == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    "wrong",
    [{"in_plane": 3}, {"in_plane": 10**6}, {"slices": 0}, {"slices": 10**9}, {"in_plane": 2048, "slices": 2000},
     {"orientation": "upside"},
     {"position": "HFDR"}, {"heart_fraction": 1.5}, {"ptv_fraction": float("nan")}],
)  # fmt: skip
def test_impossible_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PhantomOptions(**wrong)


def test_impossible_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make_patient(-1, 0)
    with pytest.raises(UsageError):
        make_phantoms(tmp_path, 0, 1)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(StorageError, match="file"):
        make_phantoms(blocked, 1, 1, PhantomOptions(in_plane=32, slices=1))


def test_outlines_of_a_ring_hold_the_right_pixels_with_and_without_a_keyhole() -> None:
    y, x = np.mgrid[:60, :60].astype(np.float32)
    radius = np.hypot(x - 28.3, y - 31.7)
    field = nudge(np.maximum(radius - 20.2, 9.1 - radius).astype(np.float32))
    centers = np.stack([x, y], axis=-1).reshape(-1, 2)
    for polygons in (outlines(field), keyhole(outlines(field))):
        inside = np.zeros(len(centers), bool)
        for polygon in polygons:
            inside ^= Outline(polygon).contains_points(centers)
        np.testing.assert_array_equal(inside.reshape(60, 60), (radius < 20.2) & (radius > 9.1))
    assert [len(outlines(field)), len(keyhole(outlines(field)))] == [2, 1]


def test_an_outline_is_closed_at_the_border_of_the_image() -> None:
    (polygon,) = outlines(np.full((5, 7), -1.0, np.float32))
    assert polygon.min() < 0
    assert polygon[:, 0].max() > 6
