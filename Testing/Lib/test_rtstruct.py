"""Reading RTSTRUCT files: every field, and every defect that real files have."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from rtstruct_files import FRAME, SERIES, contour_item, image_item, patch, save, square, structure_set

from LungSegmentationLib.dicom import decimal_strings, raw_elements
from LungSegmentationLib.dicom.rtstruct import ContourType, RTStruct, read_rtstruct
from LungSegmentationLib.errors import BadInputError, UnsupportedFileError


def two_squares() -> Dataset:
    return structure_set({"Lung L": [contour_item(square(0)), contour_item(square(3))]})


def roi_names(file: RTStruct) -> list[str]:
    return [roi.name for roi in file.rois]


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("meta", [True, False])
def test_every_field_is_read_with_and_without_file_meta_information(tmp_path: Path, explicit: bool, meta: bool) -> None:
    dataset = structure_set({"Lung L": [contour_item(square(0), images=["1.2.9.0"])], "GTV": []}, numbers=[7, 3])
    file = read_rtstruct(save(dataset, tmp_path / "rs", explicit=explicit, meta=meta))
    assert (file.patient_id, file.patient_name, file.label, file.name) == ("P1", "Doe^Jane", "plan", "first plan")
    assert (file.date, file.time, file.study_uid, file.series_uid) == ("20200103", "101112", "1.2.3.4.7", "1.2.3.4.8")
    assert file.sop_instance_uid == dataset.SOPInstanceUID
    assert file.frame_of_reference_uids == (FRAME,)
    assert file.referenced_series_uids == (SERIES,)
    assert file.referenced_image_uids == {"1.2.9.0", "1.2.9.1", "1.2.9.2"}
    lung, gtv = file.rois
    assert (lung.number, lung.name, lung.interpreted_type, lung.color) == (7, "Lung L", "ORGAN", (255, 128, 0))
    assert lung.frame_of_reference_uid == FRAME
    assert lung.contours[0].type is ContourType.CLOSED_PLANAR
    assert lung.contours[0].image_uids == ("1.2.9.0",)
    np.testing.assert_array_equal(lung.contours[0].points, square(0))
    assert gtv.contours == ()


def test_without_contours_names_and_references_are_the_same(tmp_path: Path) -> None:
    path = save(two_squares(), tmp_path / "rs.dcm")
    light, full = read_rtstruct(path, with_contours=False), read_rtstruct(path)
    assert light.rois[0].contours == ()
    assert roi_names(light) == roi_names(full)
    assert light.referenced_image_uids == full.referenced_image_uids
    assert light.rois[0].interpreted_type == "ORGAN"


@pytest.mark.parametrize("with_contours", [True, False])
def test_where_the_header_lists_no_images_those_of_the_contours_count(tmp_path: Path, with_contours: bool) -> None:
    dataset = structure_set({"GTV": [contour_item(square(0), images=["1.2.77"])]})
    del dataset.ReferencedFrameOfReferenceSequence
    file = read_rtstruct(save(dataset, tmp_path / "rs.dcm"), with_contours=with_contours)
    assert file.referenced_image_uids == {"1.2.77"}
    assert file.frame_of_reference_uids == (FRAME,)


def test_an_empty_roi_and_an_roi_missing_from_the_contours_stay_in_the_list(tmp_path: Path) -> None:
    dataset = structure_set({"empty": [], "missing": [], "GTV": [contour_item(square(0))]})
    del dataset.ROIContourSequence[1]
    file = read_rtstruct(save(dataset, tmp_path / "rs.dcm"))
    assert roi_names(file) == ["empty", "missing", "GTV"]
    assert [len(roi.contours) for roi in file.rois] == [0, 0, 1]
    assert sum("no contours" in warning for warning in file.warnings) == 2


def test_a_file_without_any_contour_or_roi_is_read(tmp_path: Path) -> None:
    dataset = structure_set({"GTV": []})
    del dataset.ROIContourSequence
    assert read_rtstruct(save(dataset, tmp_path / "a.dcm")).rois[0].contours == ()
    del dataset.StructureSetROISequence
    file = read_rtstruct(save(dataset, tmp_path / "b.dcm"))
    assert file.rois == ()
    assert file.warnings


def test_roi_numbers_are_no_index(tmp_path: Path) -> None:
    dataset = structure_set({"a": [contour_item(square(0))], "b": [contour_item(square(9))]}, numbers=[40, 2])
    dataset.ROIContourSequence = list(reversed(dataset.ROIContourSequence))
    file = read_rtstruct(save(dataset, tmp_path / "rs.dcm"))
    assert [roi.contours[0].points[0, 2] for roi in file.rois] == [0, 9]


def test_rois_of_the_same_number_are_paired_in_order_or_left_out_but_never_mixed(tmp_path: Path) -> None:
    dataset = structure_set({"a": [contour_item(square(0))], "b": [contour_item(square(9))]}, numbers=[1, 1])
    file = read_rtstruct(save(dataset, tmp_path / "a.dcm"))
    assert [roi.contours[0].points[0, 2] for roi in file.rois] == [0, 9]
    assert any("number 1" in warning for warning in file.warnings)
    del dataset.ROIContourSequence[0]
    file = read_rtstruct(save(dataset, tmp_path / "b.dcm"))
    assert [len(roi.contours) for roi in file.rois] == [0, 0]
    assert any("cannot be told apart" in warning for warning in file.warnings)


def test_contours_of_an_roi_that_has_no_name_entry_are_reported(tmp_path: Path) -> None:
    dataset = structure_set({"a": [contour_item(square(0))], "b": [contour_item(square(9))]})
    del dataset.StructureSetROISequence[1]
    file = read_rtstruct(save(dataset, tmp_path / "rs.dcm"))
    assert roi_names(file) == ["a"]
    assert any("ROI 2" in warning for warning in file.warnings)


def test_a_reference_item_without_a_uid_is_counted(tmp_path: Path) -> None:
    dataset = structure_set({"GTV": [contour_item(square(0), images=["1.2.9.0"])]})
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].ContourImageSequence.append(image_item(None))
    dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence.append(image_item(None))
    file = read_rtstruct(save(dataset, tmp_path / "rs.dcm"))
    assert file.referenced_image_uids == {"1.2.9.0", "1.2.9.1", "1.2.9.2"}
    assert any("no UID" in warning for warning in file.warnings)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("CLOSED_PLANAR", ContourType.CLOSED_PLANAR),
        ("closed planar", ContourType.CLOSED_PLANAR),
        ("CLOSEDPLANAR_XOR", ContourType.CLOSEDPLANAR_XOR),
        ("OPEN_PLANAR", ContourType.OPEN_PLANAR),
        ("OPEN_NONPLANAR", ContourType.OPEN_NONPLANAR),
        ("POINT", ContourType.POINT),
        ("SPLINE", ContourType.UNKNOWN),
        ("", ContourType.UNKNOWN),
        (None, ContourType.UNKNOWN),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_contour_types(tmp_path: Path, written: str | None, expected: ContourType) -> None:
    file = read_rtstruct(save(structure_set({"a": [contour_item(square(0), written)]}), tmp_path / "rs.dcm"))
    assert file.rois[0].contours[0].type is expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"1\\2\\3\\4\\5\\6", [1, 2, 3, 4, 5, 6]),
        (b" 1.5 \\-2e1\\+.5\\1.\\007\\-0 ", [1.5, -20, 0.5, 1, 7, 0]),
        (b"-123.45678901234567890\\0.30000000000000004\\1e-320", [-123.45678901234567890, 0.30000000000000004, 1e-320]),
        (b"1\\2\\3\\", [1, 2, 3]),
        (b"1\\2\\3\0", [1, 2, 3]),
        (b"1\\\\3", [1, np.nan, 3]),
        (b"1\\x\\3", [1, np.nan, 3]),
        (b"1\\2,5\\3", [1, np.nan, 3]),
        (b"1\0\\2\\\xff", [1, 2, np.nan]),
        (b"", []),
        (b" \0", []),
    ],
)
def test_numbers_of_any_length_and_fault(written: bytes, expected: list[float]) -> None:
    np.testing.assert_array_equal(decimal_strings.numbers(written), np.array(expected, float))


def contour_bytes(path: Path, data: bytes) -> RTStruct:
    dataset = structure_set({"a": [contour_item(np.array([[7777777, 7777777, 7777777]]))]})
    return read_rtstruct(patch(save(dataset, path), b"\\".join([b"7777777.00"] * 3), data))


def test_a_contour_that_ends_within_a_point_keeps_its_whole_points_and_says_so(tmp_path: Path) -> None:
    file = contour_bytes(tmp_path / "rs.dcm", b"0\\0\\0\\10\\0\\0\\10\\10\\0\\5")
    np.testing.assert_array_equal(file.rois[0].contours[0].points, [[0, 0, 0], [10, 0, 0], [10, 10, 0]])
    assert any("within a point" in warning for warning in file.warnings)


def test_a_point_count_that_lies_is_reported_and_not_believed(tmp_path: Path) -> None:
    dataset = two_squares()
    dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 2_000_000_000
    file = read_rtstruct(save(dataset, tmp_path / "rs.dcm"))
    assert len(file.rois[0].contours[0].points) == 4
    assert any("than they claim" in warning for warning in file.warnings)


@pytest.mark.parametrize("number", ["", "x", "1.5", "1e400"])
def test_an_roi_without_a_usable_number_is_reported(tmp_path: Path, number: str) -> None:
    dataset = structure_set({"a": [contour_item(square(0))], "b": [contour_item(square(9))]})
    dataset.StructureSetROISequence[0].ROINumber = 777777
    file = read_rtstruct(patch(save(dataset, tmp_path / "rs.dcm"), b"777777", number.encode()))
    assert roi_names(file) == ["b"]
    assert any("“a”" in warning for warning in file.warnings)


@pytest.mark.parametrize(
    ("character_set", "raw", "expected"),
    [
        ("ISO_IR 192", "Œsophage".encode(), "Œsophage"),
        ("ISO_IR 192", "Moelle épinière".encode("latin-1"), "Moelle épinière"),
        ("ISO_IR 100", "Moelle épinière".encode("latin-1"), "Moelle épinière"),
        ("ISO_IR 100", "Moelle épinière".encode(), "Moelle épinière"),
        (None, "Cœur".encode(), "Cœur"),
        (None, "Cœur".encode("cp1252"), "Cœur"),
        ("ISO_IR 144", "Сердце".encode("iso8859_5"), "Сердце"),
        ("ISO_IR 13", "ﾊｲ".encode("shift_jis"), "ﾊｲ"),
        ("\\ISO 2022 IR 87", "肺".encode("iso2022_jp"), "肺"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xc6\xf3", "폐"),
        ("GB18030", "左肺".encode("gb18030"), "左肺"),
        ("NO SUCH SET", "Poumon gauche é".encode(), "Poumon gauche é"),
        ("ISO_IR 100", b"a\\b", "a\\b"),
        ("ISO_IR 100", b" Lung  L \0", "Lung L"),
        ("ISO_IR 100", b"GTV\n\x1b[31m", "GTV [31m"),
        ("ISO_IR 100", b"../../etc/passwd", "../../etc/passwd"),
        ("ISO_IR 100", b"", ""),
        ("ISO_IR 100", b"a\x81\x8d\xff", "a ÿ"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_names_in_any_character_set(tmp_path: Path, character_set: str | None, raw: bytes, expected: str) -> None:
    dataset = structure_set({"N" * 30: [contour_item(square(0))]})
    del dataset.SpecificCharacterSet
    if character_set is not None:
        dataset.SpecificCharacterSet = "ISO_IR 100"
    path = patch(save(dataset, tmp_path / "rs.dcm"), b"N" * 30, raw)
    if character_set is not None:
        content = path.read_bytes()
        old = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
        assert content.count(old) == 1
        term = character_set.encode() + b" " * (len(character_set) % 2)
        path.write_bytes(content.replace(old, old[:6] + len(term).to_bytes(2, "little") + term))
    assert read_rtstruct(path).rois[0].name == expected


@pytest.mark.parametrize("folder", ["with space", "Poumon é", "肺がん"])
def test_paths_in_any_script(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    path = save(two_squares(), tmp_path / folder / "R S.日本")
    assert read_rtstruct(path).path == path
    assert roi_names(read_rtstruct(str(path))) == ["Lung L"]


def test_a_deflated_file_is_read(tmp_path: Path) -> None:
    dataset = two_squares()
    path = save(dataset, tmp_path / "rs.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    assert len(read_rtstruct(path).rois[0].contours) == 2


def test_a_deflated_file_that_swells_beyond_the_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_elements, "MAX_BYTES", 1 << 16)
    dataset = two_squares()
    path = save(dataset, tmp_path / "rs.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    head = path.read_bytes()[: 144 + int.from_bytes(path.read_bytes()[140:144], "little")]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(head + packer.compress(bytes(1 << 20)) + packer.flush())
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UnsupportedFileError):
        read_rtstruct(path)


def test_a_file_larger_than_the_bound_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_elements, "MAX_BYTES", 1000)
    with pytest.raises(UnsupportedFileError):
        read_rtstruct(save(two_squares(), tmp_path / "rs.dcm"))


def test_another_kind_of_dicom_file_is_named(tmp_path: Path) -> None:
    dataset = two_squares()
    dataset.Modality = "CT"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    path = save(dataset, tmp_path / "ct.dcm")
    for with_contours in (True, False):
        with pytest.raises(UnsupportedFileError, match=r"ct\.dcm.*CT Image Storage"):
            read_rtstruct(path, with_contours=with_contours)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\0" * 1000, b"DICM", b"\0" * 128 + b"DICM", b"hello world " * 99, b"\xff" * 500, b"\x89PNG\r\n"],
)
@pytest.mark.parametrize("with_contours", [True, False])
def test_what_is_no_dicom_file_is_refused_in_a_sentence(tmp_path: Path, content: bytes, with_contours: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="file"):
        read_rtstruct(path, with_contours=with_contours)


def test_a_missing_file_and_a_folder_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(BadInputError, match=path.name):
            read_rtstruct(path)


@pytest.mark.parametrize("undefined_length", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_no_file_that_is_cut_off_loses_contours_in_silence(tmp_path: Path, undefined_length: bool) -> None:
    dataset = structure_set({"a": [contour_item(square(0)), contour_item(square(3))], "b": [contour_item(square(6))]})
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined_length
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined_length
    whole = save(dataset, tmp_path / "whole.dcm").read_bytes()
    path = tmp_path / "cut.dcm"
    for length in range(400, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            file = read_rtstruct(path)
        except BadInputError:
            continue
        points = [contour.points.tolist() for roi in file.rois for contour in roi.contours]
        assert file.warnings or points == [square(z).tolist() for z in (0, 3, 6)], length


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "contours", "points"),
    [
        ("rt_lung1-001/mask_rtstruct/1-1.dcm", 358, 66372),
        ("rt_lung1-001_xio_rtstruct/2.dcm", 689, 137557),
        ("rt_lung1-002/1.dcm", 784, 177005),
        ("rt_ibsi_pat2/DCM_RS_00041.dcm", 7, 461),
        ("rt_ibsi_pat3/DCM_RS_00046.dcm", 12, 1171),
        ("tricky/rtstruct/breast_lung_heart_1slice/rtss.dcm", 441, 88158),
        ("tricky/rtstruct/rt-utils_mock/rt.dcm", 2, 12),
        ("tricky/rtstruct/rt-utils_mock/invalid_reference_rt.dcm", 12, 2104),
        ("tricky/rtstruct/rt-utils_mock/non_existent_reference_rt.dcm", 12, 2104),
        ("tricky/transfer_syntax/rtstruct.dcm", 5, 19),
    ],
)
def test_real_files_are_read_to_the_last_number(data: Path, file: str, contours: int, points: int) -> None:
    ours = [contour for roi in read_rtstruct(data / file).rois for contour in roi.contours]
    assert len(ours) == contours
    assert sum(len(contour.points) for contour in ours) == points
    dataset = pydicom.dcmread(BytesIO((data / file).read_bytes()), force=True)
    theirs = [item for roi in dataset.ROIContourSequence for item in roi.get("ContourSequence") or []]
    for mine, item in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.points.ravel(), np.array(item.ContourData, float))


@pytest.mark.realdata
def test_every_rtstruct_of_the_tricky_folder_is_read_or_refused_in_a_sentence(data: Path) -> None:
    read = 0
    for path in sorted((data / "tricky" / "rtstruct").rglob("*")):
        if path.is_file():
            try:
                read += bool(read_rtstruct(path).rois)
            except UnsupportedFileError:
                assert path.name not in {"rtss.dcm", "rt.dcm"}
    assert read == 4


@pytest.mark.parametrize(
    ("manufacturer", "ways", "predicted"),
    [
        ("LungSegmentation", ("AUTOMATIC", "AUTOMATIC"), True),
        ("LungSegmentation", ("AUTOMATIC", "MANUAL"), False),
        ("LungSegmentation", ("SEMIAUTOMATIC", "SEMIAUTOMATIC"), False),
        ("LungSegmentation", (None, None), False),
        ("Pinnacle3", ("AUTOMATIC", "AUTOMATIC"), False),
        (None, ("AUTOMATIC", "AUTOMATIC"), False),
    ],
)
@pytest.mark.parametrize("with_contours", [True, False])
def test_what_this_software_drew_without_a_person_is_told_from_all_else(
    manufacturer: str | None, ways: tuple[str | None, ...], predicted: bool, with_contours: bool, tmp_path: Path
) -> None:
    dataset = structure_set({"GTV": [contour_item(square(0.0))], "Heart": [contour_item(square(0.0))]})
    if manufacturer:
        dataset.Manufacturer = manufacturer
    for item, way in zip(dataset.StructureSetROISequence, ways, strict=True):
        if way:
            item.ROIGenerationAlgorithm = way
    assert read_rtstruct(save(dataset, tmp_path / "rs.dcm"), with_contours=with_contours).predicted is predicted
