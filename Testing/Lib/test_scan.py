"""A scan finds every patient, series and RTSTRUCT below a folder, says how they belong together, and never stops."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ct_files import LEFT_OUT, slice_dataset, write, write_series, write_slice
from pydicom import Dataset, Sequence
from pydicom.uid import ImplicitVRLittleEndian

from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.matching import rois_in_another_frame
from LungSegmentationLib.dicom.rtstruct import ROI, Contour, RTStruct
from LungSegmentationLib.dicom.scan import CTSeries, ScanResult, scan
from LungSegmentationLib.errors import BadInputError, CancelledError

PLANES = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)


def write_rtstruct(
    path: Path,
    *,
    series: str = "",
    images: tuple[str, ...] = (),
    frame: str = "1.2.3.3",
    study: str = "1.2.3.1",
    patient: str = "P1",
    name: str = "Doe^Jane",
    uid: str = "8.8.1",
    heights: tuple[float, ...] = (0, 3, 6),
    shift: float = 0,
    others: tuple[tuple[str, str, tuple[str, ...]], ...] = (),
    drawn_on: tuple[str, ...] = (),
) -> Path:
    """An RTSTRUCT with one square contour at each height, inside the slices that ``write_series`` makes of PLANES.

    ``others`` are more series that it refers to, each with its frame of reference and images; ``drawn_on`` is the image
    that each contour names.
    """
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid, uid + ".1", study
    dataset.Modality, dataset.PatientID, dataset.PatientName = "RTSTRUCT", patient, name
    dataset.StructureSetLabel, dataset.StructureSetDate = "plan", "20200102"

    def item(**elements: object) -> Dataset:
        result = Dataset()
        for keyword, value in elements.items():
            setattr(result, keyword, value)
        return result

    def named(uids: tuple[str, ...]) -> Sequence:
        kind = "1.2.840.10008.5.1.4.1.1.2"
        return Sequence([item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=image) for image in uids])

    references = []
    for own_series, own_frame, own_images in ((series, frame, images), *others):
        referenced = item(FrameOfReferenceUID=own_frame)
        if own_series:
            one = item(SeriesInstanceUID=own_series, ContourImageSequence=named(own_images))
            studies = item(ReferencedSOPInstanceUID=study, RTReferencedSeriesSequence=Sequence([one]))
            referenced.RTReferencedStudySequence = Sequence([studies])
        references.append(referenced)
    dataset.ReferencedFrameOfReferenceSequence = Sequence(references)
    dataset.StructureSetROISequence = Sequence(
        [item(ROINumber=1, ROIName="Lung L", ReferencedFrameOfReferenceUID=frame, ROIGenerationAlgorithm="")]
    )
    contours = []
    for place, height in enumerate(heights):
        corners = [(1, 1), (5, 1), (5, 4), (1, 4)]
        points = [value for x, y in corners for value in (x + shift, y, height)]
        contour = item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=points)
        if images and not series:
            contour.ContourImageSequence = named(images[:1])
        if drawn_on:
            contour.ContourImageSequence = named(drawn_on[place : place + 1])
        contours.append(contour)
    dataset.ROIContourSequence = Sequence([item(ReferencedROINumber=1, ContourSequence=Sequence(contours))])
    return write(path, dataset, ImplicitVRLittleEndian)


def all_series(result: ScanResult) -> list[CTSeries]:
    return [series for patient in result.patients for series in patient.series]


def test_files_without_ending_in_any_depth_are_found(tmp_path: Path) -> None:
    write_series(tmp_path / "a/b/c é/肺", PLANES)
    result = scan(tmp_path)
    (patient,) = result.patients
    (series,) = patient.series
    assert (patient.patient_id, patient.patient_name, patient.birth_date) == ("P1", "Doe^Jane", "19500101")
    assert (series.slice_count, series.rows, series.columns, series.modality) == (4, 6, 8, "CT")
    assert (series.description, series.study_date, series.frame_of_reference_uid) == ("chest", "20200101", "1.2.3.3")
    assert series.positions == pytest.approx((0, 3, 6, 9))
    assert [path.name for path in series.files] == ["0000", "0001", "0002", "0003"]
    assert result.files == 4
    assert result.unreadable == ()


def test_a_scanned_series_can_be_read_as_a_volume(tmp_path: Path) -> None:
    write_series(tmp_path, PLANES)
    (series,) = all_series(scan(tmp_path))
    assert read_ct(series).grid.size == (8, 6, 4)


def test_the_result_can_be_written_as_json(tmp_path: Path) -> None:
    write_series(tmp_path, PLANES)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2")
    (tmp_path / "readme").write_text("hello")
    again = json.loads(json.dumps(scan(tmp_path).as_dict()))
    assert again["patients"][0]["links"][0]["by"] == "reference"
    assert again["unreadable"][0]["path"] == str(tmp_path / "readme")


def test_what_is_no_dicom_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    files = write_series(tmp_path, PLANES)
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "zeros").write_bytes(b"\0" * 10_000)
    (tmp_path / "cut").write_bytes(files[0].read_bytes()[:200])
    result = scan(tmp_path)
    assert {path.name for path, _ in result.unreadable} == {"empty", "text", "zeros", "cut"}
    assert all(reason for _, reason in result.unreadable)
    assert result.files == 8
    assert all_series(result)[0].slice_count == 4


def test_other_modalities_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", PLANES)
    for number, (modality, kind) in enumerate([("MR", "4"), ("RTDOSE", "481.2"), ("RTPLAN", "481.5"), ("MR", "4")]):
        write_slice(
            tmp_path / f"o{number}", PLANES[0], Modality=modality, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}"
        )
    write_slice(tmp_path / "DICOMDIR", PLANES[0], SOPClassUID="1.2.840.10008.1.3.10", Modality=LEFT_OUT)
    result = scan(tmp_path)
    assert result.other == {"MR": 2, "RTDOSE": 1, "RTPLAN": 1, "DICOMDIR": 1}
    assert len(all_series(result)) == 1


def test_a_localizer_in_the_series_does_not_spoil_the_volume(tmp_path: Path) -> None:
    write_series(tmp_path, PLANES)
    write_slice(
        tmp_path / "scout", PLANES[0], SOPInstanceUID="9.1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
    )  # fmt: skip
    result = scan(tmp_path)
    (series,) = all_series(result)
    assert result.other == {"CT localizer": 1}
    assert read_ct(series).grid.size == (8, 6, 4)


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"PixelSpacing": [2, 2]},
        {"FrameOfReferenceUID": "7.7"},
    ],
)
def test_a_series_that_mixes_slices_is_split_with_a_warning(tmp_path: Path, elements: dict[str, object]) -> None:
    write_series(tmp_path, PLANES)
    write_slice(tmp_path / "odd", PLANES[0], SOPInstanceUID="9.1", **elements)
    first, second = all_series(scan(tmp_path))
    assert (first.slice_count, first.part, second.slice_count, second.part) == (4, 1, 1, 2)
    assert "part 1 of 2" in first.warnings[0]
    assert read_ct(first).grid.size == (8, 6, 4)


def test_slices_of_another_size_are_split_off(tmp_path: Path) -> None:
    write_series(tmp_path, PLANES)
    write_slice(tmp_path / "odd", PLANES[0][:3], SOPInstanceUID="9.1")
    assert [(series.rows, series.slice_count) for series in all_series(scan(tmp_path))] == [(6, 4), (3, 1)]


def test_exact_copies_are_left_out_and_told(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", PLANES)
    for file in files[:3]:
        shutil.copy(file, tmp_path / f"copy{file.name}")
    result = scan(tmp_path)
    assert len(all_series(result)[0].files) == 4
    assert any(warning.startswith("3 file(s) are exact copies") for warning in result.warnings)


def test_two_patients_with_one_id_stay_apart(tmp_path: Path) -> None:
    one = {"SeriesInstanceUID": "1.1", "StudyInstanceUID": "1"}
    write_series(tmp_path / "a", PLANES, prefix="1.1", **one)
    write_series(tmp_path / "b", PLANES, prefix="2.1", SeriesInstanceUID="2.1", StudyInstanceUID="2", PatientName="X^Y")
    write_series(tmp_path / "c", PLANES, prefix="3.1", SeriesInstanceUID="3.1", StudyInstanceUID="3",
                 PatientBirthDate="20010101")  # fmt: skip
    result = scan(tmp_path)
    assert [(patient.patient_id, patient.patient_name, patient.birth_date) for patient in result.patients] == [
        ("P1", "Doe^Jane", "19500101"),
        ("P1", "Doe^Jane", "20010101"),
        ("P1", "X^Y", "19500101"),
    ]
    assert all("kept apart" in patient.warnings[0] for patient in result.patients)


def test_one_name_in_two_spellings_is_one_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES[:2], prefix="1.1", SeriesInstanceUID="1.1")
    write_series(tmp_path / "b", PLANES[:2], prefix="2.1", SeriesInstanceUID="2.1", PatientName="DOE^JANE^^")
    assert len(scan(tmp_path).patients) == 1


def test_studies_of_one_patient_are_told_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES, prefix="1.1", SeriesInstanceUID="1.1", StudyInstanceUID="1")
    write_series(tmp_path / "b", PLANES, prefix="2.1", SeriesInstanceUID="2.1", StudyInstanceUID="2")
    (patient,) = scan(tmp_path).patients
    assert [study.study_uid for study in patient.studies] == ["1", "2"]


@pytest.mark.parametrize("name", ["", "ANON", "ANONYMIZED^PATIENT"])
def test_series_without_an_id_of_two_studies_are_two_patients(tmp_path: Path, name: str) -> None:
    nobody = {"PatientID": "", "PatientName": name}
    write_series(tmp_path / "a", PLANES, prefix="1.1", SeriesInstanceUID="1.1", StudyInstanceUID="1", **nobody)
    write_series(tmp_path / "b", PLANES, prefix="2.1", SeriesInstanceUID="2.1", StudyInstanceUID="2", **nobody)
    write_rtstruct(tmp_path / "rs", frame="6.6", study="2", patient="", name=name)
    write_rtstruct(tmp_path / "rs2", frame="6.6", study="3", patient="", name=name, uid="8.8.2")
    patients = scan(tmp_path).patients
    owners = {(patient.patient_name, *(study.study_uid for study in patient.studies)): patient for patient in patients}
    assert owners.keys() == {(name, "1"), (name, "2"), (name,)}
    assert [link.rtstruct.path.name for patient in patients for link in patient.links] == ["rs"]
    assert len(owners[name, "2"].links) == len(owners[name,].rtstructs) == 1


def test_series_without_an_id_of_one_study_are_one_patient(tmp_path: Path) -> None:
    for number in ("1.1", "2.1"):
        write_series(tmp_path / number, PLANES, prefix=number, SeriesInstanceUID=number, PatientID="")
    assert len(scan(tmp_path).patients) == 1


def test_the_only_ct_without_an_id_is_not_taken_for_contours_of_another_study(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES, PatientID="", PatientName="ANON")
    write_rtstruct(tmp_path / "rs", frame="6.6", study="9.9", patient="", name="ANON")
    result = scan(tmp_path)
    assert [patient.links for patient in result.patients] == [(), ()]


def test_files_without_modality_are_taken_for_ct_by_their_class_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path, PLANES, Modality=LEFT_OUT)
    (series,) = all_series(scan(tmp_path))
    assert any("modality" in warning for warning in series.warnings)


def test_files_without_modality_and_class_are_taken_for_ct_by_what_they_hold(tmp_path: Path) -> None:
    for number, plane in enumerate(PLANES):
        dataset = slice_dataset(plane, Modality=LEFT_OUT, SOPClassUID=LEFT_OUT, ImagePositionPatient=[0, 0, 3 * number],
                                SOPInstanceUID=f"1.{number}")  # fmt: skip
        dataset.save_as(tmp_path / str(number), implicit_vr=True, little_endian=True)
    assert all_series(scan(tmp_path))[0].slice_count == 4


def test_ct_images_without_a_position_are_counted(tmp_path: Path) -> None:
    write_slice(tmp_path / "report", PLANES[0], ImagePositionPatient=LEFT_OUT)
    assert scan(tmp_path).other == {"CT without position": 1}


def linked(result: ScanResult) -> list[tuple[str, str, str]]:
    return [
        (link.rtstruct.path.name, link.series.series_uid, link.by)
        for patient in result.patients
        for link in patient.links
    ]


def test_an_rtstruct_is_linked_by_the_series_it_refers_to(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_series(tmp_path / "b", PLANES, prefix="7.1", SeriesInstanceUID="7.7")
    write_rtstruct(tmp_path / "rs", series="7.7", images=("7.1.1", "7.1.2"))
    result = scan(tmp_path)
    assert linked(result) == [("rs", "7.7", "reference")]
    assert result.patients[0].links[0].warnings == ()
    assert result.patients[0].rtstructs[0].roi_names == ("Lung L",)


def test_references_to_images_that_are_not_there_are_told(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", images=("5.5.1", "5.5.2"))
    (link,) = scan(tmp_path).patients[0].links
    assert link.by == "reference"
    assert "none of the 2 images" in link.warnings[0]


def test_a_wrong_frame_of_reference_with_contours_in_the_slices_is_taken_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", frame="6.6")
    (link,) = scan(tmp_path).patients[0].links
    assert link.by == "reference"
    assert "another frame of reference" in link.warnings[0]


@pytest.mark.parametrize("wrong", [{"shift": 100.0}, {"heights": (1.5, 4.5, 7.5)}, {"heights": (300, 303)}])
def test_a_wrong_frame_of_reference_with_contours_elsewhere_is_refused(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    write_series(tmp_path / "a", PLANES)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", frame="6.6", **wrong)  # type: ignore[arg-type]
    result = scan(tmp_path)
    assert linked(result) == []
    assert any("another frame of reference" in warning for warning in result.warnings)
    assert len(result.patients[0].rtstructs) == 1


def test_an_rtstruct_without_a_reference_is_linked_by_frame_of_reference(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_series(tmp_path / "b", PLANES, prefix="7.1", SeriesInstanceUID="7.7", FrameOfReferenceUID="7.3")
    write_rtstruct(tmp_path / "rs", frame="7.3")
    assert linked(scan(tmp_path)) == [("rs", "7.7", "frame of reference")]


def test_of_two_series_in_one_frame_of_reference_the_one_with_the_contours_is_taken(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_series(tmp_path / "b", PLANES, prefix="7.1", SeriesInstanceUID="7.7", origin=(0, 0, 1.5))
    write_rtstruct(tmp_path / "rs", heights=(1.5, 4.5, 7.5))
    assert linked(scan(tmp_path)) == [("rs", "7.7", "frame of reference")]


def test_the_frame_of_reference_of_another_patient_is_not_enough(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_rtstruct(tmp_path / "rs", patient="P2", name="X^Y")
    result = scan(tmp_path)
    assert linked(result) == []
    assert any("another patient" in warning for warning in result.warnings)
    assert [patient.patient_id for patient in result.patients] == ["P1", "P2"]


def test_an_rtstruct_that_refers_to_nothing_is_linked_by_where_its_contours_lie(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_series(tmp_path / "b", PLANES, prefix="7.1", SeriesInstanceUID="7.7", origin=(100, 0, 0))
    write_rtstruct(tmp_path / "rs", series="5.5", frame="6.6")
    result = scan(tmp_path)
    assert linked(result) == [("rs", "1.2.3.2", "geometry")]
    assert "lie in the slices" in result.patients[0].links[0].warnings[0]


def test_geometry_never_links_two_patients_or_two_studies_that_share_an_id(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES, StudyInstanceUID="1")
    write_series(tmp_path / "b", PLANES, prefix="7.1", SeriesInstanceUID="7.7", StudyInstanceUID="2")
    write_rtstruct(tmp_path / "rs", frame="6.6", study="3")
    write_rtstruct(tmp_path / "rs2", frame="6.6", study="1", patient="P2", uid="8.8.2")
    assert linked(scan(tmp_path)) == []


A_IMAGES = tuple(f"1.2.3.4.{number}" for number in range(1, 5))
B_IMAGES = tuple(f"7.1.{number}" for number in range(1, 9))


def write_two_series(folder: Path, **elements: object) -> None:
    """Series 1.2.3.2 of 4 slices and the longer 7.7 of 8."""
    write_series(folder / "a", PLANES)
    write_series(folder / "b", np.concatenate([PLANES, PLANES]), prefix="7.1", SeriesInstanceUID="7.7", **elements)  # type: ignore[arg-type]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("frame", ["9.9", "1.2.3.3"])
def test_of_two_series_that_are_referenced_the_one_with_the_contours_is_taken(
    tmp_path: Path, frame: str, named: bool
) -> None:
    write_two_series(tmp_path, FrameOfReferenceUID=frame, origin=(25, 0, -10), spacing=(1, 1, 5))
    write_rtstruct(
        tmp_path / "rs", series="1.2.3.2", images=A_IMAGES, others=(("7.7", frame, B_IMAGES),),
        drawn_on=A_IMAGES[:3] if named else (),
    )  # fmt: skip
    result = scan(tmp_path)
    assert linked(result) == [("rs", "1.2.3.2", "reference")]
    told = [*result.warnings, *result.patients[0].links[0].warnings]
    assert any("contours do not lie in" in warning for warning in told)
    assert not any("are not there" in warning for warning in told)


@pytest.mark.parametrize("named", [True, False])
def test_a_series_whose_images_do_not_match_is_taken_if_only_its_slices_hold_the_contours(
    tmp_path: Path, named: bool
) -> None:
    write_two_series(tmp_path, origin=(0, 0, 1.5))
    others = (("7.7", "1.2.3.3", B_IMAGES),)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", images=A_IMAGES if named else ("5.1", "5.2"), others=others)
    assert linked(scan(tmp_path)) == [("rs", "1.2.3.2", "reference")]


def test_the_series_whose_images_the_contours_name_comes_first(tmp_path: Path) -> None:
    write_two_series(tmp_path)
    write_rtstruct(tmp_path / "rs", series="7.7", images=B_IMAGES, others=(("1.2.3.2", "1.2.3.3", A_IMAGES),),
                   drawn_on=A_IMAGES[:3])  # fmt: skip
    first, second = scan(tmp_path).patients[0].links
    assert (first.series.series_uid, second.series.series_uid) == ("1.2.3.2", "7.7")
    assert (first.evidence.named, first.evidence.in_frame, first.evidence.fits, first.evidence.images) == (
        3,
        3,
        True,
        4,
    )
    assert (second.evidence.named, second.evidence.images) == (0, 8)


def test_contours_that_name_one_series_and_lie_in_another_are_told(tmp_path: Path) -> None:
    write_two_series(tmp_path, origin=(0, 0, 1.5))
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", images=A_IMAGES, others=(("7.7", "1.2.3.3", B_IMAGES),),
                   drawn_on=B_IMAGES[:3])  # fmt: skip
    best = scan(tmp_path).patients[0].links[0]
    assert best.series.series_uid == "7.7"
    assert any("lie in those of series …1.2.3.2 (4 slice(s))" in warning for warning in best.warnings)


def test_contours_that_name_images_of_two_series_are_counted(tmp_path: Path) -> None:
    write_two_series(tmp_path)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", images=A_IMAGES, others=(("7.7", "1.2.3.3", B_IMAGES),),
                   drawn_on=(B_IMAGES[0], A_IMAGES[1], A_IMAGES[2]))  # fmt: skip
    best = scan(tmp_path).patients[0].links[0]
    assert best.series.series_uid == "1.2.3.2"
    assert any("2 of the 3 contours of rs name images of this series, 1 those" in warning for warning in best.warnings)


@pytest.mark.parametrize("other", [{"PatientID": "A1"}, {"PatientName": "X^Y"}])
def test_a_ct_of_another_patient_with_the_same_uids_is_not_taken(tmp_path: Path, other: dict[str, str]) -> None:
    write_series(tmp_path / "a", PLANES, **other)
    write_series(tmp_path / "b", PLANES)
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", images=A_IMAGES)
    (link,) = [link for patient in scan(tmp_path).patients for link in patient.links]
    assert (link.series.patient_id, link.series.patient_name) == ("P1", "Doe^Jane")


def test_an_rtstruct_that_fits_two_patients_is_given_to_one_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_series(tmp_path / "b", PLANES, PatientBirthDate="20010101")
    write_rtstruct(tmp_path / "rs", series="1.2.3.2", images=A_IMAGES)
    result = scan(tmp_path)
    assert len(linked(result)) == 1
    assert any("CTs of 2 patients fit" in warning for warning in result.warnings)


def test_the_only_ct_of_an_id_is_not_taken_for_contours_of_another_name_and_study(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    write_rtstruct(tmp_path / "rs", frame="6.6", study="9.9", name="X^Y")
    assert linked(scan(tmp_path)) == []
    write_rtstruct(tmp_path / "rs", frame="6.6", study="9.9", name="DOE JANE")
    assert linked(scan(tmp_path)) == [("rs", "1.2.3.2", "geometry")]


def rois_in_frames(*frames: str, enclosing: bool = True) -> RTStruct:
    square = np.array([[0, 0, 0], [9, 0, 0], [9, 9, 0.0]])[: 3 if enclosing else 1]
    rois = tuple(
        ROI(number, f"ROI {number}", frame_of_reference_uid=frame, contours=(Contour(square),))
        for number, frame in enumerate(frames, 1)
    )
    return RTStruct(Path("rs"), "", "", "", "", "", "", "", "", "", (), (), frozenset(), rois, ())


@pytest.mark.parametrize(
    ("frames", "elsewhere"),
    [
        (("F", "F", "G"), {3}),
        (("F", "", "G", "H"), {3, 4}),
        (("F", "F"), set()),
        (("G", "H", ""), set()),  # none has the CT's: geometry decided for all
        (("", ""), set()),
        ((), set()),
    ],
)
def test_rois_in_another_frame_of_reference_are_found_if_a_sibling_has_that_of_the_ct(
    frames: tuple[str, ...], elsewhere: set[int]
) -> None:
    assert rois_in_another_frame(rois_in_frames(*frames), "F") == elsewhere
    assert rois_in_another_frame(rois_in_frames(*frames), "") == set()


def test_a_point_in_the_frame_of_the_ct_is_no_sibling_that_counts() -> None:
    point, drawn = rois_in_frames("F", enclosing=False).rois[0], rois_in_frames("F", "G").rois[1]
    assert rois_in_another_frame(replace(rois_in_frames(), rois=(point, drawn)), "F") == set()


def test_a_link_that_leads_back_is_entered_once(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PLANES)
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    result = scan(tmp_path)
    assert result.files == 4
    assert [path.name for path, _ in result.unreadable] == ["nowhere"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a Unix matter")
def test_a_named_pipe_does_not_hang_the_scan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [path.name for path, _ in scan(tmp_path).unreadable] == ["pipe"]


def test_an_empty_folder_is_no_error_but_a_missing_one_is(tmp_path: Path) -> None:
    assert scan(tmp_path).patients == ()
    with pytest.raises(BadInputError, match="no such folder"):
        scan(tmp_path / "nothing")


def test_progress_is_told_and_can_end_the_scan(tmp_path: Path) -> None:
    write_series(tmp_path, PLANES)
    told: list[tuple[int, int]] = []
    scan(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)

    def stop(done: int, total: int) -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        scan(tmp_path, progress=stop)


def test_the_number_of_threads_does_not_change_the_result(tmp_path: Path) -> None:
    for name in "abc":
        write_series(tmp_path / name, PLANES, prefix=f"{ord(name)}.1", SeriesInstanceUID=f"{ord(name)}.2")
    assert scan(tmp_path, threads=1) == scan(tmp_path, threads=8)


@pytest.mark.realdata
def test_real_patients_are_found_with_their_rtstructs(data: Path) -> None:
    result = scan(data)
    found = {
        (link.rtstruct.path.relative_to(data).parts[0], link.series.files[0].relative_to(data).parts[0]): link.by
        for patient in result.patients
        for link in patient.links
        if "tricky" not in str(link.series.files[0])
    }
    assert found == {
        ("rt_lung1-001", "rt_lung1-001"): "reference",
        # the same patient from another release of the archive: every UID differs
        ("rt_lung1-001_xio_rtstruct", "rt_lung1-001"): "geometry",
        ("rt_lung1-002", "rt_lung1-002"): "reference",
        ("rt_lung1-002_second_rtstruct", "rt_lung1-002"): "reference",
        ("rt_ibsi_pat2", "rt_ibsi_pat2"): "reference",
        ("rt_ibsi_pat3", "rt_ibsi_pat3"): "reference",
    }
    counts = {patient.patient_id: [series.slice_count for series in patient.series] for patient in result.patients}
    assert counts["LUNG1-001"] == [134]
    assert counts["LUNG1-002"] == [111]
    assert result.other["RTPLAN"] == 2
    assert result.other["RTDOSE"] == 1
    assert result.other["CT localizer"] == 2
    assert result.other["MR"] == 17


@pytest.mark.realdata
def test_the_rtstruct_with_a_wrong_frame_of_reference_is_linked_with_a_warning(data: Path) -> None:
    result = scan(data / "tricky/rtstruct/rt-utils_mock")
    (patient,) = result.patients
    links = {link.rtstruct.path.name: link for link in patient.links}
    assert {name: link.by for name, link in links.items()} == {
        "rt.dcm": "reference",
        "invalid_reference_rt.dcm": "reference",
        "non_existent_reference_rt.dcm": "reference",
    }
    assert "another frame of reference" in links["rt.dcm"].warnings[0]


@pytest.mark.realdata
def test_an_rtstruct_beside_one_of_its_98_slices_says_what_is_missing(data: Path) -> None:
    (patient,) = scan(data / "tricky/rtstruct/breast_lung_heart_1slice").patients
    assert patient.links[0].warnings == ("97 of the 98 images that rtss.dcm names are not there.",)


@pytest.mark.realdata
def test_files_whose_uids_are_empty_are_one_series(data: Path) -> None:
    (series,) = all_series(scan(data / "totalseg_j2k/ct"))
    assert series.slice_count == 20
    assert len(set(series.sop_instance_uids)) == 20  # from the meta information
    assert any("no series UID" in warning for warning in series.warnings)
