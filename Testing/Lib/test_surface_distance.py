"""Surface distances against values worked out by hand, analytic solids, and other roads to the same numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from LungSegmentationLib.evaluation.surface import SurfaceDistances, surface_distances
from LungSegmentationLib.evaluation.surface_elements import CORNERS, surface_areas

Mask = NDArray[np.bool_]
SPACINGS = [(1.0, 1.0, 1.0), (0.977, 0.977, 3.0), (0.5, 1.3, 2.0)]


def box(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def ball(shape: tuple[int, int, int], radius_mm: float, spacing: tuple[float, float, float]) -> Mask:
    z, y, x = np.indices(shape)
    center = [(n - 1) / 2 for n in shape]
    parts = zip((z, y, x), center, spacing[::-1], strict=True)
    return np.asarray(sum(((i - c) * s) ** 2 for i, c, s in parts) <= radius_mm**2)


def brute(a: Mask, b: Mask, spacing: tuple[float, float, float]) -> SurfaceDistances:
    """The same definition by another road: padded arrays, a distance transform, areas from scikit-image's triangles."""
    sides = []
    for mask in (a, b):
        padded = np.pad(mask, 1).astype(np.uint8)
        code = np.zeros([n - 1 for n in padded.shape], int)
        for bit, (z, y, x) in enumerate(itertools.product((0, 1), repeat=3)):
            code |= padded[z : z + code.shape[0], y : y + code.shape[1], x : x + code.shape[2]].astype(int) << bit
        sides.append(code)
    areas = surface_areas(spacing)
    cut = [(code > 0) & (code < 255) for code in sides]
    far = [ndimage.distance_transform_edt(~c, sampling=spacing[::-1]) for c in cut]
    first, second = far[1][cut[0]], far[0][cut[1]]
    orders = np.argsort(first), np.argsort(second)
    return SurfaceDistances(
        first[orders[0]], areas[sides[0][cut[0]]][orders[0]], second[orders[1]], areas[sides[1][cut[1]]][orders[1]]
    )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_corner_inside_cuts_off_a_triangle_of_half_edges(spacing: tuple[float, float, float]) -> None:
    x, y, z = spacing
    # Triangle with legs x/2, y/2, z/2 from the corner: half the length of the cross product of two of its edges.
    expected = np.linalg.norm(np.cross([-x / 2, y / 2, 0], [-x / 2, 0, z / 2])) / 2
    areas = surface_areas(spacing)
    for bit in range(8):
        assert areas[1 << bit] == pytest.approx(expected)
        assert areas[255 - (1 << bit)] == pytest.approx(expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_flat_cut_has_the_area_of_the_cells_face(spacing: tuple[float, float, float]) -> None:
    x, y, z = spacing
    areas = surface_areas(spacing)
    for axis, face in ((0, x * y), (1, x * z), (2, y * z)):
        pattern = sum(1 << i for i, corner in enumerate(CORNERS) if corner[axis] == 0)
        assert areas[pattern] == pytest.approx(face)
        assert areas[255 - pattern] == pytest.approx(face)


def test_a_step_along_an_edge_has_the_area_of_a_sloping_rectangle() -> None:
    # Two corners along z inside: a rectangle of height z and width half the diagonal of x and y.
    spacing = (3.0, 4.0, 5.0)
    pattern = sum(1 << i for i, corner in enumerate(CORNERS) if corner[1:] == (0, 0))
    assert surface_areas(spacing)[pattern] == pytest.approx(5.0 * 2.5)


def test_inside_and_outside_exchanged_have_the_same_surface() -> None:
    areas = surface_areas((0.8, 1.1, 2.5))
    assert areas == pytest.approx(areas[::-1])
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()


def test_turned_patterns_have_the_same_area_in_cubes() -> None:
    areas = surface_areas((1.0, 1.0, 1.0))
    for pattern in range(256):
        turned = sum(1 << CORNERS.index((c[1], 1 - c[0], c[2])) for i, c in enumerate(CORNERS) if pattern >> i & 1)
        assert areas[pattern] == pytest.approx(areas[turned])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_area_of_a_ball_is_that_of_scikit_images_mesh(spacing: tuple[float, float, float]) -> None:
    mask = ball((33, 63, 63), 14.0, spacing)
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(float), 0.5, spacing=spacing[::-1], method="lorensen")
    found = surface_distances(mask, mask, spacing)
    assert found.reference_areas.sum() == pytest.approx(mesh_surface_area(vertices, faces), rel=2e-3)


def test_a_cube_against_itself_has_no_distance() -> None:
    mask = box((9, 9, 9), (2, 2, 2), (7, 7, 7))
    found = surface_distances(mask, mask, (1, 1, 3))
    assert (found.hausdorff(100), found.mean, found.surface_dice(0.0)) == (0, 0, 1)


@pytest.mark.parametrize(("axis", "step"), [(0, 3.0), (1, 0.9), (2, 0.7)])
def test_a_slab_moved_along_its_normal_is_away_by_the_shift_in_mm(axis: int, step: float) -> None:
    # Wide across the shift: all surface but the rim is at exactly the shift.
    low, high = [1, 1, 1], [39, 39, 39]
    low[axis], high[axis] = 10, 14
    mask = box((40, 40, 40), tuple(low), tuple(high))
    moved = np.roll(mask, 2, axis)
    found = surface_distances(mask, moved, (0.7, 0.9, 3.0))
    assert found.hausdorff(100) == pytest.approx(2 * step)
    assert found.hausdorff(95) == pytest.approx(2 * step)
    # The sides overlap over half of their height and lower the mean.
    assert 0.5 * 2 * step < found.mean < 2 * step
    assert found.surface_dice(2 * step) == 1
    assert found.surface_dice(0.99 * step) < 0.5


def test_two_single_voxels_are_as_far_as_their_centers() -> None:
    first, second = box((1, 12, 12), (0, 2, 2), (1, 3, 3)), box((1, 12, 12), (0, 5, 6), (1, 6, 7))
    found = surface_distances(first, second, (2.0, 1.0, 5.0))
    # Each voxel has eight elements of one area. Nearest pairs: the gap is 2 × 1 mm in y and 3 × 2 mm in x for the
    # near corner, one step more for the others.
    gaps = [np.hypot(y, 2 * x) for y in (2, 3) for x in (3, 4)]
    assert found.mean == pytest.approx(np.mean(gaps))
    assert found.hausdorff(100) == pytest.approx(max(gaps))
    assert found.hausdorff(50) == pytest.approx(sorted(gaps)[1])
    assert found.surface_dice(gaps[0]) == pytest.approx(0.25)


def test_hausdorff_takes_the_larger_of_both_directions() -> None:
    # The prediction holds the reference and a far speck of one voxel: only seen from the prediction.
    reference = box((20, 20, 60), (5, 5, 5), (15, 15, 15))
    prediction = reference.copy()
    prediction[10, 10, 50] = True
    found = surface_distances(reference, prediction, (1, 1, 1))
    assert found.from_reference.max() == 0
    # From the far side of the speck (cell 51) to the cube's face (cell 15).
    assert found.hausdorff(100) == pytest.approx(36.0)
    # Its area, 8 triangles, is below five percent of the whole.
    assert found.hausdorff(95) == 0
    assert surface_distances(prediction, reference, (1, 1, 1)).hausdorff(100) == pytest.approx(36.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.5)])
def test_balls_in_one_another_are_apart_by_the_difference_of_their_radii(spacing: tuple[float, float, float]) -> None:
    shape = (61, 91, 91)
    small, large = ball(shape, 20.0, spacing), ball(shape, 26.0, spacing)
    found = surface_distances(small, large, spacing)
    # Elements lie in the middle of their cells: never farther than the surfaces, and short by at most a cell.
    assert 6.0 - max(spacing) < found.mean <= 6.0
    assert found.hausdorff(95) == pytest.approx(6.0, abs=max(spacing))
    assert found.surface_dice(6.0 + max(spacing)) == 1
    assert found.surface_dice(6.0 - 2 * max(spacing)) == 0


def test_a_structure_at_the_edge_of_the_volume_has_a_surface_there() -> None:
    mask = np.ones((4, 5, 6), bool)
    found = surface_distances(mask, mask, (1, 1, 1))
    # A solid of 4 × 5 × 6 with its twelve edges and eight corners cut off at half a voxel.
    flat = 2 * (3 * 4 + 3 * 5 + 4 * 5)
    edges = 4 * (3 + 4 + 5) * np.sqrt(0.5)
    corners = 8 * np.sqrt(3) / 8
    assert found.reference_areas.sum() == pytest.approx(flat + edges + corners)


def test_what_lies_outside_both_does_not_matter() -> None:
    first, second = ball((21, 31, 31), 8, (1, 1, 1)), np.roll(ball((21, 31, 31), 8, (1, 1, 1)), 2, 1)
    whole = surface_distances(first, second, (1, 1, 2))
    z, y, x = (slice(w.min(), w.max() + 1) for w in np.nonzero(first | second))
    part = surface_distances(first[z, y, x], second[z, y, x], (1, 1, 2))
    assert part.mean == pytest.approx(whole.mean)
    assert part.hausdorff() == whole.hausdorff()


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(bool, (4, 6, 7)).filter(np.any),
    hnp.arrays(bool, (4, 6, 7)).filter(np.any),
    st.tuples(*[st.floats(0.3, 5.0)] * 3),
)
def test_a_distance_transform_gives_the_same_numbers(a: Mask, b: Mask, spacing: tuple[float, float, float]) -> None:
    ours, theirs = surface_distances(a, b, spacing), brute(a, b, spacing)
    assert ours.mean == pytest.approx(theirs.mean, rel=1e-9, abs=1e-9)
    assert ours.hausdorff(100) == pytest.approx(theirs.hausdorff(100), rel=1e-9, abs=1e-9)
    # Both directions, each sorted, are the same distances with the same areas.
    assert ours.from_reference == pytest.approx(theirs.from_reference, rel=1e-9, abs=1e-9)
    assert ours.prediction_areas.sum() == pytest.approx(theirs.prediction_areas.sum())
    assert ours.surface_dice(1.0001) == pytest.approx(theirs.surface_dice(1.0001), abs=1e-6)


def test_the_largest_distance_is_simpleitks_hausdorff_distance_of_the_border_voxels() -> None:
    # SimpleITK measures between voxel centers; for solids that are moved without changing, that is the same.
    spacing = (0.9, 1.1, 2.5)
    first = ball((25, 41, 41), 14, spacing)
    second = np.roll(first, (1, 3, -2), (0, 1, 2))
    images = []
    for mask in (first, second):
        shell = mask & ~ndimage.binary_erosion(mask)
        image = sitk.GetImageFromArray(shell.astype(np.uint8))
        image.SetSpacing(spacing)
        images.append(image)
    measured = sitk.HausdorffDistanceImageFilter()
    measured.Execute(*images)
    found = surface_distances(first, second, spacing)
    assert found.hausdorff(100) == pytest.approx(measured.GetHausdorffDistance(), rel=0.15)
    assert found.hausdorff(100) <= np.linalg.norm(np.array([-2, 3, 1]) * spacing) + 1e-9


def test_an_empty_mask_and_another_shape_are_refused() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="empty"):
        surface_distances(mask, np.zeros_like(mask), (1, 1, 1))
    with pytest.raises(ValueError, match="shapes"):
        surface_distances(mask, np.ones((2, 2, 3), bool), (1, 1, 1))
