"""Structure maps: nothing drawn is lost, and the label map shows what the paint order says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import LabelSet, load_label_set
from LungSegmentationLib.structures import StructureMap, label_table

THORAX = load_label_set("thorax")
GTV, PTV, RIGHT, LEFT, HEART, ESOPHAGUS, CORD = (1 << bit for bit in range(7))

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)


def _large_label_set(number: int) -> LabelSet:
    structures = tuple(
        dataclasses.replace(THORAX["heart"], label=label, key=f"s{label}") for label in range(1, number + 1)
    )
    return LabelSet("large", "Large", True, structures, tuple(s.key for s in structures))


@pytest.mark.parametrize(
    ("bits", "label"),
    [
        (0, 0),
        (GTV, 1),
        (PTV, 2),
        (RIGHT, 3),
        (LEFT, 4),
        (HEART, 5),
        (ESOPHAGUS, 6),
        (CORD, 7),
        (GTV | PTV | RIGHT, 1),
        (PTV | RIGHT, 2),
        (PTV | LEFT, 2),
        (HEART | LEFT, 5),
        (PTV | HEART, 2),
        (ESOPHAGUS | PTV, 6),
        (ESOPHAGUS | GTV, 1),
        (CORD | PTV | ESOPHAGUS, 7),
        (CORD | GTV, 1),
        (GTV | PTV | RIGHT | LEFT | HEART | ESOPHAGUS | CORD, 1),
        (128, 0),
        (128 | HEART, 5),
    ],
)
def test_where_structures_overlap_the_last_painted_shows(bits: int, label: int) -> None:
    assert label_table(THORAX)[bits] == label


@pytest.mark.parametrize(
    ("left_out", "bits", "label"),
    [
        ("ptv", PTV | RIGHT, 3),
        ("ptv", PTV, 0),
        ("gtv", GTV | PTV | RIGHT, 2),
        ("gtv", GTV | CORD, 7),
        ("heart", HEART | LEFT, 4),
    ],
)
def test_a_structure_left_out_gives_its_voxels_back(left_out: str, bits: int, label: int) -> None:
    kept = [key for key in THORAX.keys if key != left_out]
    assert label_table(THORAX, kept)[bits] == label


def test_a_table_of_no_structures_is_background() -> None:
    table = label_table(THORAX, [])
    assert table.shape == (256,)
    assert table.dtype == np.uint8
    assert not table.any()


def test_a_table_of_an_unknown_structure_is_refused() -> None:
    with pytest.raises(BadInputError, match="liver"):
        label_table(THORAX, ["liver"])


@st.composite
def _masks(draw: st.DrawFn) -> tuple[tuple[int, int, int], dict[str, np.ndarray]]:
    shape = draw(SHAPES)
    keys = draw(st.lists(st.sampled_from(THORAX.keys), unique=True))
    return shape, {key: draw(hnp.arrays(bool, shape)) for key in keys}  # type: ignore[return-value]


@given(_masks())
def test_every_mask_comes_back_as_it_was_drawn(drawn: tuple[tuple[int, int, int], dict[str, np.ndarray]]) -> None:
    shape, masks = drawn
    joined = StructureMap.from_masks(THORAX, masks, shape)
    counts = joined.voxel_counts()
    assert joined.shape == shape
    for key in THORAX.keys:
        expected = masks.get(key, np.zeros(shape, bool))
        assert np.array_equal(joined.mask(key), expected)
        assert counts[key] == np.count_nonzero(expected)


@given(_masks())
def test_the_box_of_a_structure_ends_at_its_outermost_voxels(
    drawn: tuple[tuple[int, int, int], dict[str, np.ndarray]],
) -> None:
    shape, masks = drawn
    joined = StructureMap.from_masks(THORAX, masks, shape)
    for key in THORAX.keys:
        places = np.argwhere(masks.get(key, np.zeros(shape, bool)))
        expected = tuple(map(slice, places.min(0), places.max(0) + 1)) if len(places) else None
        assert joined.box(key) == expected


@given(_masks())
def test_a_label_map_is_the_masks_painted_one_over_the_other(
    drawn: tuple[tuple[int, int, int], dict[str, np.ndarray]],
) -> None:
    shape, masks = drawn
    masks.pop("lung_left", None)  # which of two overlapping lungs wins is nobody's claim
    painted = np.zeros(shape, np.uint8)
    by_hand = {"lung_right": 3, "heart": 5, "ptv": 2, "esophagus": 6, "spinal_cord": 7, "gtv": 1}
    for key, label in by_hand.items():
        if key in masks:
            painted[masks[key]] = label
    labels = StructureMap.from_masks(THORAX, masks, shape).label_map()
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, painted)


@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 7)))
def test_an_exclusive_label_map_survives_the_round_trip(labels: np.ndarray) -> None:
    assert np.array_equal(StructureMap.from_label_map(THORAX, labels).label_map(), labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_a_label_map_may_have_any_integer_type(dtype: type[np.integer]) -> None:
    labels = np.array([[[0, 1, 7]]], dtype)
    assert StructureMap.from_label_map(THORAX, labels).bits.tolist() == [[[0, GTV, CORD]]]


@pytest.mark.parametrize("value", [8, 255, 300, -1, -300])
def test_a_label_map_with_a_foreign_value_is_refused_with_that_value(value: int) -> None:
    with pytest.raises(BadInputError, match=rf"value {value}\b.*thorax"):
        StructureMap.from_label_map(THORAX, np.array([[[0, 1, value]]], np.int16))


def test_an_empty_volume_has_no_voxels_of_anything() -> None:
    empty = StructureMap.from_masks(THORAX, {}, (0, 4, 4))
    assert empty.label_map().shape == (0, 4, 4)
    assert set(empty.voxel_counts().values()) == {0}


def test_one_voxel_of_everything_counts_once_for_each() -> None:
    masks = {key: np.ones((1, 1, 1), bool) for key in THORAX.keys}
    assert StructureMap.from_masks(THORAX, masks, (1, 1, 1)).voxel_counts() == dict.fromkeys(THORAX.keys, 1)


def test_a_mask_of_another_shape_is_refused_and_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"heart.*\(1, 4, 4\).*\(3, 4, 4\)"):
        StructureMap.from_masks(THORAX, {"heart": np.ones((1, 4, 4), bool)}, (3, 4, 4))


def test_an_unknown_structure_is_refused() -> None:
    with pytest.raises(BadInputError, match="liver"):
        StructureMap.from_masks(THORAX, {"liver": np.ones((1, 1, 1), bool)}, (1, 1, 1))


def test_bits_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        StructureMap(THORAX, np.zeros((1, 1, 1), np.int16))


def test_eight_structures_fit_into_a_byte() -> None:
    label_set = _large_label_set(8)
    masks = {"s8": np.ones((1, 1, 1), bool)}
    assert StructureMap.from_masks(label_set, masks, (1, 1, 1)).bits.tolist() == [[[128]]]
    assert StructureMap.from_masks(label_set, masks, (1, 1, 1)).label_map().tolist() == [[[8]]]


def test_nine_structures_are_refused_in_words() -> None:
    with pytest.raises(BadInputError, match="9 structures"):
        StructureMap.from_masks(_large_label_set(9), {}, (1, 1, 1))
