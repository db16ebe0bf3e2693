"""Grids against SimpleITK's own mapping between indices and the patient."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from LungSegmentationLib.errors import GeometryError
from LungSegmentationLib.geometry import Grid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

sizes = st.tuples(*[st.integers(1, 6)] * 3)
spacings = st.tuples(*[st.floats(0.05, 12.0)] * 3)
origins = st.tuples(*[st.floats(-1500.0, 1500.0)] * 3)


@st.composite
def directions(draw: st.DrawFn) -> tuple[float, ...]:
    """Any rotation, with or without a reflection of one axis."""
    # Whole tenths: ITK's own inversion stumbles over angles of 1e-300 degrees.
    angles = [draw(st.integers(-1800, 1800)) / 10 for _ in range(3)]
    matrix = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
    matrix[:, draw(st.integers(0, 2))] *= draw(st.sampled_from([1.0, -1.0]))
    return tuple(float(value) for value in matrix.ravel())


grids = st.builds(Grid, sizes, spacings, origins, directions())
index_lists = st.lists(st.tuples(*[st.floats(-100.0, 600.0)] * 3), min_size=1, max_size=4)


def _reference(grid: Grid) -> sitk.Image:
    image = sitk.Image(list(grid.size), sitk.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


@given(grids, index_lists)
def test_indices_map_to_the_patient_as_in_simpleitk(grid: Grid, indices: list[tuple[float, float, float]]) -> None:
    image = _reference(grid)
    expected = [image.TransformContinuousIndexToPhysicalPoint(index) for index in indices]
    np.testing.assert_allclose(grid.to_physical(indices), expected, rtol=0, atol=1e-6)


@given(grids, index_lists)
def test_points_map_to_indices_as_in_simpleitk(grid: Grid, indices: list[tuple[float, float, float]]) -> None:
    image = _reference(grid)
    points = [image.TransformContinuousIndexToPhysicalPoint(index) for index in indices]
    expected = [image.TransformPhysicalPointToContinuousIndex(point) for point in points]
    np.testing.assert_allclose(grid.to_index(points), expected, rtol=0, atol=1e-6)


@given(grids, index_lists)
def test_going_to_the_patient_and_back_changes_nothing(grid: Grid, indices: list[tuple[float, float, float]]) -> None:
    np.testing.assert_allclose(grid.to_index(grid.to_physical(indices)), indices, rtol=0, atol=1e-6)


@given(grids)
def test_a_grid_read_from_an_image_is_that_grid(grid: Grid) -> None:
    read = Grid.of(_reference(grid))
    assert read.size == grid.size
    assert read.spacing == grid.spacing
    assert read.origin == grid.origin
    np.testing.assert_allclose(read.direction, grid.direction, rtol=0, atol=1e-12)
    assert read.matches(grid)


@given(grids)
def test_an_array_becomes_an_image_on_the_grid_and_keeps_its_voxels(grid: Grid) -> None:
    array = np.arange(np.prod(grid.size), dtype=np.int16).reshape(grid.shape)
    image = grid.image(array)
    assert Grid.of(image).matches(grid)
    x, y, z = (side - 1 for side in grid.size)
    assert image.GetPixel(x, y, z) == array[z, y, x] == array[-1, -1, -1]
    assert image.GetPixel(x, 0, 0) == array[0, 0, -1]


def test_the_affine_is_written_out_by_hand_for_a_sagittal_grid() -> None:
    # Columns run to posterior, rows to inferior, slices to the patient's left.
    grid = Grid((4, 5, 6), (2.0, 3.0, 4.0), (10.0, 20.0, 30.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    assert grid.affine.tolist() == [[0, 0, 4, 10], [2, 0, 0, 20], [0, -3, 0, 30], [0, 0, 0, 1]]
    assert grid.shape == (6, 5, 4)
    assert grid.to_physical([[1, 1, 1]]).tolist() == [[14.0, 22.0, 27.0]]
    assert grid.to_index([[14.0, 22.0, 27.0]]).tolist() == [[1.0, 1.0, 1.0]]


def test_a_voxel_volume_is_in_cubic_centimeters() -> None:
    assert Grid((1, 1, 1), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0), AXIAL).voxel_volume == pytest.approx(1.0)
    assert Grid((1, 1, 1), (0.5, 2.0, 3.0), (0.0, 0.0, 0.0), AXIAL).voxel_volume == pytest.approx(0.003)


def test_no_points_map_to_no_points() -> None:
    grid = Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXIAL)
    assert grid.to_index(np.zeros((0, 3))).shape == (0, 3)
    assert grid.to_physical(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Grid((512, 512, 100), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL), True),
        (Grid((512, 512, 100), (1.0, 1.0, 3.0), (0.0, 0.0, 5e-4), AXIAL), True),
        (Grid((512, 512, 100), (1.0, 1.0, 3.0), (0.0, 0.0, 0.01), AXIAL), False),
        (Grid((512, 512, 101), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL), False),
        # A spacing that is a thousandth wrong is half a millimeter wrong at the far edge.
        (Grid((512, 512, 100), (1.001, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL), False),
        (Grid((512, 512, 100), (1.0, 1.0, 3.0), (511.0, 0.0, 0.0), (-1.0, *AXIAL[1:])), False),
    ],
)
def test_grids_match_only_where_all_corners_do(other: Grid, same: bool) -> None:
    grid = Grid((512, 512, 100), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    assert grid.matches(other) is same
    assert other.matches(grid) is same


@pytest.mark.parametrize("image", [sitk.Image(4, 4, sitk.sitkUInt8), sitk.Image([2, 2, 2, 2], sitk.sitkUInt8)])
def test_an_image_without_three_dimensions_is_refused(image: sitk.Image) -> None:
    with pytest.raises(GeometryError, match=f"has {image.GetDimension()}"):
        Grid.of(image)


def test_an_array_of_another_shape_is_refused() -> None:
    grid = Grid((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXIAL)
    with pytest.raises(ValueError, match=r"\(4, 3, 2\).*\(2, 3, 4\)"):
        grid.image(np.zeros((4, 3, 2), np.uint8))
