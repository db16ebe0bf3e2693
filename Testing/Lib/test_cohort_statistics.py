"""Statistics of a prepared cohort agree with what its cached arrays hold, and read none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prepared_files import LABELS, add_case, new_cohort

from LungSegmentationLib.cohort.cache import open_case
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.splits import PARTS, Split, write_splits
from LungSegmentationLib.cohort.statistics import cohort_statistics
from LungSegmentationLib.cohort.weights import read_class_weights
from LungSegmentationLib.errors import BadInputError

SPLIT = Split(train=("a1", "a2", "b"), val=("c",), test=("d",))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    """Five cases of four patients: a was scanned twice; e was lost."""
    paths = new_cohort(tmp_path_factory.mktemp("cohort") / "c")
    add_case(paths, "a1", patient="a", keys=("gtv", "lung_right"), shape=(6, 40, 40))
    add_case(paths, "a2", patient="a", keys=("gtv", "ptv", "lung_right"), shape=(8, 40, 40), seed=1)
    add_case(paths, "b", keys=("heart",), shape=(5, 40, 40), seed=2)
    add_case(paths, "c", keys=(), shape=(4, 40, 40), seed=3)
    add_case(paths, "d", keys=("gtv", "spinal_cord"), shape=(7, 40, 40), seed=4)
    write_splits(paths, SPLIT)
    prepare(paths.root, PreparationOptions(slice_size=32))
    return paths


def test_patients_cases_and_slices_are_counted_part_by_part(prepared: CohortPaths) -> None:
    statistics = cohort_statistics(prepared)
    counted = {p: (s.patients, s.cases, s.slices) for p, s in statistics.parts.items()}
    assert counted == {"train": (2, 3, 19), "val": (1, 1, 4), "test": (1, 1, 7)}
    assert (statistics.patients, statistics.cases, statistics.slices) == (4, 5, 30)


def test_structures_are_counted_as_annotated(prepared: CohortPaths) -> None:
    parts = cohort_statistics(prepared).parts
    assert parts["train"].structures_per_case == (2, 3, 1)
    assert parts["val"].structures_per_case == (0,)
    assert parts["train"].cases_with == dict.fromkeys(LABELS.keys, 0) | {
        "gtv": 2,
        "ptv": 1,
        "lung_right": 2,
        "heart": 1,
    }
    # add_case leaves the first and the last slice empty.
    assert parts["train"].slices_with["gtv"] == 4 + 6
    assert parts["train"].empty_slices == 6
    assert parts["val"].empty_slices == 4


def test_label_frequencies_are_those_of_the_cached_label_maps(prepared: CohortPaths) -> None:
    statistics = cohort_statistics(prepared)
    for part in PARTS:
        expected = np.zeros(8, np.int64)
        for name in SPLIT.part(part):
            bits = np.asarray(open_case(prepared, name).structures)
            painted = np.zeros_like(bits)
            for key in LABELS.paint_order:
                painted[(bits >> (LABELS[key].label - 1)) & 1 == 1] = LABELS[key].label
            expected += np.bincount(painted.ravel(), minlength=8)
        assert statistics.parts[part].label_voxels == tuple(expected.tolist())


def test_class_weights_are_made_from_the_training_part_alone(prepared: CohortPaths) -> None:
    weights = read_class_weights(prepared)
    assert weights.cases == 3
    assert tuple(weights.counts.values()) == cohort_statistics(prepared).parts["train"].label_voxels


def test_no_array_is_opened(prepared: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("an array was opened")

    monkeypatch.setattr(np, "memmap", forbidden)
    monkeypatch.setattr(np, "load", forbidden)
    assert cohort_statistics(prepared).slices == 30


def test_a_cohort_that_is_not_prepared_says_how_to_prepare_it(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="lungseg prepare"):
        cohort_statistics(new_cohort(tmp_path / "c"))
