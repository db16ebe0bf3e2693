"""Mended predictions against volumes made by hand, SciPy's pieces and holes, and rules that any result must keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.geometry import Grid, Reorientation
from LungSegmentationLib.inference.pieces import CORNERS, FACES, FACES_IN_PLANE, find_pieces, find_runs
from LungSegmentationLib.inference.postprocessing import postprocess, rules_of
from LungSegmentationLib.labels import (
    LabelSet,
    Postprocessing,
    label_set_from_dict,
    label_set_to_dict,
    load_label_set,
    without_postprocessing,
)
from LungSegmentationLib.structures import StructureMap

THORAX = load_label_set()
GTV, PTV, RIGHT, LEFT, HEART, ESOPHAGUS, CORD = range(1, 8)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
LARGEST = Postprocessing("largest")
SIDES = {"lung_right": Postprocessing(side="right"), "lung_left": Postprocessing(side="left")}


def grid_of(shape: tuple[int, ...], spacing: tuple[float, float, float] = (1, 1, 1)) -> Grid:
    """An axial grid: x to the left, y to the back, z to the head."""
    return Grid((shape[2], shape[1], shape[0]), spacing, (0.0, 0.0, 0.0), AXIAL)


def mended(labels: np.ndarray, rules: dict[str, Postprocessing], **more: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    structures = StructureMap.from_label_map(THORAX, labels)
    before = structures.bits.copy()
    grid = more.pop("grid", grid_of(labels.shape))
    result = postprocess(structures, grid, more.pop("keys", THORAX.keys), rules, **{"exclusive": True, **more})
    assert np.array_equal(structures.bits, before), "the prediction itself was changed"
    return result.structures.label_map(), result.changes


def chest(shape: tuple[int, int, int] = (20, 60, 100)) -> np.ndarray:
    """Two lungs, a heart between them; the patient's right lung at low x."""
    labels = np.zeros(shape, np.uint8)
    labels[2:18, 10:50, 5:40] = RIGHT
    labels[2:18, 10:50, 60:95] = LEFT
    labels[4:12, 15:35, 42:58] = HEART
    return labels


@pytest.mark.parametrize(
    ("connectivity", "footprint"),
    [
        (CORNERS, np.ones((3, 3, 3))),
        (FACES, ndimage.generate_binary_structure(3, 1)),
        (FACES_IN_PLANE, ndimage.generate_binary_structure(3, 1) * np.array([0, 1, 0]).reshape(3, 1, 1)),
    ],
)
@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)))
def test_pieces_are_those_of_scipy(connectivity: Any, footprint: np.ndarray, mask: np.ndarray) -> None:
    pieces = find_pieces(find_runs(mask.shape, enumerate(mask)), connectivity)
    expected, count = ndimage.label(mask, footprint)
    assert len(pieces) == count
    found = np.zeros(mask.size, int)
    for number in range(count):
        for indices in pieces.chosen(np.arange(count) == number).indices():
            found[indices] = number + 1
    # The same numbering too: both count in the order of the first voxels.
    assert np.array_equal(found.reshape(mask.shape), expected)


def test_an_organ_keeps_its_largest_piece_and_says_what_went() -> None:
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[1:5, 5:15, 5:15] = HEART
    labels[0, 0, 0:3] = HEART
    labels[5, 18:20, 18:20] = HEART
    expected = np.where(labels == HEART, 0, labels)
    expected[1:5, 5:15, 5:15] = HEART
    found, changes = mended(labels, {"heart": LARGEST}, grid=grid_of(labels.shape, (10, 10, 10)))
    assert np.array_equal(found, expected)
    assert changes == ("heart: 2 pieces of together 7.0 cc removed.",)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[0, 0:4, 0:4], labels[1, 4:8, 4:8], labels[3, 0, 0] = CORD, CORD, CORD
    found, _ = mended(labels, {"spinal_cord": LARGEST})
    assert found[0, 0, 0] == found[1, 7, 7] == CORD
    assert found[3, 0, 0] == 0


def test_several_tumors_stay_and_specks_below_the_smallest_size_go() -> None:
    labels = np.zeros((4, 30, 30), np.uint8)
    labels[1:3, 1:6, 1:6] = GTV  # 50 mm³
    labels[1:3, 20:25, 20:25] = GTV
    labels[1, 10:13, 10:13] = GTV  # 9 mm³
    found, changes = mended(labels, {"gtv": Postprocessing(min_cc=0.01)})
    assert (found == GTV).sum() == 100
    assert changes == ("GTV: 1 piece of 0.009 cc removed.",)
    assert (mended(labels, {"gtv": Postprocessing(min_cc=0.009)})[0] == labels).all()
    assert (mended(labels, {"gtv": Postprocessing(2)})[0] == found).all()


def test_a_speck_in_a_lung_becomes_lung_and_one_beside_it_background() -> None:
    labels = chest()
    labels[10, 20:22, 20:22] = GTV
    labels[10, 55:57, 45:47] = GTV
    labels[10:12, 30, 10:12] = ESOPHAGUS
    labels[10:12, 31, 10:12] = GTV  # two stray structures side by side, both in the lung
    expected = chest()
    rules = {"gtv": Postprocessing(min_cc=0.1), "esophagus": Postprocessing(min_cc=0.1)}
    found, changes = mended(labels, rules)
    assert np.array_equal(found, expected)
    assert changes == (
        "GTV: 3 pieces of together 0.012 cc removed.",
        "esophagus: 1 piece of 0.004 cc removed.",
        "right lung: 0.012 cc gained where other structures' pieces in it were removed.",
    )


def test_a_piece_at_the_border_of_the_volume_goes_to_what_is_there() -> None:
    labels = np.full((3, 4, 5), RIGHT, np.uint8)
    labels[0, 0, 0] = labels[2, 3, 4] = HEART
    assert (mended(labels, {"heart": Postprocessing(min_cc=1)})[0] == RIGHT).all()
    everything = np.full((3, 4, 5), HEART, np.uint8)
    assert (mended(everything, {"heart": Postprocessing(min_cc=1)})[0] == 0).all()


def test_overlapping_structures_are_mended_each_for_itself() -> None:
    shape = (6, 20, 20)
    masks = {key: np.zeros(shape, bool) for key in ("gtv", "ptv", "lung_right")}
    masks["lung_right"][:, 2:18, 2:18] = True
    masks["ptv"][1:5, 5:12, 5:12] = True
    masks["gtv"][2:4, 7:10, 7:10] = True
    masks["gtv"][5, 15, 15] = True
    masks["ptv"][2, 6, 6] = False
    structures = StructureMap.from_masks(THORAX, masks, shape)
    rules = {"gtv": LARGEST, "ptv": Postprocessing(fill_holes="volume")}
    result = postprocess(structures, grid_of(shape), THORAX.keys, rules, exclusive=False).structures
    assert np.array_equal(result.mask("lung_right"), masks["lung_right"])
    assert result.mask("gtv").sum() == 18
    assert result.mask("ptv").sum() == 4 * 7 * 7


def test_holes_are_filled_in_three_dimensions_or_in_each_axial_slice() -> None:
    labels = np.zeros((7, 12, 12), np.uint8)
    labels[1:6, 2:10, 2:10] = HEART
    labels[3, 5, 5] = 0  # closed on all sides
    labels[:, 7, 7] = 0  # a channel from foot to head
    volume, changes = mended(labels, {"heart": Postprocessing(fill_holes="volume")})
    expected = ndimage.binary_fill_holes(labels == HEART)
    assert np.array_equal(volume == HEART, expected)
    assert changes == ("heart: 1 hole of 0.001 cc filled.",)
    slices, changes = mended(labels, {"heart": Postprocessing(fill_holes="slices")})
    assert np.array_equal(slices == HEART, [ndimage.binary_fill_holes(image == HEART) for image in labels])
    assert changes == ("heart: 6 holes of together 0.006 cc filled.",)


def test_a_hole_that_touches_only_corners_outside_is_closed() -> None:
    labels = np.zeros((1, 5, 5), np.uint8)
    labels[0, 1:4, 1:4] = HEART
    labels[0, 2, 2] = labels[0, 1, 1] = 0
    found, _ = mended(labels, {"heart": Postprocessing(fill_holes="slices")})
    assert found[0, 2, 2] == HEART
    assert found[0, 1, 1] == 0


def test_filling_leaves_what_another_structure_holds() -> None:
    labels = np.zeros((7, 16, 16), np.uint8)
    labels[1:6, 2:14, 2:14] = RIGHT
    labels[2:5, 5:11, 5:11] = 0
    labels[2:5, 6:10, 6:10] = GTV
    labels[3, 8, 8] = 0  # inside the tumor: not the lung's, even if the tumor leaves it
    rules = {"lung_right": Postprocessing(fill_holes="volume")}
    found, _ = mended(labels, rules)
    assert np.array_equal(found == GTV, labels == GTV)
    assert found[3, 8, 8] == 0
    assert (found == RIGHT).sum() == 5 * 12 * 12 - 3 * 4 * 4
    both, _ = mended(labels, rules | {"gtv": Postprocessing(fill_holes="volume")})
    assert both[3, 8, 8] == GTV


def test_large_holes_are_left() -> None:
    labels = np.zeros((14, 30, 30), np.uint8)
    labels[1:13, 2:28, 2:28] = RIGHT
    labels[2:12, 5:15, 5:15] = 0  # 1 cc
    labels[2:12, 5:15, 17:27] = 0
    labels[2, 5, 27] = 0  # and a voxel more
    found, changes = mended(labels, {"lung_right": Postprocessing(fill_holes="volume")})
    assert changes == ("right lung: 1 hole of 1.0 cc filled.",)
    assert not found[2:12, 5:15, 17:27].any()
    assert (found[2:12, 5:15, 5:15] == RIGHT).all()


def test_a_tumor_in_a_lung_that_was_drawn_without_it_stays_no_lung() -> None:
    shape = (12, 20, 20)
    masks = {key: np.zeros(shape, bool) for key in ("gtv", "lung_right")}
    masks["gtv"][4:8, 6:12, 6:12] = True
    masks["lung_right"][1:11, 2:18, 2:18] = True
    masks["lung_right"][4:8, 6:12, 6:12] = False
    structures = StructureMap.from_masks(THORAX, masks, shape)
    rules = dict.fromkeys(THORAX.keys, Postprocessing(fill_holes="volume"))
    result = postprocess(structures, grid_of(shape), THORAX.keys, rules, exclusive=False)
    assert result.changes == ()
    # The lung lies under the tumor, so a hole of the tumor is one, lung or not.
    masks["lung_right"][1:11, 2:18, 2:18] = True
    masks["gtv"][5, 8, 8] = False
    structures = StructureMap.from_masks(THORAX, masks, shape)
    result = postprocess(structures, grid_of(shape), THORAX.keys, rules, exclusive=False)
    assert result.changes == ("GTV: 1 hole of 0.001 cc filled.",)


def test_a_piece_of_a_lung_on_the_other_side_becomes_the_other_lung() -> None:
    labels = chest()
    labels[8:12, 20:30, 80:90] = RIGHT
    found, changes = mended(labels, SIDES)
    assert np.array_equal(found, chest())
    assert changes == ("right lung: 1 piece of 0.4 cc in the patient's left half became left lung.",)
    labels = chest()
    labels[8:12, 20:30, 10:20] = LEFT
    labels[8:12, 2:6, 10:20] = LEFT
    found, changes = mended(labels, SIDES)
    assert not (found[:, :, :50] == LEFT).any()
    assert changes == ("left lung: 2 pieces of together 0.56 cc in the patient's right half became right lung.",)


def test_two_lungs_under_one_name_are_told_apart() -> None:
    labels = chest()
    labels[labels == LEFT] = RIGHT
    assert np.array_equal(mended(labels, SIDES)[0], chest())
    # Also if the other name stands for no more than a speck.
    labels[8, 20, 20] = LEFT
    assert np.array_equal(mended(labels, SIDES)[0], chest())


def test_exchanged_lungs_are_left_and_told() -> None:
    labels = chest()
    exchanged = np.array([0, 0, 0, LEFT, RIGHT, HEART], np.uint8)[labels]
    found, changes = mended(exchanged, SIDES)
    assert np.array_equal(found, exchanged)
    assert len(changes) == 1
    assert "orientation" in changes[0]


def test_one_lung_alone_has_no_sides() -> None:
    labels = chest()
    labels[labels == LEFT] = 0
    labels[8:10, 20:24, 30:34] = LEFT
    found, changes = mended(labels, SIDES)
    assert np.array_equal(found, labels)
    assert changes == ()


def test_a_shifted_mediastinum_takes_the_midline_along() -> None:
    # The right lung is collapsed, the left one reaches across the middle of the body at x = 50.
    labels = np.zeros((20, 60, 100), np.uint8)
    labels[4:14, 15:45, 4:16] = RIGHT
    labels[2:18, 10:50, 28:95] = LEFT
    labels[8:10, 5:8, 30:45] = LEFT  # a piece right of the body's middle, left of the lungs'
    assert np.array_equal(mended(labels, SIDES)[0], labels)


def test_lungs_that_touch_are_left_where_they_are() -> None:
    labels = chest()
    labels[8:10, 20:22, 40:52] = RIGHT
    labels[8:10, 20:22, 52:60] = LEFT
    assert np.array_equal(mended(labels, SIDES)[0], labels)


def test_a_piece_near_the_midline_stays() -> None:
    labels = chest()
    labels[15:17, 2:5, 47:57] = RIGHT
    assert np.array_equal(mended(labels, SIDES)[0], labels)


def _turned(direction: tuple[float, ...]) -> tuple[np.ndarray, Grid]:
    """The chest with a piece on the wrong side, as a volume of another acquisition."""
    labels = chest()
    labels[8:12, 20:30, 80:90] = RIGHT
    labels[3:17, 25, 20] = 0  # a channel that only axial slices close
    plain = grid_of(labels.shape)
    axes = np.asarray(direction).reshape(3, 3)
    order = [int(np.abs(axes[:, n]).argmax()) for n in range(3)]  # LPS axis of each index axis
    turned = labels.transpose([2 - order[2 - n] for n in range(3)])
    flips = tuple(slice(None, None, -1 if axes[order[2 - n], 2 - n] < 0 else 1) for n in range(3))
    size = [plain.size[order[n]] for n in range(3)]
    return np.ascontiguousarray(turned[flips]), Grid((size[0], size[1], size[2]), (1, 1, 1), (7, 8, 9), direction)


@pytest.mark.parametrize(
    "direction",
    [
        AXIAL,
        (-1, 0, 0, 0, 1, 0, 0, 0, -1),  # feet first
        (-1, 0, 0, 0, -1, 0, 0, 0, 1),  # prone
        (0, 0, 1, 1, 0, 0, 0, -1, 0),  # sagittal
        (1, 0, 0, 0, 0, 1, 0, -1, 0),  # coronal
    ],
)
def test_the_orientation_of_the_volume_changes_nothing(direction: tuple[float, ...]) -> None:
    labels, grid = _turned(direction)
    rules = {
        "lung_right": Postprocessing("largest", 0.01, "slices", side="right"),
        "lung_left": Postprocessing("largest", 0.01, "slices", side="left"),
    }
    found, _ = mended(labels, rules, grid=grid)
    axial = Reorientation.of(grid).apply(found)
    assert np.array_equal(axial, chest())


def test_an_oblique_volume_has_its_midline_in_the_patient() -> None:
    # Rotated by 30° about z: a column is no plane of constant x, but x = 0 lies between the lungs.
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
    grid = Grid((150, 150, 6), (1, 1, 3), (-27.5, -101.9, 0), (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    index = np.stack(np.meshgrid(range(150), range(150), range(6), indexing="ij"), -1).reshape(-1, 3)
    x, y, _ = grid.to_physical(index).T
    lungs = np.where((abs(abs(x) - 35) < 20) & (abs(y) < 40), np.where(x < 0, RIGHT, LEFT), 0)
    wrong = (abs(x - 40) < 5) & (abs(y - 10) < 6)
    labels = np.zeros(grid.shape, np.uint8)
    truth = np.zeros(grid.shape, np.uint8)
    truth[index[:, 2], index[:, 1], index[:, 0]] = lungs
    labels[index[:, 2], index[:, 1], index[:, 0]] = np.where(wrong, RIGHT, lungs)
    assert (labels != truth).any()
    found, changes = mended(labels, SIDES, grid=grid)
    assert np.array_equal(found, truth)
    assert len(changes) == 1


def test_only_what_was_predicted_is_touched() -> None:
    labels = chest()
    labels[0, 0, 0] = HEART
    labels[8:12, 20:30, 80:90] = RIGHT
    rules = {"heart": LARGEST, **SIDES}
    assert np.array_equal(mended(labels, rules, keys=["lung_right", "gtv"])[0], labels)
    assert mended(labels, {}, keys=THORAX.keys)[1] == ()
    with pytest.raises(BadInputError, match="liver"):
        mended(labels, rules, keys=["liver"])


def test_nothing_to_mend_gives_the_same_object() -> None:
    structures = StructureMap.from_label_map(THORAX, chest())
    result = postprocess(structures, grid_of(structures.shape), THORAX.keys, {"heart": LARGEST}, exclusive=True)
    assert result.structures is structures
    assert result.changes == ()
    empty = StructureMap(THORAX, np.zeros((1, 1, 1), np.uint8))
    assert postprocess(empty, grid_of((1, 1, 1)), THORAX.keys, {"heart": LARGEST}, exclusive=True).changes == ()


RULES = st.builds(
    Postprocessing,
    components=st.one_of(st.just("all"), st.just("largest"), st.integers(1, 3)),
    min_cc=st.sampled_from([0.0, 0.002, 0.005]),
    fill_holes=st.sampled_from(["none", "volume", "slices"]),
)
VOLUMES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=8), elements=st.integers(0, 7))
SOME_RULES = st.dictionaries(st.sampled_from(THORAX.keys), RULES)


@settings(max_examples=150, deadline=None)
@given(VOLUMES, SOME_RULES)
def test_an_exclusive_map_mended_twice_is_as_mended_once(labels: np.ndarray, rules: dict[str, Postprocessing]) -> None:
    once, _ = mended(labels, rules)
    twice, changes = mended(once, rules)
    assert np.array_equal(once, twice)
    assert changes == ()


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=8), elements=st.integers(0, 127)), RULES)
def test_overlapping_structures_gain_voxels_in_holes_only(bits: np.ndarray, rule: Postprocessing) -> None:
    rules = dict.fromkeys(THORAX.keys, rule)
    structures = StructureMap(THORAX, bits)
    once = postprocess(structures, grid_of(bits.shape), THORAX.keys, rules, exclusive=False).structures
    assert np.array_equal(
        postprocess(once, grid_of(bits.shape), THORAX.keys, rules, exclusive=False).structures.bits, once.bits
    )
    for key in THORAX.keys:
        before, after = structures.mask(key), once.mask(key)
        hull = ndimage.binary_fill_holes(before)
        if rule.fill_holes == "slices":
            hull = np.array([ndimage.binary_fill_holes(image) for image in before])
        if rule.fill_holes == "none":
            hull = before
        assert not (after & ~hull).any()
        _, count = ndimage.label(after, np.ones((3, 3, 3)))
        assert rule.most_pieces is None or count <= rule.most_pieces


@settings(max_examples=60, deadline=None)
@given(VOLUMES)
def test_removing_gives_no_voxel_to_a_structure_that_does_not_border_on_it(labels: np.ndarray) -> None:
    found, _ = mended(labels, {"heart": LARGEST, "gtv": LARGEST})
    changed = found != labels
    assert np.isin(labels[changed], [HEART, GTV]).all()
    pieces, _ = ndimage.label(changed, np.ones((3, 3, 3)))
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        wide = tuple(slice(max(0, span.start - 1), span.stop + 1) for span in box)
        piece = pieces[wide] == number
        shell = ndimage.binary_dilation(piece, ndimage.generate_binary_structure(3, 1)) & ~piece
        assert set(np.unique(found[wide][piece])) <= {0, *np.unique(labels[wide][shell])}


def test_a_set_that_says_nothing_has_the_rules_of_the_shipped_one() -> None:
    plain = without_postprocessing(THORAX)
    assert rules_of(plain) == rules_of(THORAX)
    assert rules_of(THORAX)
    other = label_set_to_dict(plain) | {"title": "Another", "exclusive": False}
    assert rules_of(label_set_from_dict(other, "x")) == {}
    assert rules_of(label_set_from_dict(other | {"name": "no such set"}, "x")) == {}


def test_model_cards_hold_the_rules_and_old_cards_without_them_still_load(tmp_path: Path) -> None:
    from LungSegmentationLib.networks.card import parse_card

    def card(label_set: LabelSet) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "created": "2026-01-01T00:00:00Z",
            "label_set": label_set_to_dict(label_set),
            "structures": ["heart"],
            "overlap": "exclusive",
            "preprocessing": {
                "size": [64, 64],
                "window": [-160, 240],
                "normalization": "zscore",
                "field_of_view": "full",
                "neighbors": 0,
            },
            "network": {"in_channels": 1, "out_channels": 2},
            "training": {
                "epochs": 1,
                "best_epoch": 1,
                "patients": {"train": 1, "val": 0, "test": 0},
                "slices": {"train": 3, "val": 0, "test": 0},
            },
            "software": {"lungsegmentation": "0.1.0"},
            "data_fingerprint": "0" * 64,
        }

    old = parse_card(json.dumps(card(without_postprocessing(THORAX))), "old")
    assert all(structure.postprocessing is None for structure in old.label_set.structures)
    new = parse_card(json.dumps(card(THORAX)), "new")
    assert rules_of(new.label_set) == rules_of(THORAX)
    assert parse_card(new.model_dump_json(), "again") == new
    partly = card(THORAX)
    partly["label_set"]["structures"][4]["postprocessing"] = {"components": "largest"}
    assert parse_card(json.dumps(partly), "partly").label_set["heart"].postprocessing == LARGEST
    foreign = card(THORAX)
    foreign["label_set"]["structures"][4]["shape"] = "round"
    with pytest.raises(BadInputError, match="does not know"):
        parse_card(json.dumps(foreign), "foreign")
    spoiled = card(THORAX)
    spoiled["label_set"]["structures"][4]["postprocessing"] = {"largest": True}
    with pytest.raises(BadInputError, match="unknown entry largest"):
        parse_card(json.dumps(spoiled), "spoiled")
