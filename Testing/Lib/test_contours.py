"""Contours to voxels: analytic solids, independent rasterizers, and one test for each thing that real contours do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from LungSegmentationLib.dicom import contour_rules, scanline
from LungSegmentationLib.dicom import contours as module
from LungSegmentationLib.dicom.contours import ContourReport, RoiMask, rasterize
from LungSegmentationLib.dicom.rtstruct import Contour, ContourType
from LungSegmentationLib.dicom.scanline import fill
from LungSegmentationLib.errors import GeometryError
from LungSegmentationLib.geometry import Grid

AXIAL = tuple(np.eye(3).ravel().tolist())
FLAT = Grid((40, 30, 5), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)

Floats = NDArray[np.float64]
Radii = Callable[[float], Sequence[float]]


def rotation(*degrees: float) -> tuple[float, ...]:
    """Return the direction cosines of a grid turned about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return tuple(matrix.ravel().tolist())


GRIDS = {
    "axial": Grid((140, 130, 60), (1.0, 1.0, 1.0), (-70.0, -65.0, -30.0), AXIAL),
    "real spacing": Grid((140, 130, 60), (0.977, 0.977, 1.5), (-68.3, -63.1, -44.7), AXIAL),
    "anisotropic": Grid((180, 120, 70), (0.7, 1.1, 1.3), (-63.2, -66.0, -45.1), AXIAL),
    "upside down": Grid((140, 130, 60), (0.977, 0.977, 1.5), (68.3, 63.1, 44.7), (-1, 0, 0, 0, -1, 0, 0, 0, -1)),
    "sagittal": Grid((140, 130, 60), (1.0, 1.0, 1.5), (44.0, -70.0, 65.0), (0, 0, -1, 1, 0, 0, 0, -1, 0)),
    "oblique": Grid((140, 130, 60), (0.977, 0.9, 1.4), (0.0, 0.0, 0.0), rotation(13, -21, 37)),
}
CENTER_SHIFT = np.array([0.37, -0.21, 0.113])


def center_of(grid: Grid) -> Floats:
    """Return a point near the middle of a grid that lies on no voxel center, in indices."""
    return (np.asarray(grid.size) - 1) / 2 + CENTER_SHIFT


def outline(grid: Grid, points: Floats, index: int, kind: ContourType = ContourType.CLOSED_PLANAR) -> Contour:
    """Make a contour of points (n, 2) in mm along the grid's rows and columns from its middle, on a slice."""
    center = center_of(grid)
    flat = center[:2] + points / np.asarray(grid.spacing[:2])
    return Contour(grid.to_physical(np.column_stack([flat, np.full(len(flat), float(index))])), kind)


def circle(radius: float, count: int = 400) -> Floats:
    """Return a polygon with exactly the area of the circle."""
    angle = np.arange(count) / count * 2 * np.pi
    exact = radius * np.sqrt(np.pi / (count / 2 * np.sin(2 * np.pi / count)))
    return exact * np.column_stack([np.cos(angle), np.sin(angle)])


def solid(grid: Grid, radii: Radii) -> RoiMask:
    """Draw a solid of revolution about the slice normal: ``radii`` gives the circles at a height in mm."""
    contours = []
    for index in range(grid.size[2]):
        height = (index - center_of(grid)[2]) * grid.spacing[2]
        contours += [outline(grid, circle(radius), index) for radius in radii(height) if radius > 0]
    return rasterize(contours, grid)


def expected_volume(grid: Grid, radii: Radii) -> float:
    """Integrate the circles' areas over the slices, in mm³: what is left is the error within the slices."""
    area = 0.0
    for index in range(grid.size[2]):
        circles = sorted((r for r in radii((index - center_of(grid)[2]) * grid.spacing[2]) if r > 0), reverse=True)
        area += sum(np.pi * radius**2 * (-1) ** place for place, radius in enumerate(circles))
    return area * grid.spacing[2]


def sphere(height: float) -> Sequence[float]:
    return [np.sqrt(max(28.0**2 - height**2, 0))]


def cylinder(height: float) -> Sequence[float]:
    return [25.3] if abs(height) <= 20 else []


def torus(height: float) -> Sequence[float]:
    tube = np.sqrt(max(12.0**2 - height**2, 0))
    return [24 + tube, 24 - tube] if tube else []


def shells(height: float) -> Sequence[float]:
    return [np.sqrt(max(radius**2 - height**2, 0)) for radius in (28, 25, 18, 14.5, 6)]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("radii", [sphere, cylinder, torus, shells])
def test_round_solids_keep_their_volume_within_half_a_percent(grid: Grid, radii: Radii) -> None:
    volume = solid(grid, radii).voxel_count * grid.voxel_volume * 1000
    assert volume == pytest.approx(expected_volume(grid, radii), rel=0.005)


def test_a_sphere_has_its_analytic_volume_within_half_a_percent() -> None:
    grid = GRIDS["axial"]
    assert solid(grid, sphere).voxel_count * grid.voxel_volume == pytest.approx(4 / 3 * np.pi * 2.8**3, rel=0.005)


def test_a_torus_has_its_analytic_volume_within_half_a_percent() -> None:
    grid = GRIDS["axial"]
    expected = 2 * np.pi**2 * 2.4 * 1.2**2
    assert solid(grid, torus).voxel_count * grid.voxel_volume == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5, 0.75, -0.013])
def test_a_cube_of_whole_pixels_is_exact_wherever_it_lies(grid: Grid, offset: float) -> None:
    low = np.array([20, 31]) + offset
    corners = low + np.array([[0, 0], [24, 0], [24, 17], [0, 17]])
    contours = [Contour(grid.to_physical(np.column_stack([corners, np.full(4, k)]))) for k in range(10, 22)]
    mask = rasterize(contours, grid)
    assert mask.voxel_count == 24 * 17 * 12
    first = np.ceil(low - 1e-9).astype(int)
    expected = np.zeros(grid.shape, bool)
    expected[10:22, first[1] : first[1] + 17, first[0] : first[0] + 24] = True
    np.testing.assert_array_equal(mask.full(grid.shape), expected)


def test_vertices_between_pixel_centers_are_not_rounded() -> None:
    corners = np.array([[9.6, 9.6], [20.4, 9.6], [20.4, 20.4], [9.6, 20.4]])
    mask = flat([corners])
    assert mask.voxel_count == 11 * 11
    assert flat([corners + 0.45]).voxel_count == 10 * 10


def flat(polygons: Sequence[Floats | list[tuple[float, float]]], *kinds: ContourType, grid: Grid = FLAT) -> RoiMask:
    """Draw polygons given in mm on the slice at 6 mm."""
    kinds = kinds or (ContourType.CLOSED_PLANAR,) * len(polygons)
    items = [
        Contour(np.column_stack([np.asarray(points, float), np.full(len(points), 6.0)]), kind)
        for points, kind in zip(polygons, kinds, strict=True)
    ]
    return rasterize(items, grid)


def box(left: float, top: float, right: float, bottom: float) -> Floats:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) - 0.5


def pixels(mask: RoiMask) -> NDArray[np.bool_]:
    return mask.full(FLAT.shape)[2]


def painted(*areas: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Fill boxes (left, top, right, bottom) of pixels, each inverting what is there."""
    image = np.zeros((30, 40), bool)
    for left, top, right, bottom in areas:
        image[top:bottom, left:right] ^= True
    return image


def accounted(mask: RoiMask) -> bool:
    """Whether each contour is either used or has one reason why not."""
    report = mask.report
    reasons = (report.too_few_points, report.open, report.unreadable, report.outside, report.not_parallel)
    return report.contours == report.used + sum(reasons) + sum(
        (report.other_plane, report.duplicates, report.without_voxels)
    )


# An exact judge of its own: Fractions, one pixel at a time, by the definition.


def exact_parity(points: Sequence[tuple[Fraction, Fraction]], x: int, y: int) -> bool:
    inside = False
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            inside = not inside
    return inside


def by_fractions(points: Sequence[tuple[float, float]], rows: int, columns: int) -> NDArray[np.bool_]:
    exact = [(Fraction(round(x * 65536), 65536), Fraction(round(y * 65536), 65536)) for x, y in points]
    return np.array([[exact_parity(exact, x, y) for x in range(columns)] for y in range(rows)])


def by_fill(points: Sequence[tuple[float, float]], rows: int, columns: int) -> NDArray[np.bool_]:
    patch = fill([np.array(points, float)], rows, columns)[0]
    image = np.zeros((rows, columns), bool)
    image[patch.row : patch.end[0], patch.column : patch.end[1]] = patch.pixels
    return image


anywhere = st.floats(-4, 16, allow_nan=False, width=32)
on_the_grid = st.integers(-8, 32).map(lambda value: value / 2)
vertices = st.lists(st.tuples(anywhere, anywhere), min_size=1, max_size=12)
grid_vertices = st.lists(st.tuples(on_the_grid, on_the_grid), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.one_of(vertices, grid_vertices))
def test_any_polygon_is_filled_as_exact_arithmetic_says(points: list[tuple[float, float]]) -> None:
    np.testing.assert_array_equal(by_fill(points, 11, 13), by_fractions(points, 11, 13))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(3, 24),
    st.randoms(use_true_random=False),
    st.floats(2, 9),
    st.tuples(st.floats(8, 20), st.floats(8, 20)),
)
def test_star_shaped_polygons_are_filled_as_matplotlib_does(
    count: int, draw: object, size: float, center: tuple[float, float]
) -> None:
    angles = np.sort([draw.uniform(0, 2 * np.pi) for _ in range(count)])  # type: ignore[attr-defined]
    radii = [size * draw.uniform(0.3, 1) for _ in range(count)]  # type: ignore[attr-defined]
    points = np.column_stack([np.cos(angles), np.sin(angles)]) * np.array(radii)[:, None] + center
    x, y = np.meshgrid(np.arange(30), np.arange(30))
    centers = np.column_stack([x.ravel(), y.ravel()])
    judged = Outline(points).contains_points(centers).reshape(30, 30)
    # Matplotlib rounds: on an edge it may say either.
    edges = np.roll(points, -1, axis=0) - points
    offsets = centers[:, None] - points
    along = ((offsets * edges).sum(2) / np.maximum((edges**2).sum(1), 1e-30)).clip(0, 1)
    clear = (np.linalg.norm(offsets - along[..., None] * edges, axis=2).min(1) > 1e-4).reshape(30, 30)
    np.testing.assert_array_equal(by_fill(points, 30, 30)[clear], judged[clear])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(on_the_grid, on_the_grid), min_size=1, max_size=6), st.tuples(on_the_grid, on_the_grid))
def test_polygons_that_share_edges_neither_overlap_nor_leave_a_gap(
    points: list[tuple[float, float]], apex: tuple[float, float]
) -> None:
    fan = [[*pair, apex] for pair in zip(points, points[1:] + points[:1], strict=True)]
    together = np.zeros((11, 13), bool)
    for triangle in fan:
        together ^= by_fill(triangle, 11, 13)
    np.testing.assert_array_equal(together, by_fill(points, 11, 13))


@settings(max_examples=60, deadline=None)
@given(st.one_of(vertices, grid_vertices), st.integers(0, 11))
def test_start_point_and_direction_do_not_matter(points: list[tuple[float, float]], start: int) -> None:
    start %= len(points)
    turned = (points[start:] + points[:start])[::-1]
    np.testing.assert_array_equal(by_fill(turned, 11, 13), by_fill(points, 11, 13))


@settings(max_examples=60, deadline=None)
@given(st.one_of(vertices, grid_vertices), st.integers(1, 11), st.integers(1, 13))
def test_what_lies_outside_is_cut_off_and_changes_nothing_inside(
    points: list[tuple[float, float]], rows: int, columns: int
) -> None:
    np.testing.assert_array_equal(by_fill(points, rows, columns), by_fill(points, 20, 20)[:rows, :columns])


def test_many_polygons_at_once_are_filled_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    polygons = [draw.uniform(-5, 25, (draw.integers(1, 40), 2)) for _ in range(30)]
    alone = [fill([polygon], 20, 22)[0] for polygon in polygons]
    monkeypatch.setattr(scanline, "MAX_CROSSINGS", 7)
    for mine, expected in zip(fill(polygons, 20, 22), alone, strict=True):
        np.testing.assert_array_equal(mine.pixels, expected.pixels)
        assert (mine.row, mine.column) == (expected.row, expected.column)


# What contours mean together.


def test_a_contour_inside_another_is_a_hole_and_one_inside_the_hole_an_island() -> None:
    areas = [(2, 2, 30, 28), (5, 5, 25, 25), (8, 8, 20, 20), (10, 10, 14, 14)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        mask = flat([box(*areas[place]) for place in order])
        np.testing.assert_array_equal(pixels(mask), painted(*areas))
        assert (mask.report.used, mask.report.holes, mask.report.duplicates) == (4, 2, 0)


@pytest.mark.parametrize("times", [2, 3, 6])
def test_a_contour_drawn_several_times_counts_once(times: int) -> None:
    outer = circle(10) + 15
    copies = [np.roll(outer, 37 * turn, axis=0)[:: (-1) ** turn] for turn in range(times)]
    mask = flat(copies)
    assert mask.voxel_count == flat([outer]).voxel_count > 300
    assert (mask.report.used, mask.report.duplicates) == (1, times - 1)
    said = "covers the same area as another one and counts once" if times == 2 else "cover the same area"
    assert said in mask.report.warnings("Lung L")[0]


@pytest.mark.parametrize("seed", range(5))
def test_nearly_the_same_contour_several_times_counts_once(seed: int) -> None:
    draw = np.random.default_rng(seed)
    outer = circle(10, 200) + 15
    copies = [
        np.round(np.roll(outer, turn * 31, axis=0) + draw.uniform(-0.1, 0.1, outer.shape), 1) for turn in range(4)
    ]
    mask = flat([*copies, outer * 0.995 + 0.075])
    assert mask.report.duplicates == 4
    assert mask.voxel_count == pytest.approx(flat([outer]).voxel_count, rel=0.05)


def test_a_copy_slightly_inside_is_no_hole() -> None:
    outer = circle(10) + 15
    mask = flat([outer, (outer - 15) * 0.98 + 15])
    assert mask.voxel_count == flat([outer]).voxel_count
    assert mask.report.duplicates == 1


def test_a_corrected_copy_is_united_with_the_first() -> None:
    first, corrected = box(5, 5, 25, 25), np.array([[5, 5], [25, 5], [25, 22], [20, 25], [5, 25]]) - 0.5
    for order in ([first, corrected], [corrected, first]):
        np.testing.assert_array_equal(pixels(flat(order)), painted((5, 5, 25, 25)))


def test_a_thin_ring_is_a_ring() -> None:
    mask = flat([box(5, 5, 25, 25), box(6, 6, 24, 24)])
    np.testing.assert_array_equal(pixels(mask), painted((5, 5, 25, 25), (6, 6, 24, 24)))


def test_a_hole_drawn_twice_stays_a_hole() -> None:
    outer, hole = (2, 2, 30, 28), (8, 8, 20, 20)
    mask = flat([box(*hole), box(*outer), box(*hole)[::-1], box(*outer)])
    np.testing.assert_array_equal(pixels(mask), painted(outer, hole))
    assert (mask.report.used, mask.report.holes, mask.report.duplicates) == (2, 1, 2)


def test_contours_that_overlap_in_part_are_united() -> None:
    mask = flat([box(2, 2, 15, 15), box(10, 10, 25, 25)])
    expected = painted((2, 2, 15, 15)) | painted((10, 10, 25, 25))
    np.testing.assert_array_equal(pixels(mask), expected)
    assert mask.report.overlaps == 1


def test_contours_that_touch_are_united_without_overlap_or_gap() -> None:
    mask = flat([box(2, 2, 10, 15), box(10, 2, 25, 15)])
    np.testing.assert_array_equal(pixels(mask), painted((2, 2, 25, 15)))
    assert mask.report.overlaps == 0


def test_a_hole_that_touches_the_outer_edge_is_a_hole() -> None:
    outer, hole = (2, 2, 25, 25), (10, 2, 15, 12)
    np.testing.assert_array_equal(pixels(flat([box(*outer), box(*hole)])), painted(outer, hole))
    slightly_beyond = box(*hole) - [0, 0.2]
    np.testing.assert_array_equal(pixels(flat([box(*outer), slightly_beyond])), painted(outer, hole))


def test_a_hole_belongs_to_the_areas_around_it_only() -> None:
    outer, hole, neighbor = (2, 2, 20, 20), (10, 5, 18, 15), (15, 2, 30, 20)
    mask = flat([box(*outer), box(*hole), box(*neighbor)])
    np.testing.assert_array_equal(pixels(mask), painted(outer, hole) | painted(neighbor))


def test_a_keyhole_is_a_ring() -> None:
    ring = [(2, 2), (25, 2), (25, 25), (2, 25), (2, 14), (8, 14), (8, 20), (20, 20), (20, 8), (8, 8), (8, 14), (2, 14)]
    np.testing.assert_array_equal(pixels(flat([np.array(ring) - 0.5])), painted((2, 2, 25, 25), (8, 8, 20, 20)))


def test_a_keyhole_with_a_slanted_bridge_through_pixel_centers_loses_no_pixel() -> None:
    outer, inner = [(1, 1), (29, 1), (29, 29), (1, 29)], [(10, 10), (10, 20), (20, 20), (20, 10)]
    keyhole = [*outer, outer[0], *inner, inner[0]]
    grid = Grid((32, 32, 5), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    mask = flat([keyhole], grid=grid).full(grid.shape)[2]
    expected = flat([outer, inner], grid=grid).full(grid.shape)[2]
    np.testing.assert_array_equal(mask, expected)
    assert mask.sum() == 28 * 28 - 10 * 10


def test_a_figure_of_eight_fills_both_loops() -> None:
    eight = [(2, 2), (20, 20), (20, 2), (2, 20)]
    mask = flat([eight])
    assert pixels(mask)[10, 3]
    assert pixels(mask)[10, 18]
    assert not pixels(mask)[3, 10]
    assert mask.voxel_count == pytest.approx(18 * 18 / 2, abs=10)


def test_closed_planar_xor_is_exclusive_or_even_of_the_same_contour() -> None:
    kind = ContourType.CLOSEDPLANAR_XOR
    first, second = (2, 2, 15, 15), (10, 10, 25, 25)
    mask = flat([box(*first), box(*second)], kind, kind)
    np.testing.assert_array_equal(pixels(mask), painted(first, second))
    assert flat([box(*first), box(*first)], kind, kind).voxel_count == 0
    assert flat([box(*first), box(*first)], kind, kind).box == (slice(0, 0),) * 3
    mixed = flat([box(*first), box(*first), box(*second)], kind, kind, ContourType.CLOSED_PLANAR)
    np.testing.assert_array_equal(pixels(mixed), painted(second))


def test_hundreds_of_islands_and_holes_on_a_slice() -> None:
    grid = Grid((400, 400, 5), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    corners = [(x, y) for x in range(4, 390, 16) for y in range(4, 390, 16)]
    islands = [box(x, y, x + 12, y + 12) for x, y in corners]
    holes = [box(x + 3, y + 3, x + 9, y + 9) for x, y in corners]
    mask = flat([*islands, *holes, *islands], grid=grid)
    assert mask.voxel_count == len(corners) * (144 - 36)
    assert (mask.report.holes, mask.report.duplicates) == (len(corners), len(corners))


def test_a_heap_of_different_contours_on_a_slice_is_refused_before_it_takes_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heap = [box(2 + place, 2 + place % 2, 20 + place, 28 - place) for place in range(15)]
    assert flat(heap).voxel_count > 0
    for limit in ("MAX_PAIRS", "MAX_DOUBTS"):
        with monkeypatch.context() as patch, pytest.raises(GeometryError, match="15 contours"):
            patch.setattr(contour_rules, limit, 50)
            flat(heap)


# What contours are not drawn, and that they are counted.


def test_points_and_lines_are_counted_and_enclose_nothing() -> None:
    square = box(2, 2, 10, 10)
    mask = flat(
        [square, square[:1], square[:2], square[:1], square, square],
        *(ContourType.CLOSED_PLANAR, ContourType.CLOSED_PLANAR, ContourType.CLOSED_PLANAR),
        *(ContourType.POINT, ContourType.OPEN_PLANAR, ContourType.OPEN_NONPLANAR),
    )
    np.testing.assert_array_equal(pixels(mask), painted((2, 2, 10, 10)))
    assert (mask.report.too_few_points, mask.report.open, mask.report.used) == (3, 2, 1)
    assert accounted(mask)
    assert len(mask.report.warnings("x")) == 2


def test_a_contour_of_unknown_type_is_taken_as_closed_with_a_warning() -> None:
    mask = flat([box(2, 2, 10, 10)], ContourType.UNKNOWN)
    assert mask.voxel_count == 64
    assert "taken as closed" in mask.report.warnings("x")[0]


@pytest.mark.parametrize("size", [0.0, 0.12])
def test_a_contour_without_a_pixel_center_is_counted_and_deletes_nothing(size: float) -> None:
    mask = flat([box(2, 2, 20, 20), np.array([[5.3, 5.3], [5.3 + size, 5.3], [5.3 + size, 5.3 + size]])])
    np.testing.assert_array_equal(pixels(mask), painted((2, 2, 20, 20)))
    assert mask.report.without_voxels == 1
    alone = flat([np.full((5, 2), 5.3)])
    assert alone.voxel_count == 0
    assert "none of its contours" in alone.report.warnings("x")[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12, 1e300, -1e6])
def test_coordinates_that_cannot_be_meant_are_counted(value: float) -> None:
    for axis in range(3):
        bad = np.column_stack([box(2, 2, 9, 9), np.full(4, 6.0)])
        bad[2, axis] = value
        good = Contour(np.column_stack([box(12, 2, 19, 9), np.full(4, 6.0)]))
        mask = rasterize([Contour(bad), good], FLAT)
        np.testing.assert_array_equal(pixels(mask), painted((12, 2, 19, 9)))
        assert mask.report.unreadable == 1


def test_no_contours_give_an_empty_box() -> None:
    mask = rasterize([], FLAT)
    assert mask.voxels.shape == (0, 0, 0)
    assert mask.full(FLAT.shape).sum() == 0
    assert mask.report.warnings("x") == []


def level(z: float, area: tuple[int, int, int, int] = (2, 2, 10, 10), tilt: float = 0.0) -> Contour:
    flat_points = box(*area)
    return Contour(np.column_stack([flat_points, z + tilt * flat_points[:, 0]]))


@pytest.mark.parametrize(
    ("z", "index"), [(0, 0), (1.4, 0), (1.5, 1), (1.4999, 1), (3, 1), (13.4, 4), (13.5, 4), (-1.5, 0), (-1.4, 0)]
)
def test_a_contour_goes_to_the_nearest_slice(z: float, index: int) -> None:
    mask = rasterize([level(z)], FLAT)
    assert mask.box[0] == slice(index, index + 1)
    assert mask.report.farthest == pytest.approx(abs(z - 3 * index), abs=1e-6)


@pytest.mark.parametrize("z", [-1.51, 13.51, 40, -3000])
def test_a_contour_more_than_half_a_slice_beyond_the_volume_is_counted(z: float) -> None:
    mask = rasterize([level(z)], FLAT)
    assert (mask.voxel_count, mask.report.outside) == (0, 1)


def test_a_contour_beside_the_volume_is_counted_and_one_across_its_border_is_cut_off() -> None:
    mask = rasterize([level(0, (-30, 2, -10, 10)), level(3, (-5, 2, 5, 10)), level(6, (60, 2, 70, 9))], FLAT)
    assert (mask.report.outside, mask.report.cut_off, mask.voxel_count) == (2, 1, 5 * 8)
    assert accounted(mask)


def test_a_contour_tilted_against_the_slices_is_counted() -> None:
    mask = rasterize([level(6, (2, 2, 10, 10), tilt=0.3), level(3)], FLAT)
    assert (mask.report.not_parallel, mask.report.used) == (1, 1)
    assert "not parallel" in mask.report.warnings("x")[0]


def test_slightly_tilted_contours_far_apart_in_one_plane_are_all_drawn() -> None:
    areas = [(2, 2, 10, 10), (28, 2, 38, 10), (15, 20, 16, 21)]
    mask = rasterize([level(5.5, area, tilt=0.02) for area in areas], FLAT)
    np.testing.assert_array_equal(pixels(mask), painted(*areas))
    assert mask.report.other_plane == 0


def test_of_the_planes_of_a_finer_ct_the_nearest_counts() -> None:
    contours = [level(z, (2, 2, 10 + round(z), 20)) for z in range(13)]
    mask = rasterize(contours, FLAT)
    assert [int(plane.sum()) for plane in mask.full(FLAT.shape)] == [18 * (8 + z) for z in (0, 3, 6, 9, 12)]
    assert (mask.report.used, mask.report.other_plane) == (5, 8)
    assert accounted(mask)


def gap_report(heights: Sequence[int], areas: Sequence[tuple[int, int, int, int]]) -> ContourReport:
    tall = Grid((40, 30, 40), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    drawn = [level(3 * index, area) for index, area in zip(heights, areas, strict=True)]
    return rasterize(drawn, tall).report


SMALL, SAME_AXIS, ASIDE = (2, 2, 10, 10), (6, 6, 14, 14), (20, 20, 30, 28)


@pytest.mark.parametrize(
    ("heights", "areas", "gaps"),
    [
        ([0, 3, 4], [SMALL] * 3, (1, 2)),
        ([0, 4, 5], [SMALL, SAME_AXIS, SAME_AXIS], (1, 2, 3)),
        ([4, 0, 2], [SMALL] * 3, (1, 3)),
        ([0, 12], [SMALL, SMALL], tuple(range(1, 12))),  # half a lung was lost
        ([0, 5], [SMALL, SAME_AXIS], ()),  # 16 of 112 pixels: one tumor above the other
        ([0, 3], [SMALL, ASIDE], ()),
        ([0, 1, 20, 21], [SMALL, SMALL, ASIDE, ASIDE], ()),
    ],
)
def test_slices_without_a_contour_inside_a_stack_are_named_but_not_those_between_stacks(
    heights: Sequence[int], areas: Sequence[tuple[int, int, int, int]], gaps: tuple[int, ...]
) -> None:
    report = gap_report(heights, areas)
    assert report.slices_with_gaps == gaps
    assert any("no contour between" in warning for warning in report.warnings("x")) == bool(gaps)


@pytest.mark.parametrize(("spacing", "shift", "off"), [(7.5, 3.0, True), (7.5, 0.7, False), (7.5, 0.8, True),
                                                       (3.0, 0.45, False), (3.0, 0.55, True)])  # fmt: skip
def test_contours_that_lie_between_the_slices_are_told_with_their_distance(
    spacing: float, shift: float, off: bool
) -> None:
    grid = Grid((40, 30, 5), (1.0, 1.0, spacing), (0.0, 0.0, 0.0), AXIAL)
    mask = rasterize([level(index * spacing + shift) for index in range(1, 5)], grid)
    assert mask.report.used == 4
    said = f"4 of 4 contours lie up to {shift:.2g} mm from the slices they were put on"
    assert mask.report.warnings("x") == ([f"ROI “x”: {said}."] if off else [])


def test_warnings_tell_one_from_many() -> None:
    facts = ["too_few_points", "open", "unreadable", "outside", "not_parallel", "other_plane", "duplicates"]
    facts += ["without_voxels", "cut_off", "unknown_type"]
    for number, plural in (
        (1, " is | has | was | lies | covers | reaches "),
        (2, " are | have | were | lie | cover | reach "),
    ):
        for fact in facts:
            (said,) = replace(ContourReport(154, used=100), **{fact: number}).warnings("x")  # type: ignore[arg-type]
            assert said.startswith(f"ROI “x”: {number} of 154 contours ")
            assert any(verb in said for verb in plural.split("|"))
    (one,) = ContourReport(154, used=154, slices_with_gaps=(7,)).warnings("x")
    assert "1 slice has no contour" in one
    (two,) = ContourReport(154, used=154, slices_with_gaps=(7, 8)).warnings("x")
    assert "2 slices have no contour" in two


def test_references_that_match_nothing_do_not_matter() -> None:
    points = np.column_stack([box(2, 2, 10, 10), np.full(4, 6.0)])
    mask = rasterize([Contour(points, image_uids=("1.2.3",), number=99)], FLAT)
    np.testing.assert_array_equal(pixels(mask), painted((2, 2, 10, 10)))


def test_a_one_slice_volume_of_one_pixel() -> None:
    grid = Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXIAL)
    assert rasterize([level(0, (0, 0, 1, 1)), level(0.3, (-9, -9, 9, 9))], grid).full((1, 1, 1)).all()


def test_lots_of_contours_are_drawn_in_bounded_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    contours = [level(z, (2 + z, 2, 20, 10)) for z in (0, 3, 6, 9, 12)]
    expected = rasterize(contours, FLAT).full(FLAT.shape)
    monkeypatch.setattr(module, "BATCH_PIXELS", 10)
    np.testing.assert_array_equal(rasterize(contours, FLAT).full(FLAT.shape), expected)
    monkeypatch.setattr(module, "MAX_SLICE_PIXELS", 50)
    with pytest.raises(GeometryError, match="cannot be meant"):
        rasterize(contours, FLAT)


contour_lists = st.lists(
    st.tuples(
        st.lists(st.tuples(st.floats(-9, 45), st.floats(-9, 45)), max_size=7),
        st.floats(-9, 20),
        st.sampled_from(list(ContourType)),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(contour_lists)
def test_each_contour_is_used_or_has_a_reason(
    items: list[tuple[list[tuple[float, float]], float, ContourType]],
) -> None:
    drawn = [Contour(np.array([(x, y, z) for x, y in points]).reshape(-1, 3), kind) for points, z, kind in items]
    mask = rasterize(drawn, FLAT)
    assert accounted(mask)
    assert mask.voxels.shape == tuple(part.stop - part.start for part in mask.box)
    assert mask.full(FLAT.shape).sum() == mask.voxel_count
