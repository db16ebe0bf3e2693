"""RTSTRUCT: the same voxels by independent readers, the right references, what planning systems ask for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import result_files
import SimpleITK as sitk

from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.writers import AlgorithmInfo, source_of, write_result, write_rtstruct
from LungSegmentationLib.errors import StorageError
from LungSegmentationLib.structures import StructureMap

LUNG1_002 = {
    "gtv": "GTV-1",
    "ptv": "PTV-1",
    "heart": "Heart",
    "esophagus": "Esophagus",
    "spinal_cord": "Spinal cord",
    "lung_right": "Lung R",
    "lung_left": "Lung L",
}


def plastimatch_masks(rtstruct: Path, ct: Path, out: Path) -> dict[str, np.ndarray]:
    command = [
        *("plastimatch", "convert", "--input", str(rtstruct), "--referenced-ct", str(ct)),
        *("--output-prefix", str(out), "--prefix-format", "nrrd"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return {path.stem: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0 for path in out.iterdir()}


def parity(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Even-odd at pixel centers, in plain floating point."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    inside = np.zeros(shape, bool)
    for (x, y), (u, v) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y != v:
            inside ^= ((y > rows) != (v > rows)) & (columns < x + (rows - y) * (u - x) / (v - y))
    return inside


@pytest.mark.parametrize("orientation", result_files.ORIENTATIONS)
def test_contours_give_back_every_voxel_in_any_orientation(tmp_path: Path, orientation: str) -> None:
    ct, source = result_files.source(tmp_path / "ct", orientation)
    structures = result_files.anatomy()
    path = write_result(structures, source, tmp_path / "rs.dcm", format="rtstruct")
    file = read_rtstruct(path)
    assert file.warnings == ("ROI “Lung_L” (4) has no contours.", "ROI “Heart” (5) has no contours.")
    for structure, roi in zip(structures.label_set.structures, file.rois, strict=True):
        assert roi.name == structure.tg263
        mask = rasterize(roi.contours, ct.grid)
        assert np.array_equal(mask.full(ct.grid.shape), structures.mask(structure.key)), structure.key
        assert mask.report.used == mask.report.contours


@pytest.mark.parametrize("orientation", ["axial", "oblique", "coronal"])
def test_contours_lie_where_itk_puts_the_voxels_and_refer_to_the_image_there(tmp_path: Path, orientation: str) -> None:
    ct, source = result_files.source(tmp_path / "ct", orientation)
    structures = result_files.anatomy()
    dataset = pydicom.dcmread(write_rtstruct(structures, source, tmp_path / "rs.dcm"))
    places = {
        image.SOPInstanceUID: np.array(image.ImagePositionPatient, float)
        for image in (pydicom.dcmread(file) for file in (tmp_path / "ct").iterdir())
    }
    found = {key: np.zeros(structures.shape, bool) for key in structures.label_set.keys}
    for item in dataset.ROIContourSequence:
        key = structures.label_set.by_label(item.ReferencedROINumber).key
        for contour in item.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            index = np.array([ct.image.TransformPhysicalPointToContinuousIndex(point) for point in points.tolist()])
            depth = round(float(index[0, 2]))
            assert np.abs(index[:, 2] - depth).max() < 1e-3
            (image,) = contour.ContourImageSequence
            normal = ct.grid.axes[:, 2]
            assert abs((points[0] - places[image.ReferencedSOPInstanceUID]) @ normal) < 1e-3
            found[key][depth] ^= parity(index[:, :2], structures.shape[1:])
    for key, mask in found.items():
        assert np.array_equal(mask, structures.mask(key)), key


@pytest.mark.oracle
@pytest.mark.parametrize("orientation", ["axial", "feet first"])
def test_plastimatch_reads_the_same_voxels_with_holes_and_islands(tmp_path: Path, orientation: str) -> None:
    ct, source = result_files.source(tmp_path / "ct", orientation)
    structures = result_files.anatomy()
    write_rtstruct(structures, source, tmp_path / "rs.dcm", keys=["gtv", "ptv", "lung_right", "spinal_cord"])
    plastimatch_masks(tmp_path / "rs.dcm", tmp_path / "ct", tmp_path / "out")
    for name, key in {"GTV": "gtv", "PTV": "ptv", "Lung_R": "lung_right", "SpinalCord": "spinal_cord"}.items():
        image = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nrrd"))
        # plastimatch may turn rows and slices round; where each voxel lies is what counts.
        onto = sitk.Resample(image, ct.image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
        assert np.array_equal(sitk.GetArrayFromImage(onto) > 0, structures.mask(key)), key


@pytest.mark.parametrize("orientation", result_files.ORIENTATIONS)
def test_dciodvfy_finds_no_error(tmp_path: Path, orientation: str) -> None:
    _, source = result_files.source(tmp_path / "ct", orientation)
    path = write_rtstruct(result_files.anatomy(), source, tmp_path / "rs.dcm", description="Läßt sich lesen")
    assert result_files.complaints(path) == []


def test_no_decimal_string_is_longer_than_16_characters_and_points_are_counted(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct", "oblique")
    dataset = pydicom.dcmread(write_rtstruct(result_files.anatomy(), source, tmp_path / "rs.dcm"))
    for item in dataset.ROIContourSequence:
        for contour in item.get("ContourSequence", []):
            values = contour.get_item("ContourData").value.decode("ascii").strip().split("\\")
            assert max(map(len, values)) <= 16
            assert len(values) == 3 * contour.NumberOfContourPoints >= 12
            points = np.array(values, float).reshape(-1, 3)
            assert (points != np.roll(points, 1, axis=0)).any(1).all()


def test_it_says_what_it_is_and_what_it_belongs_to(tmp_path: Path) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    structures = result_files.anatomy()
    algorithm = AlgorithmInfo("thorax unet", "3.1")
    dataset = pydicom.dcmread(write_rtstruct(structures, source, tmp_path / "rs.dcm", algorithm=algorithm))
    image = pydicom.dcmread(next((tmp_path / "ct").iterdir()))
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID"),
        *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"),
    ):
        assert dataset[keyword].value == image[keyword].value, keyword
    assert dataset.SeriesInstanceUID != image.SeriesInstanceUID
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert "research" in dataset.SeriesDescription
    assert dataset.Modality == "RTSTRUCT"
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == ct.frame_of_reference_uid
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == ct.series_uid
    assert [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence] == list(ct.sop_instance_uids)
    assert {item.ReferencedSOPClassUID for item in series.ContourImageSequence} == {image.SOPClassUID}
    kinds = {item.ReferencedROINumber: item.RTROIInterpretedType for item in dataset.RTROIObservationsSequence}
    colors = {item.ReferencedROINumber: tuple(item.ROIDisplayColor) for item in dataset.ROIContourSequence}
    for roi, structure in zip(dataset.StructureSetROISequence, structures.label_set.structures, strict=True):
        assert roi.ROIName == structure.tg263
        assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
        assert roi.ROIGenerationDescription == "thorax unet 3.1"
        assert roi.ReferencedFrameOfReferenceUID == ct.frame_of_reference_uid
        assert kinds[roi.ROINumber] == structure.interpreted_type
        assert colors[roi.ROINumber] == structure.color
    assert [kinds[number] for number in (1, 2, 3)] == ["GTV", "PTV", "ORGAN"]


def test_a_prediction_is_known_again_and_what_a_person_mended_is_not_taken_for_one(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    for automatic in (True, False):
        algorithm = AlgorithmInfo("thorax unet", "3.1", automatic=automatic)
        written = write_rtstruct(result_files.anatomy(), source, tmp_path / f"{automatic}.dcm", algorithm=algorithm)
        assert read_rtstruct(written).predicted is automatic


def test_each_file_is_an_instance_and_a_series_of_its_own(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    files = [pydicom.dcmread(write_rtstruct(result_files.anatomy(), source, tmp_path / f"{n}.dcm")) for n in range(2)]
    assert files[0].SOPInstanceUID != files[1].SOPInstanceUID
    assert files[0].SeriesInstanceUID != files[1].SeriesInstanceUID
    assert files[0].SOPInstanceUID == files[0].file_meta.MediaStorageSOPInstanceUID


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Zoë"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_names_in_other_scripts_are_carried_over_in_their_character_set(
    tmp_path: Path, character_set: str | list[str], name: str
) -> None:
    _, source = result_files.source(tmp_path / "ct", SpecificCharacterSet=character_set, PatientName=name)
    dataset = pydicom.dcmread(write_rtstruct(result_files.anatomy(), source, tmp_path / "rs.dcm"))
    assert str(dataset.PatientName) == name
    assert dataset.SpecificCharacterSet == character_set
    image = pydicom.dcmread(next((tmp_path / "ct").iterdir()))
    assert dataset.PatientName == image.PatientName


def test_a_description_that_the_character_set_cannot_hold_makes_the_file_utf_8(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    path = write_rtstruct(result_files.anatomy(), source, tmp_path / "rs.dcm", description="自動輪郭抽出")
    dataset = pydicom.dcmread(path)
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert (dataset.SeriesDescription, str(dataset.PatientName)) == ("自動輪郭抽出", "Müller^Zoë")


def test_a_slice_that_was_interpolated_has_contours_that_refer_to_no_image(tmp_path: Path) -> None:
    files = result_files.series(tmp_path / "ct")
    files.pop(4).unlink()
    ct = read_ct(files)
    assert ct.sop_instance_uids[4] is None
    structures = result_files.anatomy()
    dataset = pydicom.dcmread(write_rtstruct(structures, source_of(ct, files), tmp_path / "rs.dcm"))
    depth = {4: 0, 5: 0}
    for contour in dataset.ROIContourSequence[2].ContourSequence:
        point = [float(value) for value in contour.ContourData[:3]]
        index = round(ct.image.TransformPhysicalPointToContinuousIndex(point)[2])
        if index in depth:
            depth[index] += 1
            assert ("ContourImageSequence" in contour) == (index != 4)
    assert min(depth.values()) > 0
    assert result_files.complaints(tmp_path / "rs.dcm") == []


def test_a_field_moves_the_contours_and_not_the_voxels(tmp_path: Path) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    rows, columns = np.mgrid[: ct.grid.size[1], : ct.grid.size[0]]
    distance = 8.4 - np.hypot(rows - 17.2, columns - 14.9)
    mask = np.broadcast_to(distance > 0, ct.grid.shape)
    structures = StructureMap.from_masks(result_files.anatomy().label_set, {"heart": mask}, ct.grid.shape)
    path = write_rtstruct(structures, source, tmp_path / "rs.dcm", keys=["heart"], field=lambda *_: distance)
    (roi,) = read_rtstruct(path).rois
    for contour in roi.contours:
        index = ct.grid.to_index(contour.points)
        assert np.abs(np.hypot(index[:, 0] - 14.9, index[:, 1] - 17.2) - 8.4).mean() < 0.02
    assert np.array_equal(rasterize(roi.contours, ct.grid).full(ct.grid.shape), mask)


def test_nothing_found_is_written_as_rois_without_contours(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    empty = StructureMap(result_files.anatomy().label_set, np.zeros(result_files.SHAPE, np.uint8))
    path = write_rtstruct(empty, source, tmp_path / "rs.dcm", keys=["gtv"])
    (roi,) = read_rtstruct(path).rois
    assert (roi.name, roi.contours) == ("GTV", ())
    assert result_files.complaints(path) == []


def test_a_folder_with_other_letters_is_made_and_one_that_is_a_file_is_refused(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    path = write_rtstruct(result_files.anatomy(), source, tmp_path / "résultats 結果" / "Öse (1).dcm")
    assert [file.name for file in path.parent.iterdir()] == ["Öse (1).dcm"]
    with pytest.raises(StorageError, match="cannot be written"):
        write_rtstruct(result_files.anatomy(), source, path / "below.dcm")


@pytest.mark.realdata
@pytest.mark.oracle
def test_lung1_002_comes_back_from_plastimatch(data: Path, tmp_path: Path) -> None:
    series = scan(data / "rt_lung1-002").patients[0].studies[0].series[0]
    ct = read_ct(series)
    names = {roi: key for key, roi in LUNG1_002.items()}
    masks = {
        names[roi.name]: rasterize(roi.contours, ct.grid).full(ct.grid.shape)
        for roi in read_rtstruct(data / "rt_lung1-002" / "1.dcm").rois
        if roi.name in names
    }
    structures = StructureMap.from_masks(result_files.anatomy().label_set, masks, ct.grid.shape)
    label_map = StructureMap.from_label_map(structures.label_set, structures.label_map())
    folder = tmp_path / "ct"
    folder.mkdir()
    for file in series.files:
        shutil.copy(file, folder)
    for kind, result in (("drawn", structures), ("labels", label_map)):
        path = write_rtstruct(result, source_of(ct, series), tmp_path / f"{kind}.dcm")
        assert result_files.complaints(path) == []
        found = plastimatch_masks(path, folder, tmp_path / kind)
        for structure in result.label_set.structures:
            theirs, ours = found[structure.tg263], result.mask(structure.key)
            dice = 2 * np.count_nonzero(theirs & ours) / (np.count_nonzero(theirs) + np.count_nonzero(ours))
            assert dice >= 0.9999, (kind, structure.key)
