"""Class weights from counts: the formula by hand, structures left out, structures without a pixel."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from LungSegmentationLib.cohort.cache import AxisRecord, CacheRecord
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.records import Geometry
from LungSegmentationLib.cohort.weights import (
    class_weights,
    current_class_weights,
    read_class_weights,
    write_class_weights,
)
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import load_label_set

LABELS = load_label_set()


def _record(bit_counts: dict[int, int], name: str = "c") -> CacheRecord:
    axis = AxisRecord(native=4, cached=4, scale=1.0, offset=0.0)
    geometry = Geometry(size=(4, 4, 1), spacing=(1, 1, 1), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    return CacheRecord(
        case=name,
        patient_id=name,
        annotated=(),
        structures=LABELS.keys,
        mean=0.0,
        std=1.0,
        window=(-1000.0, 400.0),
        slice_size=4,
        slices=1,
        field_of_view="full",
        label_resampling="coverage",
        native=geometry,
        axes=(0, 1, 2),
        flips=(False, False, False),
        y=axis,
        x=axis,
        grid=geometry,
        structure_counts=((0,) * 7,),
        label_counts=((0,) * 8,),
        bit_counts=bit_counts,
        case_fingerprint="",
        fingerprint="",
    )


GTV, PTV, RIGHT, LEFT, HEART = (1 << n for n in range(5))


def test_weights_are_the_root_of_the_inverse_frequency_with_mean_one() -> None:
    weights = class_weights([_record({0: 900, RIGHT: 64}), _record({0: 700, LEFT: 36, HEART: 4})], LABELS)
    assert weights.total == 1704
    assert weights.counts == {
        "background": 1600,
        "gtv": 0,
        "ptv": 0,
        "lung_right": 64,
        "lung_left": 36,
        "heart": 4,
        "esophagus": 0,
        "spinal_cord": 0,
    }
    # sqrt(1704 / 1600 …) is sqrt(1704) times 1/40, 1/8, 1/6, 1/2.
    parts = {"background": 1 / 40, "lung_right": 1 / 8, "lung_left": 1 / 6, "heart": 1 / 2}
    mean = sum(parts.values()) / 4
    for key, part in parts.items():
        assert weights.weights[key] == pytest.approx(part / mean)
    assert weights.cases == 2


def test_a_structure_without_a_pixel_weighs_as_an_average_one() -> None:
    weights = class_weights([_record({0: 100, RIGHT: 100})], LABELS)
    assert weights.weights["heart"] == 1.0
    assert all(math.isfinite(value) and value > 0 for value in weights.weights.values())
    assert weights.weights["background"] == pytest.approx(1.0)


def test_where_structures_overlap_the_painted_label_counts() -> None:
    # GTV over PTV over lung.
    weights = class_weights([_record({GTV | PTV | RIGHT: 5, PTV | RIGHT: 7, RIGHT: 11, 0: 13})], LABELS)
    assert [weights.counts[key] for key in ("background", "gtv", "ptv", "lung_right")] == [13, 5, 7, 11]


def test_what_is_left_out_counts_for_what_lies_under_it_and_has_no_weight() -> None:
    records = [_record({GTV | PTV | RIGHT: 5, PTV | RIGHT: 7, PTV: 2, RIGHT: 11, 0: 13})]
    weights = class_weights(records, LABELS, [key for key in LABELS.keys if key != "ptv"])
    assert "ptv" not in weights.weights
    assert "ptv" not in weights.counts
    assert weights.counts["lung_right"] == 18
    assert weights.counts["background"] == 15


def test_no_case_gives_equal_weights() -> None:
    weights = class_weights([], LABELS)
    assert set(weights.weights.values()) == {1.0}
    assert weights.total == 0


def test_the_file_says_method_counts_and_weights_and_comes_back(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    weights = class_weights([_record({0: 900, RIGHT: 64})], LABELS)
    write_class_weights(paths, weights)
    content = json.loads(paths.class_weights.read_text(encoding="utf-8"))
    assert content["method"] == "sqrt_inverse"
    assert content["counts"]["lung_right"] == 64
    assert list(content["weights"]) == ["background", *LABELS.keys]
    assert read_class_weights(paths) == weights


@pytest.mark.parametrize("text", ["{", "{}", '{"schema_version": 99}', "[]"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    paths = CohortPaths(tmp_path)
    paths.class_weights.write_text(text)
    with pytest.raises(BadInputError, match="class_weights"):
        read_class_weights(paths)


def test_weights_of_a_whole_cohort_take_no_more_than_its_counts() -> None:
    rng = np.random.default_rng(0)
    tables = [{int(v): int(n) for v, n in enumerate(rng.integers(0, 1000, 128)) if n} for _ in range(50)]
    weights = class_weights([_record(table, str(i)) for i, table in enumerate(tables)], LABELS)
    assert weights.total == sum(sum(table.values()) for table in tables)


def _warned(call, *arguments: object) -> tuple[object, list[str]]:
    said: list[str] = []
    return call(*arguments, said.append), said


def test_the_file_holds_as_long_as_the_same_cases_are_learned_from_in_any_order(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    records = [_record({0: 900, RIGHT: 64}, "a"), _record({0: 700, LEFT: 36}, "b")]
    edited = class_weights(records, LABELS).model_copy(
        update={"weights": dict.fromkeys(("background", *LABELS.keys), 3.0)}
    )
    write_class_weights(paths, edited)
    weights, said = _warned(current_class_weights, paths, records[::-1], LABELS, LABELS.keys)
    assert weights == edited
    assert said == []


@pytest.mark.parametrize("change", [{"case": "c"}, {"fingerprint": "other"}], ids=str)
def test_a_file_of_other_cases_is_not_used_but_said(tmp_path: Path, change: dict[str, str]) -> None:
    paths = CohortPaths(tmp_path)
    write_class_weights(paths, class_weights([_record({0: 900, RIGHT: 64}, "a")], LABELS))
    before = paths.class_weights.read_bytes()
    # sqrt(1700 / 1600) and sqrt(1700 / 100): 1/4 of each other, so 0.4 and 1.6 around their mean.
    records = [_record({0: 1600, LEFT: 100}, "a").model_copy(update=change)]
    weights, said = _warned(current_class_weights, paths, records, LABELS, None)
    assert weights.weights["background"] == pytest.approx(0.4)
    assert weights.weights["lung_left"] == pytest.approx(1.6)
    assert len(said) == 1
    assert "class_weights.json" in said[0]
    assert paths.class_weights.read_bytes() == before


def test_a_file_from_before_it_named_its_cases_is_not_trusted(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    records = [_record({0: 900, RIGHT: 64}, "a")]
    content = class_weights(records, LABELS).model_dump(mode="json")
    del content["digest"]
    paths.class_weights.write_text(json.dumps(content), encoding="utf-8")
    _, said = _warned(current_class_weights, paths, records, LABELS, None)
    assert len(said) == 1


def test_fewer_structures_are_weighed_by_counts_and_an_edited_file_that_then_does_not_count_is_said(
    tmp_path: Path,
) -> None:
    paths = CohortPaths(tmp_path)
    records = [_record({GTV | RIGHT: 5, RIGHT: 11, 0: 13}, "a")]
    whole = class_weights(records, LABELS)
    without, said = _warned(current_class_weights, paths, records, LABELS, ["lung_right"])
    assert without.counts == {"background": 13, "lung_right": 16}
    write_class_weights(paths, whole)
    assert _warned(current_class_weights, paths, records, LABELS, ["lung_right"]) == (without, said)
    assert said == []
    write_class_weights(paths, whole.model_copy(update={"weights": whole.weights | {"lung_right": 9.0}}))
    again, said = _warned(current_class_weights, paths, records, LABELS, ["lung_right"])
    assert again == without
    assert len(said) == 1
    assert "edited" in said[0]


def test_the_file_also_holds_where_only_structures_without_a_pixel_are_left_out(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    records = [_record({0: 900, RIGHT: 64}, "a")]
    edited = class_weights(records, LABELS).weights | {"lung_right": 9.0}
    write_class_weights(paths, class_weights(records, LABELS).model_copy(update={"weights": edited}))
    weights, said = _warned(current_class_weights, paths, records, LABELS, ["lung_right"])
    assert weights.weights == {"background": edited["background"], "lung_right": 9.0}
    assert said == []


@pytest.mark.parametrize("value", [-1.0, None, "x"])
def test_an_edited_weight_that_cannot_be_meant_is_refused(tmp_path: Path, value: object) -> None:
    paths = CohortPaths(tmp_path)
    records = [_record({0: 900, RIGHT: 64}, "a")]
    content = class_weights(records, LABELS).model_dump(mode="json")
    paths.class_weights.write_text(json.dumps(content | {"weights": content["weights"] | {"heart": value}}))
    with pytest.raises(BadInputError, match=r"class_weights.*heart"):
        current_class_weights(paths, records, LABELS)
    del content["weights"]["heart"]
    paths.class_weights.write_text(json.dumps(content))
    with pytest.raises(BadInputError, match="no weight of heart"):
        current_class_weights(paths, records, LABELS)
