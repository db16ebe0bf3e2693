"""Outlines of masks: exactly the same pixels by two independent fillings, at the true boundary, with few points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from LungSegmentationLib.dicom.scanline import fill
from LungSegmentationLib.dicom.writers.contour_tracing import CLEARANCE, trace
from LungSegmentationLib.dicom.writers.keyholes import with_keyholes

Mask = NDArray[np.bool_]

MASKS = array_shapes(min_dims=2, max_dims=2, max_side=14).flatmap(lambda shape: arrays(bool, shape))


def inside(polygon: np.ndarray, shape: tuple[int, int]) -> Mask:
    """Even-odd at pixel centers by counting crossings of a ray in plain floating point."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    parity = np.zeros(shape, bool)
    for (x, y), (u, v) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y != v:
            spans = (y > rows) != (v > rows)
            parity ^= spans & (columns < x + (rows - y) * (u - x) / (v - y))
    return parity


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> Mask:
    """Union of the polygons; they may not share pixels."""
    count = np.zeros(shape, int)
    for polygon in polygons:
        count += inside(polygon, shape)
    assert count.max(initial=0) <= 1
    return count > 0


def filled_exactly(polygons: list[np.ndarray], shape: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    for patch in fill(polygons, *shape):
        mask[patch.row : patch.end[0], patch.column : patch.end[1]] |= patch.pixels
    return mask


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))))


def disk(shape: tuple[int, int], center: tuple[float, float], radius: float) -> np.ndarray:
    """Signed distance, positive inside."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return radius - np.hypot(columns - center[0], rows - center[1])


@settings(max_examples=150, deadline=None)
@given(MASKS, st.booleans())
def test_any_mask_comes_back_exactly(mask: Mask, smooth: bool) -> None:
    polygons = trace(mask, smooth=smooth)
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert np.array_equal(filled_exactly(polygons, mask.shape), mask)


@settings(max_examples=80, deadline=None)
@given(MASKS, st.integers(0, 2**32 - 1))
def test_any_mask_comes_back_exactly_whatever_the_field_says(mask: Mask, seed: int) -> None:
    rng = np.random.default_rng(seed)
    field = rng.normal(size=mask.shape) * rng.choice([1e-9, 1.0, 1e9], mask.shape)
    field[rng.random(mask.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 0.0])
    assert np.array_equal(filled(trace(mask, field), mask.shape), mask)


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_outlines_keep_clear_of_pixel_centers_so_that_rounding_changes_nothing(mask: Mask) -> None:
    for polygon in trace(mask):
        # Both visits of a keyhole's cut round to the same points.
        shaken = (polygon / 0.006).round() * 0.006 + 0.001
        assert np.array_equal(inside(shaken, mask.shape), inside(polygon, mask.shape))
        assert np.abs(polygon - polygon.round()).max(1).min() >= CLEARANCE - 0.031


def test_large_random_masks_with_hundreds_of_holes_and_islands_come_back_exactly() -> None:
    rng = np.random.default_rng(1)
    for share in (0.2, 0.5, 0.8, 0.97):
        mask = rng.random((90, 70)) < share
        assert np.array_equal(filled_exactly(trace(mask), mask.shape), mask)


def test_nothing_gives_no_outline_and_a_single_pixel_a_square_of_its_area() -> None:
    assert trace(np.zeros((5, 5), bool)) == []
    mask = np.zeros((5, 7), bool)
    mask[2, 4] = True
    (polygon,) = trace(mask)
    assert area(polygon) == pytest.approx(1.0, abs=0.02)
    assert polygon.mean(0) == pytest.approx([4, 2])


def test_pixels_at_the_border_of_the_image_are_outlined_beyond_their_centers() -> None:
    (polygon,) = trace(np.ones((4, 6), bool))
    assert (polygon.min(0) < 0).all()
    assert (polygon.max(0) > [5, 3]).all()


def test_pixels_that_touch_at_a_corner_are_outlines_of_their_own() -> None:
    assert len(trace(np.eye(3, dtype=bool))) == 3


def test_a_ring_is_one_outline_with_a_keyhole_and_an_island_in_it_another() -> None:
    distance = np.abs(disk((41, 41), (20.3, 19.8), 0.0))
    mask = ((distance < 18) & (distance > 10)) | (distance < 4)
    polygons = trace(mask)
    assert len(polygons) == 2
    assert np.array_equal(filled(polygons, mask.shape), mask)
    ring = max(polygons, key=area)
    assert area(ring) == pytest.approx(np.pi * (18**2 - 10**2), rel=0.01)


def test_keyholes_are_cut_from_left_to_right_and_cross_nothing() -> None:
    outer = np.array([[0.0, 0], [20, 0], [20, 10], [0, 10]])
    holes = [np.array([[x, 4.0], [x + 1, 5], [x, 6], [x - 1, 5]])[::-1] for x in (15, 5, 10)]
    joined = with_keyholes(outer, holes)
    assert area(joined) == pytest.approx(200 - 3 * 2)
    cuts = [(a, b) for a, b in zip(joined, np.roll(joined, -1, axis=0), strict=True) if a[1] == b[1] == 5]
    assert sorted({tuple(sorted((a[0], b[0]))) for a, b in cuts}) == [(0, 4), (6, 9), (11, 14)]


@pytest.mark.parametrize("radius", [3.2, 5.5, 8.3, 15.7, 40.4])
def test_outlines_of_disks_lie_nearer_to_the_circle_than_the_middle_between_pixels(radius: float) -> None:
    rng = np.random.default_rng(2)
    own, middle = [], []
    for _ in range(6):
        distance = disk((100, 100), tuple(rng.uniform(48, 50, 2)), radius)
        mask = distance > 0
        (smooth,) = trace(mask)
        (plain,) = trace(mask, smooth=False)
        x, y = np.nonzero(mask)[::-1]
        center = x.mean(), y.mean()
        own.append(np.abs(np.hypot(*(smooth - center).T) - np.sqrt(mask.sum() / np.pi)).mean())
        middle.append(np.abs(np.hypot(*(plain - center).T) - np.sqrt(mask.sum() / np.pi)).mean())
        assert area(smooth) == pytest.approx(mask.sum(), rel=0.01)
    assert np.mean(own) < 0.75 * np.mean(middle)


@pytest.mark.parametrize("radius", [3.2, 8.3, 40.4])
def test_a_field_puts_the_outline_where_the_field_is_zero(radius: float) -> None:
    distance = disk((100, 100), (49.3, 50.8), radius)
    (polygon,) = trace(distance > 0, distance)
    from_circle = np.abs(np.hypot(*(polygon - [49.3, 50.8]).T) - radius)
    # Crossings keep 0.08 pixels away from centers, the area after thinning may move them by 0.03.
    assert from_circle.max() < 0.12
    assert from_circle.mean() < 0.02
    assert area(polygon) == pytest.approx(np.pi * radius**2, rel=0.08 / radius)


def test_straight_sides_need_few_points() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:55, 10:50] = True
    (polygon,) = trace(mask)
    assert len(polygon) <= 44  # the corners are rounded, the sides of 180 pixels are straight
    (plain,) = trace(mask, smooth=False)
    assert len(plain) == 8


def test_a_large_round_outline_needs_less_than_one_point_a_pixel() -> None:
    mask = disk((220, 220), (110.2, 109.9), 90.0) > 0
    (polygon,) = trace(mask)
    assert len(polygon) < 0.8 * 2 * np.pi * 90
