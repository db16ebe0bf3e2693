"""DICOM SEG: the same voxels by highdicom and by plain bits, the right references, codes and colors."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import result_files
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.writers import (
    AlgorithmInfo,
    DicomSource,
    source_of,
    write_result,
    write_rtstruct,
    write_seg,
)
from LungSegmentationLib.dicom.writers.content import decimal_string
from LungSegmentationLib.errors import BadInputError, GeometryError, StorageError, UsageError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.phantom import PhantomOptions, make_patient, write_patient
from LungSegmentationLib.structures import StructureMap

PRESENT = ["gtv", "ptv", "lung_right", "esophagus", "spinal_cord"]


def by_bits(dataset: pydicom.Dataset, image: sitk.Image) -> dict[str, np.ndarray]:
    """Decode a SEG from its packed bits and put each frame where ITK has its position: no DICOM SEG library."""
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    frames = bits[: dataset.NumberOfFrames * dataset.Rows * dataset.Columns].reshape(-1, dataset.Rows, dataset.Columns)
    names = {item.SegmentNumber: item.TrackingID for item in dataset.SegmentSequence}
    masks = {name: np.zeros(image.GetSize()[::-1], bool) for name in names.values()}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
        index = np.array(image.TransformPhysicalPointToContinuousIndex(position))
        assert np.abs(index - index.round()).max() < 1e-3
        assert index[:2] == pytest.approx([0, 0], abs=1e-3)
        identification = (group if "SegmentIdentificationSequence" in group else shared).SegmentIdentificationSequence
        masks[names[identification[0].ReferencedSegmentNumber]][round(index[2])] = frame
    return masks


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("orientation", result_files.ORIENTATIONS)
def test_every_voxel_of_every_segment_comes_back_in_any_orientation(
    tmp_path: Path, orientation: str, overlapping: bool
) -> None:
    ct, source = result_files.source(tmp_path / "ct", orientation)
    structures = result_files.anatomy(overlapping=overlapping)
    path = write_result(structures, source, tmp_path / "seg.dcm", format="dicom-seg")
    dataset = pydicom.dcmread(path)
    assert dataset.SegmentsOverlap == ("YES" if overlapping else "NO")
    found = by_bits(dataset, ct.image)
    assert list(found) == PRESENT
    for key, mask in found.items():
        assert np.array_equal(mask, structures.mask(key)), key


@pytest.mark.parametrize("orientation", ["axial", "feet first", "sagittal", "oblique"])
def test_highdicom_reads_the_same_voxels_by_the_images_that_they_were_made_from(
    tmp_path: Path, orientation: str
) -> None:
    ct, source = result_files.source(tmp_path / "ct", orientation)
    structures = result_files.anatomy()
    seg = highdicom.seg.segread(write_seg(structures, source, tmp_path / "seg.dcm"))
    pixels = seg.get_pixels_by_source_instance(
        list(ct.sop_instance_uids), assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    for place, key in enumerate(PRESENT):
        assert np.array_equal(pixels[..., place] > 0, structures.mask(key)), key
    spacing = seg.get_volume_geometry(allow_missing_positions=True).spacing
    assert sorted(spacing) == pytest.approx(sorted(ct.grid.spacing))


@pytest.mark.parametrize("keys", [PRESENT, ["gtv"]], ids=["many", "one"])
@pytest.mark.parametrize("overlapping", [True, False])
def test_frames_that_do_not_end_with_a_byte_hold_their_own_voxels(
    tmp_path: Path, overlapping: bool, keys: list[str]
) -> None:
    shape = (7, 37, 31)
    ct, source = result_files.source(tmp_path / "ct", shape=shape)
    structures = result_files.anatomy(shape, overlapping=overlapping)
    seg = highdicom.seg.segread(write_seg(structures, source, tmp_path / "seg.dcm", keys=keys))
    assert seg.SegmentsOverlap == ("YES" if overlapping and len(keys) > 1 else "NO")
    pixels = seg.get_pixels_by_source_instance(
        list(ct.sop_instance_uids), assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    for place, key in enumerate(keys):
        assert np.array_equal(pixels[..., place] > 0, structures.mask(key)), key


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("orientation", result_files.ORIENTATIONS)
def test_dciodvfy_finds_no_error(tmp_path: Path, orientation: str, overlapping: bool) -> None:
    _, source = result_files.source(tmp_path / "ct", orientation)
    path = write_seg(result_files.anatomy(overlapping=overlapping), source, tmp_path / "seg.dcm")
    assert result_files.complaints(path) == []


def test_it_says_what_it_is_and_what_it_belongs_to(tmp_path: Path) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    structures = result_files.anatomy()
    path = write_seg(structures, source, tmp_path / "seg.dcm", algorithm=AlgorithmInfo("thorax unet", "3.1"))
    dataset = pydicom.dcmread(path)
    image = pydicom.dcmread(next((tmp_path / "ct").iterdir()))
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID"),
        *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "FrameOfReferenceUID", "SpecificCharacterSet"),
    ):
        assert dataset[keyword].value == image[keyword].value, keyword
    assert (dataset.SegmentationType, dataset.Modality) == ("BINARY", "SEG")
    assert "research" in dataset.SeriesDescription
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == ct.series_uid
    instances = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [item.ReferencedSOPInstanceUID for item in instances] == list(ct.sop_instance_uids)
    for item, key in zip(dataset.SegmentSequence, PRESENT, strict=True):
        structure = structures.label_set[key]
        assert item.SegmentLabel == structure.name
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("thorax unet", "3.1")
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        for sequence, code in (
            (item.SegmentedPropertyCategoryCodeSequence, structure.category),
            (item.SegmentedPropertyTypeCodeSequence, structure.type),
        ):
            assert (sequence[0].CodeValue, sequence[0].CodingSchemeDesignator) == (code.value, code.scheme)
    lung = dataset.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0]
    assert lung.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "24028007"


def test_red_is_the_cielab_value_of_srgb_red(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    dataset = pydicom.dcmread(write_seg(result_files.anatomy(), source, tmp_path / "seg.dcm"))
    # Under D65, as DICOM SEG readers (dcmqi, highdicom) turn it back.
    level, a, b = dataset.SegmentSequence[0].RecommendedDisplayCIELabValue
    assert level / 65535 * 100 == pytest.approx(53.24, abs=0.02)
    assert a / 65535 * 255 - 128 == pytest.approx(80.1, abs=0.05)
    assert b / 65535 * 255 - 128 == pytest.approx(67.2, abs=0.05)


def test_only_slices_that_hold_something_have_frames(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    structures = result_files.anatomy()
    dataset = pydicom.dcmread(write_seg(structures, source, tmp_path / "seg.dcm", keys=["gtv"]))
    assert dataset.NumberOfFrames == np.count_nonzero(structures.mask("gtv").any((1, 2))) == 4


def test_frames_refer_to_the_image_at_their_position_and_interpolated_ones_to_none(tmp_path: Path) -> None:
    files = result_files.series(tmp_path / "ct", "oblique")
    files.pop(4).unlink()
    ct = read_ct(files)
    structures = result_files.anatomy()
    path = write_seg(structures, source_of(ct, files), tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(path)
    places = {
        image.SOPInstanceUID: np.array(image.ImagePositionPatient, float)
        for image in (pydicom.dcmread(file) for file in files)
    }
    without = 0
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        if not group.DerivationImageSequence:
            assert ct.grid.to_index([position])[0, 2] == pytest.approx(4, abs=1e-3)
            without += 1
            continue
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        assert places[item.ReferencedSOPInstanceUID] == pytest.approx(position, abs=1e-3)
    assert without == len(PRESENT)
    for key, mask in by_bits(dataset, ct.image).items():
        assert np.array_equal(mask, structures.mask(key)), key
    assert result_files.complaints(path) == []


def test_a_single_slice_and_a_single_voxel_come_back(tmp_path: Path) -> None:
    files = result_files.series(tmp_path / "ct", shape=(1, 17, 13))
    ct = read_ct(files)
    mask = np.zeros((1, 17, 13), bool)
    mask[0, 16, 12] = True
    structures = StructureMap.from_masks(result_files.anatomy().label_set, {"heart": mask}, mask.shape)
    path = write_seg(structures, source_of(ct, files), tmp_path / "seg.dcm")
    assert np.array_equal(by_bits(pydicom.dcmread(path), ct.image)["heart"], mask)
    assert result_files.complaints(path) == []


def test_an_empty_segmentation_is_refused_in_a_sentence(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    with pytest.raises(BadInputError, match="no structure was found"):
        write_seg(result_files.anatomy(), source, tmp_path / "seg.dcm", keys=["heart"])
    assert not (tmp_path / "seg.dcm").exists()


def test_frames_of_an_enhanced_ct_are_referred_to_by_number(tmp_path: Path) -> None:
    uid, shape = "1.2.3.99", (3, 36, 30)
    grid = Grid((30, 36, 3), (0.8, 1.1, 2.5), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    dataset = pydicom.Dataset()
    for keyword, value in {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1",
        "SOPInstanceUID": uid,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        **{key: result_files.ELEMENTS[key] for key in ("StudyTime", "StudyID", "AccessionNumber", "PatientSex")},
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19500101",
        "StudyDate": "20200101",
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.2",
        "FrameOfReferenceUID": "1.2.3.3",
        "Rows": 36,
        "Columns": 30,
        "NumberOfFrames": 3,
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "MONOCHROME2",
    }.items():
        setattr(dataset, keyword, value)

    def item(**values: object) -> pydicom.Dataset:
        result = pydicom.Dataset()
        for keyword, value in values.items():
            setattr(result, keyword, value)
        return result

    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[1.1, 0.8], SliceThickness=2.5)],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        )
    ]
    # Frames in reverse order of their positions.
    dataset.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * place])]) for place in (2, 1, 0)
    ]
    dataset.PixelData = np.zeros(shape, np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    import ct_files

    file = ct_files.write(tmp_path / "ct" / "enhanced", dataset)
    ct = read_ct([file])
    assert ct.grid.matches(grid)
    with pytest.raises(BadInputError, match="which frame is which slice"):
        source_of(ct)
    source = source_of(ct, [file])
    assert [image.frame for image in source.images if image] == [3, 2, 1]
    structures = result_files.anatomy(shape)
    path = write_seg(structures, source, tmp_path / "seg.dcm", keys=["lung_right"])
    written = pydicom.dcmread(path)
    assert len(written.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    for group in written.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        height = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        assert reference.ReferencedSOPInstanceUID == uid
        assert reference.ReferencedFrameNumber == 3 - round(height / 2.5)
    assert result_files.complaints(path) == []
    rtstruct = pydicom.dcmread(write_rtstruct(structures, source, tmp_path / "rs.dcm"))
    (image,) = rtstruct.ROIContourSequence[2].ContourSequence[0].ContourImageSequence
    assert (image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber) == (uid, 3)
    assert result_files.complaints(tmp_path / "rs.dcm") == []


def test_a_ct_volume_alone_is_enough_and_names_nobody(tmp_path: Path) -> None:
    files = result_files.series(tmp_path / "ct")
    ct = read_ct(files)
    for file in files:
        file.unlink()
    for kind in ("dicom-seg", "rtstruct"):
        path = write_result(result_files.anatomy(), ct, tmp_path / f"{kind}.dcm", format=kind)
        dataset = pydicom.dcmread(path)
        assert (dataset.PatientID, str(dataset.PatientName)) == ("P1", "")
        assert dataset.StudyInstanceUID == ct.study_uid
        assert result_files.complaints(path) == []


def test_values_that_break_their_format_are_left_out_instead_of_written_again(tmp_path: Path) -> None:
    files = result_files.series(tmp_path / "ct")
    damaged = pydicom.dcmread(files[0])
    with pydicom.config.disable_value_validation():
        damaged.PatientBirthDate = "01.02.1950"
        damaged.StudyTime = "quarter past ten"
        damaged.PatientSex = "female"
        damaged.PatientAge = ""
        damaged.save_as(files[0])
    source = source_of(read_ct(files), files)
    for kind, write in (("seg", write_seg), ("rs", write_rtstruct)):
        path = write(result_files.anatomy(), source, tmp_path / f"{kind}.dcm")
        dataset = pydicom.dcmread(path)
        assert (dataset.PatientBirthDate, dataset.StudyTime, dataset.PatientSex) == ("", "", "")
        assert result_files.complaints(path) == []


def test_a_deidentified_source_makes_results_that_say_how(tmp_path: Path) -> None:
    method = pydicom.Dataset()
    method.CodeValue, method.CodingSchemeDesignator, method.CodeMeaning = "113100", "DCM", "Basic Profile"
    _, source = result_files.source(
        tmp_path / "ct", PatientIdentityRemoved="YES", DeidentificationMethodCodeSequence=[method]
    )
    for kind, write in (("seg", write_seg), ("rs", write_rtstruct)):
        path = write(result_files.anatomy(), source, tmp_path / f"{kind}.dcm")
        assert pydicom.dcmread(path).DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert result_files.complaints(path) == []


def test_long_and_blank_texts_are_cut_and_filled_within_the_rules(tmp_path: Path) -> None:
    _, source = result_files.source(tmp_path / "ct")
    for kind, write in (("seg", write_seg), ("rs", write_rtstruct)):
        path = tmp_path / f"{kind}.dcm"
        write(result_files.anatomy(), source, path, description="ä" * 100 + "\\\n", algorithm=AlgorithmInfo("", " "))
        assert pydicom.dcmread(path).SeriesDescription == "ä" * 61 + "..."
        assert result_files.complaints(path) == []


@given(st.floats(-1e300, 1e300))
def test_decimal_strings_have_at_most_16_characters_and_the_digits_that_fit(value: float) -> None:
    text = decimal_string(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8)


def test_what_dicom_needs_is_asked_for_in_a_sentence(tmp_path: Path) -> None:
    structures = result_files.anatomy()
    ct, source = result_files.source(tmp_path / "ct")
    with pytest.raises(BadInputError, match="the input was none"):
        write_result(structures, ct.grid, tmp_path / "x.seg.dcm")
    with pytest.raises(UsageError, match="does not tell"):
        write_result(structures, source, tmp_path / "x.dcm")
    with pytest.raises(UsageError, match="does not end as"):
        write_result(structures, source, tmp_path / "x.nii.gz", format="dicom-seg")
    with pytest.raises(UsageError, match="no format"):
        write_result(structures, source, tmp_path / "x.dcm", format="dicom")
    with pytest.raises(BadInputError, match="liver"):
        write_result(structures, source, tmp_path / "x.seg.dcm", keys=["liver"])
    without = replace(ct, frame_of_reference_uid="")
    with pytest.raises(GeometryError, match="no frame of reference"):
        write_result(structures, without, tmp_path / "x.seg.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


@pytest.mark.parametrize("ending", [".seg.dcm", ".rtstruct.dcm", ".seg.nrrd", ".nii.gz"])
def test_a_full_disk_leaves_no_half_file_and_the_old_one_in_place(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, source = result_files.source(tmp_path / "ct")
    path = tmp_path / "out" / f"result{ending}"
    path.parent.mkdir()
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_result(result_files.anatomy(), source, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_a_phantom_patient_comes_back_from_both_kinds_of_file(tmp_path: Path) -> None:
    patient = make_patient(4, 0, PhantomOptions(in_plane=64, slices=10, orientation="oblique", complete=True))
    series = scan(write_patient(patient, tmp_path)).patients[0].studies[0].series[0]
    ct = read_ct(series)
    source: DicomSource = source_of(ct, series)
    path = write_result(patient.structures, source, tmp_path / "p.seg.dcm")
    for key, mask in by_bits(pydicom.dcmread(path), ct.image).items():
        assert np.array_equal(mask, patient.structures.mask(key)), key
    assert result_files.complaints(path) == []
    rois = {
        roi.name: roi
        for roi in read_rtstruct(write_result(patient.structures, source, tmp_path / "p.rtstruct.dcm")).rois
    }
    for structure in patient.structures.label_set.structures:
        mask = rasterize(rois[structure.tg263].contours, ct.grid).full(ct.grid.shape)
        assert np.array_equal(mask, patient.structures.mask(structure.key)), structure.key


@pytest.mark.realdata
def test_lung1_002_comes_back_voxel_by_voxel(data: Path, tmp_path: Path) -> None:
    series = scan(data / "rt_lung1-002").patients[0].studies[0].series[0]
    ct = read_ct(series)
    names = {"GTV-1": "gtv", "Heart": "heart", "Spinal cord": "spinal_cord", "Lung R": "lung_right"}
    masks = {
        names[roi.name]: rasterize(roi.contours, ct.grid).full(ct.grid.shape)
        for roi in read_rtstruct(data / "rt_lung1-002" / "1.dcm").rois
        if roi.name in names
    }
    structures = StructureMap.from_masks(result_files.anatomy().label_set, masks, ct.grid.shape)
    path = write_seg(structures, source_of(ct, series), tmp_path / "seg.dcm")
    assert result_files.complaints(path) == []
    found = by_bits(pydicom.dcmread(path), ct.image)
    for key, mask in masks.items():
        assert np.array_equal(found[key], mask), key
