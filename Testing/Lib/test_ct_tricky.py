"""Every CT of the collection of odd files is read right or refused in a sentence: which of the two is said here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from LungSegmentationLib.dicom.ct import CTVolume, read_ct
from LungSegmentationLib.errors import BadInputError, GeometryError, LungSegError, UnsupportedFileError

pytestmark = pytest.mark.realdata

# One CT in fifteen transfer syntaxes: the largest and the mean difference in HU from the uncompressed one.
COPIES = {
    "CTImage.dcm_BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm": (0, 0),
    "CTImage.dcm_DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99.dcm": (0, 0),
    "CTImage.dcm_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm": (0, 0),
    "CTImage.dcm_JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm": (0, 0),
    "CTImage.dcm_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm": (0, 0),
    "CTImage.dcm_JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm": (0, 0),
    "CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm": (0, 0),
    "CTImage.dcm_LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2.dcm": (0, 0),
    "CTImage.dcm_RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm": (0, 0),
    "CTImage.dcm_JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm": (10, 2),
    "CTImage.dcm_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm": (3, 2),
    "CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": (40, 8),
    "CTImage.dcm_JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm": (40, 8),
    "CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": (40, 8),
    # eight bits for 8000 HU: steps of 32 HU
    "CTImage.dcm_JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm": (150, 30),
}
READ = [
    "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm",
    "CT1_J2KR",
    "CT2_J2KR",
    "CTImage.dcm",
    "CT_small.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "bad_sequence.dcm",
    "eCT_Supplemental.dcm",
    "explicit_VR-UN.dcm",
]
REFUSED = {"no_meta.dcm": "not a DICOM file", "rtstruct.dcm": "no CT slice"}


def hu(volume: CTVolume) -> np.ndarray:
    return sitk.GetArrayFromImage(volume.image).astype(float)


def frames_by_simpleitk(file: Path) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
    """Each frame of a file with the place of its first pixel, as SimpleITK reads it."""
    image = sitk.ReadImage(str(file), imageIO="GDCMImageIO")
    values = sitk.GetArrayFromImage(image).astype(float)
    for number, plane in enumerate(values):
        yield image.TransformIndexToPhysicalPoint((0, 0, number)), plane


def assert_holds_what_simpleitk_reads(volume: CTVolume, files: Iterable[Path]) -> None:
    """Each frame is where SimpleITK puts it, with SimpleITK's HU clipped to −1024 from below."""
    ours = hu(volume)
    left = set(range(len(ours)))
    for file in files:
        for place, plane in frames_by_simpleitk(file):
            index = np.array(volume.image.TransformPhysicalPointToContinuousIndex(place))
            assert np.abs(index - [0, 0, np.rint(index[2])]).max() < 0.01
            slot = round(index[2])
            assert np.abs(ours[slot] - np.maximum(plane, -1024)).max() <= 0.5
            left.discard(slot)
    assert left == set(volume.interpolated_slices)


def test_every_file_of_the_transfer_syntaxes_has_a_stated_outcome(data: Path) -> None:
    stated = {*COPIES, *READ, *REFUSED}
    assert {path.name for path in (data / "tricky/transfer_syntax").iterdir()} == stated


@pytest.mark.parametrize("name", COPIES)
def test_one_ct_in_each_transfer_syntax_has_the_same_hu(data: Path, name: str) -> None:
    folder = data / "tricky/transfer_syntax"
    volume = read_ct([folder / name])
    original = np.maximum(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "CTImage.dcm"))).astype(float), -1024)
    difference = np.abs(hu(volume) - original)
    largest, mean = COPIES[name]
    assert difference.max() <= largest
    assert difference.mean() <= mean


@pytest.mark.parametrize("name", [*READ, *COPIES])
def test_each_file_is_read_as_simpleitk_reads_it(data: Path, name: str) -> None:
    file = data / "tricky/transfer_syntax" / name
    assert_holds_what_simpleitk_reads(read_ct([file]), [file])


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_ct_is_refused(data: Path, name: str) -> None:
    with pytest.raises(UnsupportedFileError, match=REFUSED[name]):
        read_ct([data / "tricky/transfer_syntax" / name])


def test_a_perfusion_map_says_that_its_values_may_not_be_hu(data: Path) -> None:
    volume = read_ct([data / "tricky/transfer_syntax/eCT_Supplemental.dcm"])
    assert any("derived map" in warning for warning in volume.warnings)


def test_the_signedness_of_the_file_wins_over_that_of_the_compressed_stream(data: Path) -> None:
    volume = read_ct([data / "tricky/transfer_syntax/J2K_pixelrep_mismatch.dcm"])
    assert hu(volume).min() == -1024  # stored −2000
    assert hu(volume).max() == 1896


GEOMETRY_READ = {
    "sliceincrement/001": ((512, 512, 5), (0.429688, 0.429688, 5.0), (3,)),
    "oriented_nonsquare": ((100, 50, 3), (2.5, 3.5, 4.5), ()),
    "ct-3slice": ((512, 512, 3), (0.810547, 0.810547, 1.0), ()),
    "legacy_enhanced_24x38x3/image": ((24, 38, 3), (0.7, 0.7, 2.5), ()),
    "legacy_enhanced_24x38x3/multiframe": ((24, 38, 3), (0.7, 0.7, 2.5), ()),
}
GEOMETRY_REFUSED = {
    "sliceincrement/002": r"tilt of 15\.5°.*-52\.69.*-49\.58",
    "ge_variable_tilt_variable_gap": r"tilt of 18\.5°.*5\.836.*157\.776",
    "notavolume/001": r"4 at \(-139\.228, -384\.228, 61\.5\) mm",
    "gantrytilting/001": r"tilt of 14\.0°.*-61\.95.*-46\.95",
}


def test_every_folder_of_the_odd_geometries_has_a_stated_outcome(data: Path) -> None:
    root = data / "tricky/geometry"
    folders = {path.parent.relative_to(root).as_posix() for path in root.rglob("*.dcm")}
    assert folders == {*GEOMETRY_READ, *GEOMETRY_REFUSED}


@pytest.mark.parametrize("name", GEOMETRY_READ)
def test_an_odd_geometry_that_is_regular_is_read(data: Path, name: str) -> None:
    files = sorted((data / "tricky/geometry" / name).iterdir())
    volume = read_ct(files)
    size, spacing, interpolated = GEOMETRY_READ[name]
    assert volume.grid.size == size
    assert volume.grid.spacing == pytest.approx(spacing, abs=1e-3)
    assert volume.interpolated_slices == interpolated
    assert_holds_what_simpleitk_reads(volume, files)


@pytest.mark.parametrize("name", GEOMETRY_REFUSED)
def test_an_odd_geometry_that_is_no_regular_grid_is_refused_with_its_positions(data: Path, name: str) -> None:
    with pytest.raises(GeometryError, match=re.compile(GEOMETRY_REFUSED[name])):
        read_ct(sorted((data / "tricky/geometry" / name).iterdir()))


def test_the_missing_slice_is_the_mean_of_its_neighbors(data: Path) -> None:
    files = sorted((data / "tricky/geometry/sliceincrement/001").iterdir())
    ours = hu(read_ct(files))
    below, above = (sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0].astype(float) for file in files[2:])
    expected = (np.maximum(below, -1024) + np.maximum(above, -1024)) / 2
    assert np.abs(ours[3] - expected).max() <= 0.5


def test_a_multiframe_ct_is_the_same_volume_as_its_single_slices(data: Path) -> None:
    folder = data / "tricky/geometry/legacy_enhanced_24x38x3"
    one = read_ct([folder / "multiframe/mf.dcm"])
    many = read_ct(sorted((folder / "image").iterdir()))
    assert one.grid.matches(many.grid)
    assert np.array_equal(hu(one), hu(many))


def test_slices_without_a_modality_are_read_with_a_warning(data: Path) -> None:
    files = sorted((data / "tricky/no_modality_lung2slice").iterdir())
    volume = read_ct(files)
    assert_holds_what_simpleitk_reads(volume, files)
    assert volume.grid.size == (512, 512, 2)
    assert any("do not give a modality" in warning for warning in volume.warnings)
    assert any("only 2 slices" in warning for warning in volume.warnings)


@pytest.mark.parametrize(("name", "count"), [("rt-utils_mock", 2), ("breast_lung_heart_1slice", 1)])
def test_the_cts_beside_odd_rtstructs_are_read(data: Path, name: str, count: int) -> None:
    files = sorted((data / "tricky/rtstruct" / name).glob("ct*.dcm"))
    volume = read_ct(files)
    assert volume.grid.size[2] == len(files) == count
    assert_holds_what_simpleitk_reads(volume, files)


@pytest.mark.parametrize("name", ["rt.dcm", "invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"])
def test_an_rtstruct_is_no_ct(data: Path, name: str) -> None:
    with pytest.raises(UnsupportedFileError, match="RTSTRUCT"):
        read_ct([data / "tricky/rtstruct/rt-utils_mock" / name])


DICOMDIR_TREE = {
    "98892001/CT5N": None,
    "98892001/CT2N": (UnsupportedFileError, "localizer"),
    "77654033/CT2": (GeometryError, r"202\.50 mm from -99\.48 to 103\.02"),
    "77654033/CR1": (UnsupportedFileError, r"no CT slice \(CR\)"),
    "77654033/CR2": (UnsupportedFileError, r"no CT slice \(CR\)"),
    "77654033/CR3": (UnsupportedFileError, r"no CT slice \(CR\)"),
    "98892003/MR1": (UnsupportedFileError, r"no CT slice \(MR\)"),
    "98892003/MR2": (UnsupportedFileError, r"no CT slice \(MR\)"),
    "98892003/MR700": (UnsupportedFileError, r"no CT slice \(MR\)"),
    "TINY_ALPHA/PT000000/ST000000/SE000000": (UnsupportedFileError, "no image"),
}


def test_every_folder_below_the_dicomdir_has_a_stated_outcome(data: Path) -> None:
    root = data / "tricky/dicomdir_noext"
    folders = {path.parent.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert folders - {".", "TINY_ALPHA"} == set(DICOMDIR_TREE)


@pytest.mark.parametrize("name", DICOMDIR_TREE)
def test_a_series_without_file_endings_is_read_or_refused(data: Path, name: str) -> None:
    files = sorted((data / "tricky/dicomdir_noext" / name).iterdir())
    refusal = DICOMDIR_TREE[name]
    if refusal is None:
        assert_holds_what_simpleitk_reads(read_ct(files), files)
        return
    with pytest.raises(refusal[0], match=refusal[1]):
        read_ct(files)


def test_a_dicomdir_itself_is_refused(data: Path) -> None:
    folder = data / "tricky/dicomdir_noext"
    names = [path for path in folder.iterdir() if path.name.startswith("DICOMDIR")]
    assert len(names) == 7
    for path in names:
        with pytest.raises(UnsupportedFileError):
            read_ct([path])


def test_names_in_any_character_set_stop_nothing(data: Path) -> None:
    files = sorted((data / "tricky/charset").iterdir())
    assert files
    for path in files:
        with pytest.raises(LungSegError):
            read_ct([path])  # they hold names, but no CT


REAL = {
    "rt_lung1-001/image": ("*", 134, (0.9765625, 0.9765625, 3.0)),
    "rt_ibsi_pat2": ("DCM_IMG*", 41, (0.977, 0.977, 3.0)),
    "rt_ibsi_pat3": ("DCM_IMG*", 46, (0.977, 0.977, 3.0)),
    "cip64/ct-64Dicom": ("*", 79, (4.171872, 4.171872, 3.98734)),
    "totalseg_j2k/ct": ("*", 20, (0.9765625, 0.9765625, 2.0)),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_series_is_read_as_simpleitk_reads_each_slice(data: Path, name: str) -> None:
    pattern, count, spacing = REAL[name]
    files = sorted((data / name).glob(pattern))
    volume = read_ct(files)
    assert volume.grid.size[2] == count
    assert volume.grid.spacing == pytest.approx(spacing, abs=1e-4)
    assert volume.interpolated_slices == ()
    assert_holds_what_simpleitk_reads(volume, files)


def test_lung1_002_is_the_volume_that_simpleitk_reads_as_a_series(data: Path) -> None:
    folder = data / "rt_lung1-002"
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    other = reader.Execute()
    volume = read_ct([Path(file) for file in files])
    assert volume.grid.size == other.GetSize() == (512, 512, 111)
    assert volume.image.GetOrigin() == pytest.approx(other.GetOrigin())
    assert volume.image.GetSpacing() == pytest.approx(other.GetSpacing())
    assert volume.image.GetDirection() == pytest.approx(other.GetDirection())
    assert np.array_equal(hu(volume), np.maximum(sitk.GetArrayFromImage(other), -1024))
    assert volume.warnings == ()


def test_the_small_chest_is_the_same_volume_as_its_nrrd(data: Path) -> None:
    volume = read_ct(sorted((data / "cip64/ct-64Dicom").iterdir()))
    other = sitk.ReadImage(str(data / "cip64/ct-64.nrrd"))
    assert volume.grid.size == other.GetSize()
    assert volume.image.GetOrigin() == pytest.approx(other.GetOrigin(), abs=0.01)
    assert volume.image.GetSpacing() == pytest.approx(other.GetSpacing(), abs=1e-3)
    assert volume.image.GetDirection() == pytest.approx(other.GetDirection())
    assert np.array_equal(hu(volume), np.maximum(sitk.GetArrayFromImage(other), -1024))


def test_slices_of_two_patients_are_not_mixed(data: Path) -> None:
    with pytest.raises(BadInputError, match="another"):
        read_ct([data / "rt_ibsi_pat2/DCM_IMG_00000.dcm", data / "rt_ibsi_pat3/DCM_IMG_00000.dcm"])
