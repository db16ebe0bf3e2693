"""Splits: by patient, the promised numbers, rare structures in each part, and nobody who changes parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.splits import (
    PARTS,
    Split,
    SplitCase,
    make_split,
    part_sizes,
    read_split,
    read_splits,
    split_warnings,
    write_splits,
)
from LungSegmentationLib.errors import BadInputError, UsageError

KEYS = ("gtv", "ptv", "lung_right", "lung_left", "heart", "esophagus", "spinal_cord")


def _cohort(count: int, **drawn: int) -> list[SplitCase]:
    """Patients of whom the first ``drawn[key]`` have the structure ``key``; all have a GTV."""
    return [
        SplitCase(f"case{i:03d}", f"patient{i:03d}", ("gtv", *(key for key, n in drawn.items() if i < n)))
        for i in range(count)
    ]


@st.composite
def cohorts(draw: st.DrawFn) -> list[SplitCase]:
    patients = draw(st.integers(1, 40))
    cases = []
    for patient in range(patients):
        for scan in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
            keys = draw(st.sets(st.sampled_from(KEYS)))
            cases.append(SplitCase(f"c{patient}-{scan}", f"p{patient}", tuple(sorted(keys))))
    return cases


@pytest.mark.parametrize(
    ("patients", "sizes"),
    [
        (158, (110, 23, 25)),
        (100, (70, 15, 15)),
        (20, (14, 3, 3)),
        (10, (7, 1, 2)),
        (7, (4, 1, 2)),
        (6, (4, 1, 1)),
        (5, (3, 1, 1)),
        (4, (2, 1, 1)),
        (3, (1, 1, 1)),
        (2, (1, 1, 0)),
        (1, (1, 0, 0)),
        (0, (0, 0, 0)),
    ],
)
def test_shares_are_rounded_down_the_rest_tests_and_training_is_never_empty(
    patients: int, sizes: tuple[int, int, int]
) -> None:
    assert part_sizes(patients) == sizes
    split = make_split(_cohort(patients))
    assert tuple(len(split.part(part)) for part in PARTS) == sizes


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5000))
def test_sizes_add_up_and_follow_the_whole_number_rule(patients: int) -> None:
    train, val, test = part_sizes(patients)
    assert train + val + test == patients
    if patients >= 7:
        assert (train, val) == (patients * 70 // 100, patients * 15 // 100)


def test_without_a_share_for_testing_the_rest_trains() -> None:
    assert part_sizes(11, (0.8, 0.2, 0.0)) == (9, 2, 0)
    assert part_sizes(11, (1.0, 0.0, 0.0)) == (11, 0, 0)


@pytest.mark.parametrize(
    "ratios", [(0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.7, 0.3)]
)
def test_shares_that_are_no_shares_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        part_sizes(10, ratios)


@settings(deadline=None, max_examples=40)
@given(cohorts(), st.booleans(), st.integers(0, 3))
def test_each_case_is_in_one_part_and_patients_are_never_torn(
    cases: list[SplitCase], stratify: bool, seed: int
) -> None:
    split = make_split(cases, stratify=stratify, seed=seed)
    names = [name for _, part in split.items() for name in part]
    assert sorted(names) == sorted(case.name for case in cases)
    by_case = split.by_case
    for patient in {case.patient_id for case in cases}:
        assert len({by_case[case.name] for case in cases if case.patient_id == patient}) == 1
    patients = {part: {c.patient_id for c in cases if by_case[c.name] == part} for part in PARTS}
    assert tuple(len(patients[part]) for part in PARTS) == part_sizes(len({c.patient_id for c in cases}))


@settings(deadline=None, max_examples=40)
@given(cohorts(), st.booleans(), st.randoms())
def test_the_split_does_not_depend_on_the_order_of_the_cases(
    cases: list[SplitCase], stratify: bool, random: object
) -> None:
    shuffled = list(cases)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_split(shuffled, stratify=stratify) == make_split(cases, stratify=stratify)


def test_another_seed_gives_another_split_and_the_same_seed_the_same() -> None:
    cases = _cohort(60, heart=17)
    assert make_split(cases, seed=42) == make_split(cases)
    assert make_split(cases, seed=43) != make_split(cases)


@pytest.mark.parametrize("hearts", [3, 4, 7, 20, 44])
@pytest.mark.parametrize("patients", [20, 50, 158])
def test_a_rare_structure_is_in_each_part_where_three_patients_have_it(hearts: int, patients: int) -> None:
    hearts = min(hearts, patients)
    for seed in range(5):
        cases = _cohort(patients, heart=hearts)
        split = make_split(cases, seed=seed)
        having = {case.name for case in cases if "heart" in case.structures}
        counts = [len(having & set(split.part(part))) for part in PARTS]
        assert min(counts) >= 1, counts
        assert counts[0] >= hearts // 3


def test_two_rare_structures_in_different_patients_are_both_in_each_part() -> None:
    cases = [
        SplitCase(
            f"c{i:03d}", f"p{i:03d}", ("gtv", *(("heart",) if i % 4 == 0 else ()), *(("ptv",) if i % 7 == 3 else ()))
        )
        for i in range(158)
    ]
    for seed in range(5):
        split = make_split(cases, seed=seed)
        assert not split_warnings(split, cases)
        for key in ("heart", "ptv"):
            having = {case.name for case in cases if key in case.structures}
            share = [len(having & set(split.part(part))) / len(split.part(part)) for part in PARTS]
            assert max(share) - min(share) < 0.06, (key, share)


def test_the_plain_way_does_not_look_at_structures() -> None:
    plain = make_split(_cohort(40), stratify=False)
    assert make_split(_cohort(40, heart=3, ptv=9), stratify=False) == plain


@settings(deadline=None, max_examples=40)
@given(cohorts(), st.integers(1, 12), st.booleans())
def test_nobody_changes_parts_when_the_cohort_grows(cases: list[SplitCase], more: int, stratify: bool) -> None:
    before = make_split(cases, stratify=stratify)
    grown = [*cases, *(SplitCase(f"new{i}", f"new{i}", ("heart",)) for i in range(more))]
    after = make_split(grown, stratify=stratify, before=before)
    for part in PARTS:
        assert after.part(part)[: len(before.part(part))] == before.part(part)
    assert sorted(after.by_case) == sorted(case.name for case in grown)


def test_a_second_scan_of_a_known_patient_joins_the_first() -> None:
    cases = _cohort(30)
    before = make_split(cases)
    second = SplitCase("again", "patient007")
    after = make_split([*cases, second], before=before)
    assert after.by_case["again"] == before.by_case["case007"]


def test_growth_fills_up_the_parts_that_are_short() -> None:
    cases = _cohort(100)
    before = make_split(cases[:10])
    after = make_split(cases, before=before)
    assert tuple(len(after.part(part)) for part in PARTS) == (70, 15, 15)


def test_a_split_by_hand_is_kept_and_completed() -> None:
    cases = _cohort(8)
    before = Split(train=("case003",), test=("case000", "gone"))
    after = make_split(cases, before=before)
    assert after.by_case["case003"] == "train"
    assert after.test[:2] == ("case000", "gone")
    assert len(after.by_case) == 9


def test_warnings_name_empty_parts_torn_patients_lacking_structures_and_lost_cases() -> None:
    cases = [SplitCase("a", "p1", ("heart",)), SplitCase("b", "p1"), SplitCase("c", "p2")]
    text = " ".join(split_warnings(Split(train=("a", "lost"), val=("b", "c")), cases))
    for part in ("test.txt is empty", "several parts", "p1", "heart", "val", "lost"):
        assert part in text


def test_files_hold_one_case_a_line_and_come_back_the_same(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path / "Kohorte ä 患者")
    split = Split(train=("Müller_1", "b"), val=("日本",), test=())
    assert read_splits(paths) is None
    write_splits(paths, split)
    assert paths.split("train").read_bytes() == "Müller_1\nb\n".encode()
    assert paths.split("test").read_bytes() == b""
    assert read_splits(paths) == split
    assert read_split(paths, "val") == ("日本",)


def test_what_else_lies_in_the_folder_stays(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    write_splits(paths, Split(train=("a",)))
    (paths.splits / "why.md").write_text("by center")
    write_splits(paths, Split(train=("a", "b")))
    assert (paths.splits / "why.md").read_text() == "by center"
    assert read_split(paths, "train") == ("a", "b")


def test_files_that_an_editor_wrote_are_understood(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    write_splits(paths, Split())
    paths.split("train").write_bytes("\ufeffa\r\n\r\n  b  \r\n".encode())
    assert read_split(paths, "train") == ("a", "b")


def test_damaged_splits_are_refused_in_a_sentence(tmp_path: Path) -> None:
    paths = CohortPaths(tmp_path)
    with pytest.raises(BadInputError, match="not split"):
        read_split(paths, "train")
    write_splits(paths, Split(train=("a",), val=("b",)))
    paths.split("test").write_text("b\n")
    with pytest.raises(BadInputError, match="twice"):
        read_splits(paths)
    paths.split("test").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match=r"test\.txt"):
        read_splits(paths)
    paths.split("test").unlink()
    with pytest.raises(BadInputError, match="is missing"):
        read_splits(paths)
