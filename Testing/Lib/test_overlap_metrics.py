"""Scores of a case against counts by hand and against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.evaluation.case_scores import Outcome, StructureScore, score_case, scores_of_case
from LungSegmentationLib.evaluation.overlap import Overlap, count_pairs
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.structures import StructureMap

LABELS = load_label_set()
Array = NDArray[np.uint8]


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 2.0, 5.0)) -> Grid:
    return Grid((shape[2], shape[1], shape[0]), spacing, (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def by_key(scores: tuple[StructureScore, ...]) -> dict[str, StructureScore]:
    return {score.key: score for score in scores}


def cubes() -> tuple[Array, Array]:
    """Reference heart of 4×4×4, prediction moved by one row: 48 of 64 voxels shared."""
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:6, 2:6, 2:6] = LABELS["heart"].label
    return reference, np.roll(reference, 1, axis=1)


def test_a_cube_moved_by_a_quarter_has_the_scores_of_the_hand() -> None:
    reference, prediction = cubes()
    (score,) = score_case(prediction, reference, grid(reference.shape), LABELS)
    assert score.key == "heart"
    assert score.outcome is Outcome.COMPARED
    assert score.dice == pytest.approx(0.75)
    assert score.iou == pytest.approx(48 / 80)
    assert score.sensitivity == pytest.approx(0.75)
    assert score.precision == pytest.approx(0.75)
    # A voxel has 1 × 2 × 5 mm³.
    assert score.reference_cc == pytest.approx(0.64)
    assert score.volume_difference_cc == pytest.approx(0)
    # Moved by one row of 2 mm.
    assert score.hd95_mm == pytest.approx(2.0)
    assert score.surface_dice == pytest.approx(1.0)


def test_a_prediction_that_is_too_large_has_full_sensitivity_and_less_precision() -> None:
    reference, _ = cubes()
    prediction = reference.copy()
    prediction[2:6, 2:6, 6] = LABELS["heart"].label
    (score,) = score_case(prediction, reference, grid(reference.shape), LABELS)
    assert (score.sensitivity, score.precision) == (1.0, pytest.approx(0.8))
    assert score.volume_difference_cc == pytest.approx(16 * 0.01)
    assert score.dice == pytest.approx(2 * 64 / (64 + 80))


def test_a_perfect_prediction_is_perfect_in_every_number() -> None:
    reference, _ = cubes()
    (score,) = score_case(reference.copy(), reference, grid(reference.shape), LABELS)
    assert (score.dice, score.iou, score.sensitivity, score.precision, score.surface_dice) == (1, 1, 1, 1, 1)
    assert (score.hd95_mm, score.mean_distance_mm, score.volume_difference_cc) == (0, 0, 0)


def test_a_missed_structure_scores_zero_and_has_no_distance() -> None:
    reference, _ = cubes()
    (score,) = score_case(np.zeros_like(reference), reference, grid(reference.shape), LABELS)
    assert score.outcome is Outcome.MISSED
    assert (score.dice, score.iou, score.sensitivity, score.surface_dice) == (0, 0, 0, 0)
    assert (score.precision, score.hd95_mm, score.mean_distance_mm) == (None, None, None)
    assert score.volume_difference_cc == pytest.approx(-0.64)


def test_a_false_alarm_scores_zero_where_the_reference_is_known_to_be_empty() -> None:
    prediction, _ = cubes()
    reference = np.zeros_like(prediction)
    (score,) = score_case(prediction, reference, grid(reference.shape), LABELS, annotated=["heart"])
    assert score.outcome is Outcome.FALSE_ALARM
    assert (score.dice, score.iou, score.precision, score.surface_dice) == (0, 0, 0, 0)
    assert (score.sensitivity, score.hd95_mm, score.mean_distance_mm) == (None, None, None)


def test_empty_against_empty_has_no_score_and_is_said() -> None:
    empty = np.zeros((3, 4, 5), np.uint8)
    (score,) = score_case(empty, empty, grid(empty.shape), LABELS, annotated=["heart"])
    assert score.outcome is Outcome.BOTH_EMPTY
    numbers = (score.dice, score.iou, score.sensitivity, score.precision, score.hd95_mm, score.surface_dice)
    assert set(numbers) == {None}
    assert (score.reference_cc, score.prediction_cc) == (0, 0)


def test_a_structure_that_nobody_drew_is_left_out_and_not_a_false_alarm() -> None:
    reference, _ = cubes()
    prediction = reference.copy()
    prediction[0, 0, 0] = LABELS["esophagus"].label
    done = scores_of_case("x", prediction, reference, grid(reference.shape), LABELS)
    assert [score.key for score in done.scores] == ["heart"]
    assert set(done.not_annotated) == set(LABELS.keys) - {"heart"}


def test_what_is_lost_to_a_structure_that_nobody_drew_is_said() -> None:
    reference, _ = cubes()
    prediction = reference.copy()
    prediction[2, 2:6, 2:6] = LABELS["ptv"].label
    (score,) = score_case(prediction, reference, grid(reference.shape), LABELS)
    assert score.sensitivity == pytest.approx(0.75)
    assert score.unjudged_cc == pytest.approx(16 * 0.01)


def overlapping() -> tuple[StructureMap, StructureMap]:
    """A GTV of 2×2×2 in a lung of 6×6×6; the prediction has the GTV moved by one column."""
    lung, gtv = np.zeros((8, 8, 8), bool), np.zeros((8, 8, 8), bool)
    lung[1:7, 1:7, 1:7] = True
    gtv[3:5, 3:5, 3:5] = True
    reference = StructureMap.from_masks(LABELS, {"lung_left": lung, "gtv": gtv}, lung.shape)
    prediction = StructureMap.from_masks(LABELS, {"lung_left": lung, "gtv": np.roll(gtv, 1, 2)}, lung.shape)
    return reference, prediction


def test_as_drawn_a_lung_keeps_the_voxels_under_the_tumor() -> None:
    reference, prediction = overlapping()
    space = grid(reference.shape)
    drawn = by_key(score_case(prediction, reference, space, LABELS, exclusive=False))
    assert drawn["lung_left"].dice == 1
    assert drawn["lung_left"].reference_cc == pytest.approx(216 * 0.01)
    exclusive = by_key(score_case(prediction, reference, space, LABELS, exclusive=True))
    # 216 − 8 on both sides; 4 voxels of the tumor are the other side's lung and the other way round.
    assert exclusive["lung_left"].dice == pytest.approx((208 - 4) / 208)
    assert exclusive["gtv"].dice == drawn["gtv"].dice == pytest.approx(0.5)


def test_the_reference_is_painted_without_what_the_prediction_does_not_know() -> None:
    reference, _ = overlapping()
    lung = (reference.mask("lung_left") * LABELS["lung_left"].label).astype(np.uint8)
    scores = score_case(lung, reference, grid(reference.shape), LABELS, keys=["lung_left", "lung_right"])
    assert [(score.key, score.dice) for score in scores] == [("lung_left", 1.0)]


def test_a_label_map_is_not_compared_as_drawn() -> None:
    reference, _ = overlapping()
    with pytest.raises(ValueError, match="label map"):
        score_case(reference.label_map(), reference, grid(reference.shape), LABELS, exclusive=False)


def test_another_grid_or_structure_is_refused() -> None:
    reference, prediction = cubes()
    with pytest.raises(ValueError, match="grid"):
        score_case(prediction, reference, grid((8, 8, 9)), LABELS)
    with pytest.raises(BadInputError, match="spleen"):
        score_case(prediction, reference, grid(reference.shape), LABELS, keys=["spleen"])


def test_the_confusion_table_holds_every_shared_volume() -> None:
    reference, prediction = cubes()
    prediction[0, 0, 0:2] = LABELS["gtv"].label
    prediction[2, 2, 2:6] = LABELS["gtv"].label
    reference[7, 7, 7] = LABELS["gtv"].label
    table = scores_of_case("x", prediction, reference, grid(reference.shape), LABELS).confusion
    assert table.rows == ("gtv", "heart", "")
    volumes = {
        (row, column): round(table.volumes[i, j] / 0.01)
        for i, row in enumerate(table.rows)
        for j, column in enumerate(table.columns)
    }
    # Row 2 of the reference's heart is free after the move; four of its sixteen voxels became GTV.
    assert volumes["heart", "heart"] == 48
    assert volumes["heart", "gtv"] == 4
    assert volumes["heart", ""] == 12
    assert volumes["", "heart"] == 16
    assert volumes["", "gtv"] == 2
    assert volumes["gtv", ""] == 1
    assert (table.totals / 0.01).round().tolist() == [1, 64, 512 - 65]


def test_in_the_confusion_table_as_drawn_one_voxel_counts_for_each_of_its_structures() -> None:
    reference, prediction = overlapping()
    table = scores_of_case("x", prediction, reference, grid(reference.shape), LABELS, exclusive=False).confusion
    row, lung, gtv = table.rows.index("gtv"), table.columns.index("lung_left"), table.columns.index("gtv")
    assert table.volumes[row, lung] == pytest.approx(0.08)
    assert table.volumes[row, gtv] == pytest.approx(0.04)
    assert table.totals[row] == pytest.approx(0.08)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, (3, 5, 6), elements={"min_value": 0, "max_value": 3}),
       hnp.arrays(np.uint8, (3, 5, 6), elements={"min_value": 0, "max_value": 3}))  # fmt: skip
def test_overlaps_are_those_of_simpleitk(reference: Array, prediction: Array) -> None:
    measured = sitk.LabelOverlapMeasuresImageFilter()
    measured.Execute(sitk.GetImageFromArray(prediction), sitk.GetImageFromArray(reference))
    for score in score_case(prediction, reference, grid(reference.shape), LABELS):
        label = LABELS[score.key].label
        assert score.dice == pytest.approx(measured.GetDiceCoefficient(label), rel=1e-9)
        assert score.iou == pytest.approx(measured.GetJaccardCoefficient(label), rel=1e-9)
        assert (score.volume_difference_cc < 0) == (measured.GetVolumeSimilarity(label) < 0)


def test_ratios_of_nothing_are_not_defined() -> None:
    nothing = Overlap(0, 0, 0)
    assert (nothing.dice, nothing.iou, nothing.sensitivity, nothing.precision) == (None, None, None, None)


def test_pairs_of_values_are_counted_voxel_by_voxel() -> None:
    reference = np.array([[[0, 0, 1], [255, 2, 0]]], np.uint8)
    prediction = np.array([[[0, 3, 1], [255, 1, 0]]], np.uint8)
    counts = count_pairs(reference, prediction)
    assert {(int(r), int(p)): int(counts[r, p]) for r, p in np.argwhere(counts)} == {
        (0, 0): 2, (0, 3): 1, (1, 1): 1, (2, 1): 1, (255, 255): 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="shapes"):
        count_pairs(reference, prediction[:, :1])


def test_one_slice_is_enough() -> None:
    reference = np.zeros((1, 9, 9), np.uint8)
    reference[0, 2:7, 2:7] = LABELS["heart"].label
    (score,) = score_case(np.roll(reference, 1, 2), reference, grid(reference.shape), LABELS)
    assert score.dice == pytest.approx(0.8)
    assert score.hd95_mm == pytest.approx(1.0)
