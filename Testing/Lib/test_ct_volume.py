"""CT series made in code become the right volume, or are refused in a sentence."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ct_files import AXIAL, LEFT_OUT, slice_dataset, write, write_series, write_slice
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless
from scipy.spatial.transform import Rotation

from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.errors import BadInputError, GeometryError, LungSegError, StorageError, UnsupportedFileError

UNITS = [sign * np.eye(3)[axis] for axis in range(3) for sign in (1, -1)]
ORIENTATIONS = [
    (*row, *column) for row, column in itertools.product(UNITS, UNITS) if abs(float(row @ column)) < 0.5
]  # all 24: axial, sagittal and coronal, head first and feet first, from either side


def stored_values(slices: int, rows: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, (slices, rows, columns)).astype(np.int16)


def array(volume: object) -> np.ndarray:
    return sitk.GetArrayFromImage(volume.image)  # type: ignore[attr-defined]


def assert_each_voxel_at_its_place(folder: Path, orientation: tuple[float, ...], seed: int) -> None:
    stored = stored_values(4, 5, 6, seed)
    origin, spacing = (-12.5, 30.25, -100.0), (0.7, 1.3, 2.5)
    files = write_series(folder, stored, origin=origin, orientation=orientation, spacing=spacing)
    volume = read_ct([files[k] for k in np.random.default_rng(seed).permutation(len(files))])
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for k, j, i in itertools.product(range(4), range(5), range(6)):
        place = np.array(origin) + i * 0.7 * row + j * 1.3 * column + k * 2.5 * np.cross(row, column)
        index = volume.image.TransformPhysicalPointToContinuousIndex(place.tolist())
        assert np.abs(np.array(index) - np.rint(index)).max() < 1e-4
        assert volume.image[tuple(round(value) for value in index)] == stored[k, j, i] - 1024


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "_".join(f"{int(v):+d}" for v in o))
def test_each_voxel_lies_where_its_header_says_in_all_axis_orders(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    assert_each_voxel_at_its_place(tmp_path, orientation, seed=3)


@settings(max_examples=25, deadline=None)
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), seed=st.integers(0, 99))
def test_each_voxel_lies_where_its_header_says_in_any_oblique_orientation(
    tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, float, float], seed: int
) -> None:
    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    orientation = tuple(round(float(value), 9) for value in (*turned[0], *turned[1]))
    assert_each_voxel_at_its_place(tmp_path_factory.mktemp("oblique"), orientation, seed)


@pytest.mark.parametrize("orientation", [ORIENTATIONS[0], ORIENTATIONS[5], ORIENTATIONS[13], ORIENTATIONS[22]])
def test_a_voxel_has_the_physical_position_that_simpleitk_gives_its_slice(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    stored = stored_values(3, 4, 5)
    files = write_series(tmp_path, stored, origin=(7, -8, 9), orientation=orientation, spacing=(0.5, 0.75, 2))
    volume = read_ct(files)
    for k, file in enumerate(files):
        alone = sitk.ReadImage(str(file))
        place = alone.TransformIndexToPhysicalPoint((4, 1, 0))
        assert volume.image[volume.image.TransformPhysicalPointToIndex(place)] == stored[k, 1, 4] - 1024
        assert volume.image.GetDirection()[2::3] == pytest.approx(alone.GetDirection()[2::3])


def test_the_third_axis_points_along_increasing_position_on_the_normal(tmp_path: Path) -> None:
    feet_first = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    volume = read_ct(write_series(tmp_path, stored_values(3, 4, 5), orientation=feet_first, origin=(0, 0, 50)))
    assert volume.image.GetDirection()[2::3] == pytest.approx((0, 0, -1))
    assert volume.image.GetOrigin()[2] == pytest.approx(50)


def test_slope_and_intercept_are_those_of_each_slice(tmp_path: Path) -> None:
    plane = np.array([[0, 100], [200, 300]], np.int16)
    scales = [(1, -1024), (2, -1000), (0.5, 0), (1, 0)]
    files = [
        write_slice(tmp_path / str(k), plane, RescaleSlope=str(slope), RescaleIntercept=str(intercept),
                    ImagePositionPatient=[0, 0, 3 * k], SOPInstanceUID=f"1.2.{k}")
        for k, (slope, intercept) in enumerate(scales)
    ]  # fmt: skip
    assert array(read_ct(files)).tolist() == [
        [[-1024, -924], [-824, -724]],
        [[-1000, -800], [-600, -400]],
        [[0, 50], [100, 150]],
        [[0, 100], [200, 300]],
    ]


def test_a_missing_slope_and_intercept_are_one_and_zero_with_a_warning(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "a", np.array([[-5, 7]], np.int16), RescaleSlope=LEFT_OUT, RescaleIntercept=LEFT_OUT)
    volume = read_ct([file])
    assert array(volume).tolist() == [[[-5, 7]]]
    assert any(
        "slope is missing in 1" in warning and "intercept is missing in 1" in warning for warning in volume.warnings
    )


@pytest.mark.parametrize(
    ("element", "value", "numbers"),
    [("RescaleIntercept", "-1024", "intercept is missing in 2 of 5 slices and -1024"),
     ("RescaleSlope", "2", "slope is missing in 2 of 5 slices and 2 in")],
)  # fmt: skip
def test_a_scale_that_only_some_slices_give_is_refused_with_the_numbers(
    tmp_path: Path, element: str, value: str, numbers: str
) -> None:
    whole = {"RescaleSlope": "1", "RescaleIntercept": "0", element: value}
    stored = stored_values(5, 4, 4)
    files = write_series(tmp_path / "a", stored, **whole)
    files[1:3] = write_series(tmp_path / "b", stored, **{**whole, element: LEFT_OUT})[1:3]
    with pytest.raises(BadInputError, match=numbers) as caught:
        read_ct(files)
    assert caught.value.hint


def test_a_scale_that_only_some_slices_give_does_no_harm_where_it_changes_nothing(tmp_path: Path) -> None:
    stored = stored_values(3, 4, 4)
    files = write_series(tmp_path / "a", stored, RescaleSlope="1", RescaleIntercept="0")
    files[1] = write_series(tmp_path / "b", stored, RescaleSlope=LEFT_OUT, RescaleIntercept=LEFT_OUT)[1]
    volume = read_ct(files)
    np.testing.assert_array_equal(array(volume), stored)
    assert any("missing in 1 slice" in warning for warning in volume.warnings)


def test_values_below_air_are_clipped_to_minus_1024(tmp_path: Path) -> None:
    stored = np.array([[-2000, -1999, 0, 5]], np.int16)
    assert array(read_ct([write_slice(tmp_path / "a", stored, PixelPaddingValue=-2000)])).tolist() == [
        [[-1024, -1024, -1024, -1019]]
    ]


def test_a_high_padding_value_becomes_air(tmp_path: Path) -> None:
    stored = np.array([[65535, 1024, 0]], np.uint16)
    volume = read_ct([write_slice(tmp_path / "a", stored, PixelPaddingValue=65535)])
    assert array(volume).tolist() == [[[-1024, 0, -1024]]]
    assert not any("clipped" in warning for warning in volume.warnings)


def test_a_range_of_padding_values_becomes_air(tmp_path: Path) -> None:
    stored = np.array([[60000, 60500, 61000, 1024]], np.uint16)
    file = write_slice(tmp_path / "a", stored, PixelPaddingValue=60000, PixelPaddingRangeLimit=61000)
    assert array(read_ct([file])).tolist() == [[[-1024, -1024, -1024, 0]]]


def test_a_padding_value_that_tissue_has_too_punches_no_holes(tmp_path: Path) -> None:
    stored = np.array([[0, 40, -800]], np.int16)
    volume = read_ct([write_slice(tmp_path / "a", stored, PixelPaddingValue=0, RescaleIntercept="0")])
    assert array(volume).tolist() == [[[0, 40, -800]]]
    assert any("padding value is 0 HU" in warning for warning in volume.warnings)


def test_monochrome1_does_not_change_hu(tmp_path: Path) -> None:
    stored = np.array([[0, 1064]], np.uint16)
    volume = read_ct([write_slice(tmp_path / "a", stored, PhotometricInterpretation="MONOCHROME1")])
    assert array(volume).tolist() == [[[-1024, 40]]]
    assert any("MONOCHROME1" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.uint16, 12), (np.uint16, 16), (np.int16, 16), (np.uint8, 8), (np.int32, 32)]
)
def test_signed_and_unsigned_pixels_of_any_depth_give_the_same_hu(tmp_path: Path, dtype: type, bits: int) -> None:
    stored = np.array([[0, 1, 200], [127, 64, 3]], dtype)
    file = write_slice(tmp_path / "a", stored, BitsStored=bits, HighBit=bits - 1)
    assert array(read_ct([file])).tolist() == [[[-1024, -1023, -824], [-897, -960, -1021]]]


def test_negative_values_of_twelve_bits_are_extended_by_their_sign(tmp_path: Path) -> None:
    # −5 in 12 bits is 0xFFB; the four bits above hold rubbish.
    stored = np.array([[0x0FFB, 0xAFFB, 0x0064]], np.uint16).view(np.int16)
    volume = read_ct([write_slice(tmp_path / "a", stored, BitsStored=12, HighBit=11, RescaleIntercept="0")])
    assert array(volume).tolist() == [[[-5, -5, 100]]]
    assert any("more bits" in warning for warning in volume.warnings)


def test_a_high_bit_above_the_stored_bits_shifts_the_value(tmp_path: Path) -> None:
    stored = np.array([[100 << 4, 2000 << 4]], np.uint16)
    volume = read_ct([write_slice(tmp_path / "a", stored, BitsStored=12, HighBit=15)])
    assert array(volume).tolist() == [[[-924, 976]]]


def test_values_beyond_int16_are_clipped_with_a_warning(tmp_path: Path) -> None:
    stored = np.array([[65535, 40000, 32767, 5]], np.uint16)
    volume = read_ct([write_slice(tmp_path / "a", stored, RescaleIntercept="0")])
    assert array(volume).tolist() == [[[32767, 32767, 32767, 5]]]
    assert any(re.search(r"^2 voxel.*32767", warning) for warning in volume.warnings)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
@pytest.mark.parametrize("shape", [(9, 7), (16, 12)])
def test_each_transfer_syntax_gives_the_same_volume(tmp_path: Path, syntax: str, shape: tuple[int, int]) -> None:
    stored = stored_values(1, *shape)[0]
    dataset = slice_dataset(stored)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = stored.astype(">i2").tobytes()
        dataset["PixelData"].VR = "OW"
    path = tmp_path / "a"
    if syntax == RLELossless:
        dataset.compress(RLELossless, stored, encoding_plugin="pydicom", generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    else:
        write(path, dataset, syntax)
    assert np.array_equal(array(read_ct([path]))[0], stored - 1024)


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values(7, 3, 3))
    forward, backward = read_ct(files), read_ct(files[::-1])
    assert np.array_equal(array(forward), array(backward))
    assert forward.grid == backward.grid
    assert forward.sop_instance_uids == backward.sop_instance_uids == tuple(f"1.2.3.4.{k + 1}" for k in range(7))


def test_odd_file_names_are_read(tmp_path: Path) -> None:
    stored = stored_values(3, 3, 3)
    files = write_series(tmp_path / "münster 肺 ct", stored)
    renamed = [file.rename(file.with_name(f"скан {k} é.dcm")) for k, file in enumerate(files)]
    assert np.array_equal(array(read_ct(renamed)), stored - 1024)


def test_one_missing_slice_is_the_mean_of_its_neighbors_with_a_warning(tmp_path: Path) -> None:
    stored = stored_values(6, 3, 4)
    files = write_series(tmp_path, stored)
    volume = read_ct(files[:3] + files[4:])
    hu = stored.astype(float) - 1024
    assert volume.interpolated_slices == (3,)
    assert volume.sop_instance_uids[3] is None
    assert np.abs(array(volume)[3] - (hu[2] + hu[4]) / 2).max() <= 0.5
    assert np.array_equal(array(volume)[[0, 1, 2, 4, 5]], hu[[0, 1, 2, 4, 5]])
    assert volume.grid.spacing[2] == pytest.approx(3)
    assert any("missing at 9.00 mm" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        ([0, 3, 6, 15, 18], "9.00 mm from 6.00 to 15.00"),
        ([0, 3, 9, 12, 18, 21], "6.00 mm from 3.00 to 9.00"),
        ([0, 4, 8, 15, 22, 29], "7.00 mm from 8.00 to 29.00"),
        ([0, 3, 4.08, 7.08, 10.08], "1.08 mm from 3.00 to 4.08"),
        ([0, 3, 9], "6.00 mm from 3.00 to 9.00"),
        ([0, 3, 6.2, 9.2], "vary"),
    ],
)
def test_distances_that_vary_are_refused_with_the_positions(tmp_path: Path, heights: list[float], said: str) -> None:
    files = write_series(tmp_path, stored_values(len(heights), 2, 2), positions=[(0, 0, z) for z in heights])
    with pytest.raises(GeometryError, match=re.escape(said)):
        read_ct(files)


def test_positions_rounded_to_a_hundredth_of_a_millimeter_are_regular(tmp_path: Path) -> None:
    heights = [round(-250 + k * 1.3333, 2) for k in range(40)]
    files = write_series(
        tmp_path, stored_values(40, 2, 2), positions=[(0.01 * (k % 2), 0, z) for k, z in enumerate(heights)]
    )
    volume = read_ct(files)
    assert volume.interpolated_slices == ()
    assert volume.grid.spacing[2] == pytest.approx(1.3333, abs=5e-4)
    assert volume.grid.origin[2] == pytest.approx(-250)


@pytest.mark.parametrize("tilt", [1.0, 15.5, -20.0])
def test_a_gantry_tilt_is_refused_with_its_angle(tmp_path: Path, tilt: float) -> None:
    angle = np.radians(tilt)
    orientation = (1, 0, 0, 0, np.cos(angle), -np.sin(angle))
    positions = [(0, 0, 5.0 * k) for k in range(12)]
    with pytest.raises(GeometryError, match=f"tilt of {abs(tilt):.1f}°"):
        read_ct(write_series(tmp_path, stored_values(12, 2, 2), orientation=orientation, positions=positions))


def test_slices_that_wander_sideways_are_refused(tmp_path: Path) -> None:
    positions = [(0, 0, 0), (4, 0, 3), (0, 0, 6), (0, 0, 9)]
    with pytest.raises(GeometryError, match=r"sideways by up to 4\.00 mm"):
        read_ct(write_series(tmp_path, stored_values(4, 2, 2), positions=positions))


def test_slices_that_are_there_twice_are_taken_once(tmp_path: Path) -> None:
    stored = stored_values(4, 3, 3)
    files = write_series(tmp_path / "one", stored) + write_series(tmp_path / "two", stored, prefix="9.9")[1:3]
    volume = read_ct(files)
    assert np.array_equal(array(volume), stored - 1024)
    assert any(warning.startswith("2 slice(s) are there twice") for warning in volume.warnings)


def test_different_slices_at_one_position_are_refused_with_the_position(tmp_path: Path) -> None:
    files = write_series(tmp_path / "one", stored_values(4, 3, 3))
    files += write_series(tmp_path / "two", stored_values(4, 3, 3, seed=2), prefix="9.9")[2:3]
    with pytest.raises(GeometryError, match=re.escape("2 at (0, 0, 6) mm")):
        read_ct(files)


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path: Path) -> None:
    volume = read_ct([write_slice(tmp_path / "a", stored_values(1, 3, 3)[0], SliceThickness="2.5")])
    assert volume.grid.spacing[2] == 2.5
    assert any("single slice" in warning for warning in volume.warnings)


def test_a_single_slice_without_thickness_says_that_it_guesses(tmp_path: Path) -> None:
    volume = read_ct([write_slice(tmp_path / "a", stored_values(1, 3, 3)[0], SliceThickness=LEFT_OUT)])
    assert any("guess" in warning for warning in volume.warnings)


def test_two_slices_are_read_with_a_warning(tmp_path: Path) -> None:
    volume = read_ct(write_series(tmp_path, stored_values(2, 3, 3)))
    assert volume.grid.size == (3, 3, 2)
    assert any("only 2 slices" in warning for warning in volume.warnings)


def test_gaps_between_slices_are_told(tmp_path: Path) -> None:
    volume = read_ct(write_series(tmp_path, stored_values(4, 3, 3), spacing=(1, 1, 10), SliceThickness="1.25"))
    assert any("gaps" in warning for warning in volume.warnings)


def second_slice(**elements: object) -> dict[str, object]:
    return {"SOPInstanceUID": "7.7", "ImagePositionPatient": [0, 0, 3], **elements}


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "oriented otherwise"),
        ({"PixelSpacing": [1, 1.1]}, "Pixel Spacing"),
        ({"SeriesInstanceUID": "5.5"}, "another series"),
        ({"PatientID": "P2"}, "another patient"),
        ({"FrameOfReferenceUID": "5.5"}, "another frame of reference"),
        ({"Rows": 2, "Columns": 8}, "pixels, but"),
        ({"ImagePositionPatient": LEFT_OUT}, "no position"),
        ({"ImageOrientationPatient": LEFT_OUT}, "no orientation"),
        ({"PixelSpacing": LEFT_OUT}, "no pixel spacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angle"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "right angle"),
        ({"ImagePositionPatient": [0, 0, 1e9]}, "100 m"),
        ({"PixelSpacing": [0, 0]}, "Pixel Spacing"),
        ({"PixelSpacing": [-1, -1]}, "Pixel Spacing"),
    ],
)
def test_a_slice_that_does_not_belong_to_the_others_is_refused(
    tmp_path: Path, elements: dict[str, object], said: str
) -> None:
    first = write_slice(tmp_path / "a", stored_values(1, 4, 4)[0])
    second = write_slice(tmp_path / "b", stored_values(1, 4, 4)[0], **second_slice(**elements))
    with pytest.raises(GeometryError, match=said):
        read_ct([first, second])


@pytest.mark.parametrize(
    ("elements", "error", "said"),
    [
        ({"Rows": 60000, "Columns": 60000}, BadInputError, "60000 × 60000"),
        ({"Rows": 0}, BadInputError, "0 pixels"),
        ({"NumberOfFrames": "1000000000"}, BadInputError, "frames"),
        ({"NumberOfFrames": "-3"}, BadInputError, "-3 frames"),
        ({"NumberOfFrames": "3"}, GeometryError, "no position for each"),
        ({"PixelData": b"\0" * 30}, BadInputError, "30 bytes"),
        ({"PixelData": b"\0" * 4000}, BadInputError, "4000 bytes"),
        ({"PixelData": LEFT_OUT}, BadInputError, "ends before its pixel data"),
        ({"BitsAllocated": 12}, UnsupportedFileError, "12 bits"),
        ({"BitsStored": 17}, BadInputError, "17 bits"),
        ({"HighBit": 3}, BadInputError, "bit 3"),
        ({"RescaleSlope": "0"}, BadInputError, "cannot be meant"),
        ({"RescaleSlope": "-1"}, BadInputError, "cannot be meant"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, UnsupportedFileError, "color"),
        ({"Modality": "MR"}, UnsupportedFileError, "no CT slice"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, UnsupportedFileError, "localizer"),
        ({"Rows": LEFT_OUT}, UnsupportedFileError, "no image"),
    ],
)
def test_a_header_that_claims_what_cannot_be_is_refused(
    tmp_path: Path, elements: dict[str, object], error: type[LungSegError], said: str
) -> None:
    file = write_slice(tmp_path / "a", stored_values(1, 4, 4)[0], **elements)
    with pytest.raises(error, match=re.escape(said)) as caught:
        read_ct([file])
    assert str(file) in caught.value.message


@pytest.mark.parametrize("text", [b"nan ", b"inf ", b"1e999 ", b"abc ", b"1_0 ", b"1\\2 "])
def test_numbers_that_are_none_are_refused(tmp_path: Path, text: bytes) -> None:
    file = write_slice(tmp_path / "a", stored_values(1, 4, 4)[0], RescaleSlope="77777777"[: len(text)])
    file.write_bytes(file.read_bytes().replace(b"77777777"[: len(text)], text))
    with pytest.raises(BadInputError, match="RescaleSlope"):
        read_ct([file])


def test_a_lookup_table_instead_of_slope_and_intercept_is_refused(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTExplanation = "HU"
    file = write_slice(tmp_path / "a", stored_values(1, 4, 4)[0], ModalityLUTSequence=Sequence([table]))
    with pytest.raises(UnsupportedFileError, match="lookup table"):
        read_ct([file])


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "a", stored_values(1, 40, 40)[0])
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(LungSegError):
            read_ct([file])


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 5000, b"\0" * 128 + b"DICM", b"\x89PNG\r\n" * 100])
def test_what_is_no_dicom_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BadInputError):
        read_ct([tmp_path / "a"])


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_ct([tmp_path / "nothing"])
    with pytest.raises(StorageError):
        read_ct([tmp_path])
    with pytest.raises(BadInputError, match="no files"):
        read_ct([])


def enhanced(stored: np.ndarray, positions: list[tuple[float, ...]], scales: list[tuple[float, float]]) -> Dataset:
    """An Enhanced CT with the orientation shared and position and scale of each frame of its own."""
    dataset = slice_dataset(
        stored[0],
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        NumberOfFrames=str(len(stored)),
        PixelData=stored.tobytes(),
        **dict.fromkeys(
            ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
             "SliceThickness", "RescaleType"), LEFT_OUT),
    )  # fmt: skip

    def macro(keyword: str, **elements: object) -> Sequence:
        item = Dataset()
        for name, value in elements.items():
            setattr(item, name, value)
        return Sequence([item])

    shared = Dataset()
    shared.PlaneOrientationSequence = macro("", ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = macro("", PixelSpacing=[2, 1], SliceThickness="3")
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for position, (slope, intercept) in zip(positions, scales, strict=True):
        group = Dataset()
        group.PlanePositionSequence = macro("", ImagePositionPatient=list(position))
        group.PixelValueTransformationSequence = macro("", RescaleSlope=str(slope), RescaleIntercept=str(intercept))
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return dataset


def test_each_frame_of_an_enhanced_ct_has_its_own_position_and_scale(tmp_path: Path) -> None:
    stored = np.arange(3 * 2 * 2, dtype=np.int16).reshape(3, 2, 2)
    dataset = enhanced(stored, [(0, 0, 6), (0, 0, 0), (0, 0, 3)], [(1, -1000), (2, 0), (1, 5)])
    volume = read_ct([write(tmp_path / "a", dataset)])
    assert array(volume).tolist() == [[[8, 10], [12, 14]], [[13, 14], [15, 16]], [[-1000, -999], [-998, -997]]]
    assert volume.grid.spacing == (1, 2, 3)
    assert volume.grid.origin == (0, 0, 0)


def test_an_enhanced_ct_with_fewer_positions_than_frames_is_refused(tmp_path: Path) -> None:
    dataset = enhanced(np.zeros((3, 2, 2), np.int16), [(0, 0, 0), (0, 0, 3)], [(1, 0), (1, 0)][:2])
    with pytest.raises(GeometryError, match="3 frames, but positions for 2"):
        read_ct([write(tmp_path / "a", dataset)])
