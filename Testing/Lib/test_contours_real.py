"""Contours of real patients to voxels: against plastimatch, against itself on two files, on every file there is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.dicom.contours import RoiMask, rasterize
from LungSegmentationLib.dicom.rtstruct import RTStruct, read_rtstruct
from LungSegmentationLib.geometry import Grid

pytestmark = pytest.mark.realdata

# Voxels of LUNG1-002 as plastimatch counts them.
PLASTIMATCH = {
    "GTV-1": 125204,
    "PTV-1": 347392,
    "Heart": 373247,
    "Esophagus": 19236,
    "Spinal cord": 22216,
    "Lung R": 658479,
    "Lung L": 686334,
}
SAME_ON_001 = {"GTV-1": "GTV-1", "Spinal-Cord": "Spinal cord", "Lung-Left": "Lung L", "Lung-Right": "Lung R"}


def grid_of(folder: Path) -> Grid:
    """Return the grid of a folder's CT, from its headers."""
    tags = ["Modality", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True) for path in folder.iterdir()
    ]
    slices = [header for header in headers if "PixelSpacing" in header and header.get("Modality") == "CT"]
    across, down = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(across, down)
    positions = np.array([header.ImagePositionPatient for header in slices], float)
    positions = positions[np.argsort(positions @ normal)]
    step = float((positions[-1] - positions[0]) @ normal) / max(len(slices) - 1, 1) or 1.0
    spacing = (float(slices[0].PixelSpacing[1]), float(slices[0].PixelSpacing[0]), step)
    size = (int(slices[0].Columns), int(slices[0].Rows), len(slices))
    return Grid(size, spacing, tuple(positions[0]), tuple(np.column_stack([across, down, normal]).ravel()))


def masks(file: RTStruct, grid: Grid) -> dict[str, RoiMask]:
    return {roi.name: rasterize(roi.contours, grid) for roi in file.rois}


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


@pytest.fixture(scope="module")
def second_grid(data: Path) -> Grid:
    return grid_of(data / "rt_lung1-002")


@pytest.fixture(scope="module")
def second(data: Path, second_grid: Grid) -> dict[str, RoiMask]:
    return masks(read_rtstruct(data / "rt_lung1-002" / "1.dcm"), second_grid)


@pytest.mark.parametrize(("name", "voxels"), PLASTIMATCH.items())
def test_lung1_002_has_the_voxels_that_plastimatch_counts(second: dict[str, RoiMask], name: str, voxels: int) -> None:
    assert second[name].voxel_count == pytest.approx(voxels, rel=1e-3)


def test_lung_l_of_lung1_002_is_whole_though_drawn_up_to_fifteen_times(second: dict[str, RoiMask]) -> None:
    lung = second["Lung L"]
    assert lung.report.duplicates > 30
    assert lung.voxel_count * 0.977 * 0.977 * 3 / 1000 == pytest.approx(1965, rel=0.002)
    per_slice = lung.voxels.sum((1, 2))
    for place in (29, 30, 37, 43, 44):
        index = place - lung.box[0].start
        neighbors = (per_slice[index - 2] + per_slice[index + 2]) / 2
        assert per_slice[index] > 0.8 * neighbors


def test_points_and_isocenters_of_lung1_002_are_empty_and_say_why(second: dict[str, RoiMask]) -> None:
    for name in ("I1", "Isocenter 1", "Isocenter 5"):
        assert second[name].voxel_count == 0
        assert second[name].report.too_few_points == 1


@pytest.mark.oracle
def test_lung1_002_equals_plastimatch_voxel_by_voxel(
    data: Path, second: dict[str, RoiMask], second_grid: Grid, tmp_path: Path
) -> None:
    shutil.copy(data / "rt_lung1-002" / "1.dcm", tmp_path / "rtstruct.dcm")
    command = [
        *("plastimatch", "convert", "--input", str(tmp_path / "rtstruct.dcm")),
        *("--referenced-ct", str(data / "rt_lung1-002")),
        *("--output-prefix", str(tmp_path / "out"), "--prefix-format", "nrrd"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    for name in PLASTIMATCH:
        image = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nrrd"))
        assert Grid.of(image).matches(second_grid, 0.01)
        theirs = sitk.GetArrayFromImage(image) > 0
        different = np.count_nonzero(theirs != second[name].full(second_grid.shape))
        assert different <= 0.001 * np.count_nonzero(theirs), name


def test_the_second_rtstruct_of_lung1_002_gives_the_same_gtv(
    data: Path, second: dict[str, RoiMask], second_grid: Grid
) -> None:
    path = next((data / "rt_lung1-002_second_rtstruct").iterdir())
    gtv = masks(read_rtstruct(path), second_grid)["GTV-1"]
    assert dice(gtv.full(second_grid.shape), second["GTV-1"].full(second_grid.shape)) > 0.999


def test_the_two_rtstructs_of_lung1_001_agree_though_one_refers_to_nothing(data: Path) -> None:
    grid = grid_of(data / "rt_lung1-001" / "image")
    matching = read_rtstruct(next((data / "rt_lung1-001" / "mask_rtstruct").iterdir()))
    lying = read_rtstruct(data / "rt_lung1-001_xio_rtstruct" / "2.dcm")
    images = {
        str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        for path in (data / "rt_lung1-001" / "image").iterdir()
    }
    assert matching.referenced_image_uids <= images
    assert not {uid for roi in lying.rois for item in roi.contours for uid in item.image_uids} & images
    first, other = masks(matching, grid), masks(lying, grid)
    for name, same in SAME_ON_001.items():
        assert dice(first[name].full(grid.shape), other[same].full(grid.shape)) >= 0.98, name
    target = other["1,SUV_primair"]
    assert target.voxel_count * grid.voxel_volume == pytest.approx(124, rel=0.01)
    assert target.report.duplicates == target.report.used > 80


@pytest.mark.parametrize("folder", ["rt_ibsi_pat2", "rt_ibsi_pat3"])
def test_the_cropped_chests_hold_their_gtv(data: Path, folder: str) -> None:
    grid = grid_of(data / folder)
    file = read_rtstruct(next((data / folder).glob("DCM_RS*")))
    gtv = rasterize(file.rois[0].contours, grid)
    areas = [0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) for x, y in (
        (item.points[:, 0], item.points[:, 1]) for item in file.rois[0].contours
    )]  # fmt: skip
    assert gtv.voxel_count * grid.voxel_volume == pytest.approx(sum(areas) * grid.spacing[2] / 1000, rel=0.02)
    assert gtv.report.used == len(file.rois[0].contours)


def test_contours_of_a_series_of_which_one_slice_is_left_are_counted_as_outside(data: Path) -> None:
    folder = data / "tricky" / "rtstruct" / "breast_lung_heart_1slice"
    found = masks(read_rtstruct(folder / "rtss.dcm"), grid_of(folder))
    assert found["Areola"].voxel_count == 0
    for mask in found.values():
        assert mask.voxels.shape[0] <= 1
        assert mask.report.used + mask.report.outside + mask.report.duplicates + mask.report.other_plane == (
            mask.report.contours - mask.report.without_voxels
        )
