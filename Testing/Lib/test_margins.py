"""Margins, bodies and interpolated slices, against analytic shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LungSegmentationLib.cohort.body import body_mask
from LungSegmentationLib.cohort.gaps import fill_interpolated_slices
from LungSegmentationLib.cohort.margins import with_margin
from LungSegmentationLib.errors import UsageError


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.floats(0.6, 2.0), st.floats(0.6, 2.0), st.floats(1.0, 5.0)),
    st.floats(2.0, 12.0),
    st.tuples(st.integers(0, 11), st.integers(0, 25), st.integers(0, 25)),
)
def test_the_margin_of_one_voxel_is_a_ball_in_mm_whatever_the_spacing(
    spacing: tuple[float, float, float], margin: float, place: tuple[int, int, int]
) -> None:
    mask = np.zeros((12, 26, 26), bool)
    mask[place] = True
    z, y, x = np.indices(mask.shape)
    distance = np.sqrt(
        ((z - place[0]) * spacing[2]) ** 2 + ((y - place[1]) * spacing[1]) ** 2 + ((x - place[2]) * spacing[0]) ** 2
    )
    sure = np.abs(distance - margin) > 1e-5
    grown = with_margin(mask, spacing, margin)
    assert (grown == (distance <= margin))[sure].all()


def test_the_margin_ends_at_the_body_but_the_target_stays() -> None:
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 4, 4] = mask[0, 4, 8] = True
    body = np.zeros_like(mask)
    body[:, :, :6] = True
    grown = with_margin(mask, (1, 1, 1), 3, within=body)
    assert grown[0, 4, 8]
    assert not grown[0, 4, 6:8].any()
    assert grown[0, 4, 1:6].all()


def test_no_target_gives_no_margin() -> None:
    assert not with_margin(np.zeros((2, 3, 4), bool), (1, 1, 1), 5).any()


@pytest.mark.parametrize("margin", [0, -1, 51, float("nan")])
def test_a_margin_that_cannot_be_meant_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="margin"):
        with_margin(np.ones((1, 1, 1), bool), (1, 1, 1), margin)


def test_the_body_is_found_without_couch_and_with_its_lungs() -> None:
    y, x = np.indices((200, 240))
    ellipse = ((y - 90) / 60) ** 2 + ((x - 120) / 90) ** 2 <= 1
    lung = ((y - 90) / 30) ** 2 + ((x - 80) / 25) ** 2 <= 1
    couch = (y > 160) & (y < 164)
    ct = np.full((3, 200, 240), -1000, np.int16)
    ct[:, ellipse] = 30
    ct[:, lung] = -800
    ct[:, couch] = 100
    body = body_mask(ct)
    assert body.shape == ct.shape
    assert body[:, lung].all()
    assert not body[:, couch].any()
    assert body.sum() == pytest.approx(3 * ellipse.sum(), rel=0.02)


def test_air_alone_has_no_body() -> None:
    assert not body_mask(np.full((2, 64, 65), -1000, np.int16)).any()


def test_a_cone_is_continued_through_an_interpolated_slice() -> None:
    y, x = np.indices((81, 81))
    radius = np.hypot(y - 40, x - 40)
    mask = np.stack([radius <= r for r in (30, 25, 20)])
    truth = mask[1].copy()
    mask[1] = False
    assert fill_interpolated_slices(mask, (1,)) == (1,)
    assert (mask[1] ^ truth).sum() <= 0.01 * truth.sum()


def test_a_slice_that_somebody_drew_or_that_ends_the_structure_stays_as_it_is() -> None:
    mask = np.zeros((4, 8, 8), bool)
    mask[0:2, 2:5, 2:5] = True
    before = mask.copy()
    assert fill_interpolated_slices(mask, (1, 2, 3)) == ()
    assert (mask == before).all()
