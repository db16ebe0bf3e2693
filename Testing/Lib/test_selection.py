"""Which CT and which RTSTRUCT become a case, by the stated rule or as asked; and what the cases are called."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from rtstruct_files import contour_item, save, square, structure_set

from LungSegmentationLib.cohort.selection import Plan, plan_cases
from LungSegmentationLib.dicom.roi_names import load_roi_rules
from LungSegmentationLib.dicom.series import (
    CTSeries,
    Evidence,
    Link,
    LinkedBy,
    Patient,
    RTStructFile,
    ScanResult,
    Study,
)
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.labels import load_label_set

FILES = Path(tempfile.mkdtemp(prefix="lungseg-selection-"))
atexit.register(shutil.rmtree, FILES, ignore_errors=True)
LABELS, RULES = load_label_set(), load_roi_rules()
FULL = ("GTV-1", "Lung L", "Lung R", "Heart", "Spinal cord")


def ct(uid: str, slices: int = 100, patient: str = "P", date: str = "20200101") -> CTSeries:
    return CTSeries(
        series_uid=uid,
        study_uid=f"study-{uid}",
        patient_id=patient,
        patient_name="N",
        frame_of_reference_uid="F",
        description="chest",
        study_date=date,
        files=tuple(Path(f"{uid}/{n}.dcm") for n in range(slices)),
        slice_count=slices,
        sop_instance_uids=tuple(f"{uid}.{n}" for n in range(slices)),
        orientation=(1, 0, 0, 0, 1, 0),
        origin=(0, 0, 0),
        positions=tuple(range(slices)),
        rows=512,
        columns=512,
        pixel_spacing=(1, 1),
    )


def rtstruct(
    uid: str, rois: tuple[str, ...] = FULL, date: str = "20200101", label: str = "PLAN", drawn: bool = True
) -> RTStructFile:
    contours = [contour_item(square(0.0))] if drawn else []
    file = save(structure_set(dict.fromkeys(rois, contours)), FILES / f"{uid}.dcm")
    return RTStructFile(file, uid, f"s{uid}", "study", "P", "N", label, date, ("F",), (), rois)


def patient(series: list[CTSeries], links: list[tuple[RTStructFile, CTSeries, LinkedBy]], name: str = "P") -> Patient:
    files = tuple({file.path: file for file, _, _ in links}.values())
    study = Study("study", "20200101", tuple(series))
    return Patient(name, "N", "", (study,), files, tuple(Link(f, s, by) for f, s, by in links))


def weighed(file: RTStructFile, *found: tuple[CTSeries, Evidence]) -> Patient:
    """A patient whose RTSTRUCT may be drawn on several CTs."""
    one = patient([series for series, _ in found], [(file, series, "reference") for series, _ in found])
    return replace(one, links=tuple(Link(file, series, "reference", (), evidence) for series, evidence in found))


def plan(*patients: Patient, **options: object) -> Plan:
    return plan_cases(ScanResult(tuple(patients)), LABELS, RULES, **options)  # type: ignore[arg-type]


def taken(made: Plan) -> list[tuple[str, str]]:
    return sorted((case.series.series_uid, case.link.rtstruct.sop_instance_uid) for case in made.cases)


def test_of_several_cts_the_one_that_is_referenced_wins_over_one_with_more_slices() -> None:
    a, b = ct("a", 60), ct("b", 200)
    file = rtstruct("r")
    made = plan(patient([a, b, ct("c")], [(file, b, "frame of reference"), (file, a, "reference")]))
    assert taken(made) == [("a", "r")]
    assert {skipped.uid: skipped.reason for skipped in made.skipped} == {
        "b": "another CT was taken for the RTSTRUCT that fits this one",
        "c": "no RTSTRUCT belongs to this CT",
    }


def test_among_equal_cts_the_one_with_most_slices_is_taken_with_a_warning() -> None:
    a, b = ct("a", 60), ct("b", 200)
    file = rtstruct("r")
    made = plan(patient([a, b], [(file, a, "frame of reference"), (file, b, "frame of reference")]))
    assert taken(made) == [("b", "r")]
    assert any("2 CTs fit" in warning for warning in made.cases[0].warnings)


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        (Evidence(named=9), Evidence(0, 99, True, 99), "more contours name its images"),
        (Evidence(named=5, in_frame=9), Evidence(5, 0, True, 99), "more contours are in its frame"),
        (Evidence(5, 9, True), Evidence(5, 9, False, 99), "the contours lie in its slices"),
        (Evidence(5, 9, True, 40), Evidence(5, 9, True, 39), "the RTSTRUCT names more of its images"),
    ],
)
def test_what_speaks_for_a_ct_counts_more_than_its_slices_and_is_told(
    better: Evidence, worse: Evidence, reason: str
) -> None:
    made = plan(weighed(rtstruct("r"), (ct("long", 200), worse), (ct("right", 40), better)))
    assert taken(made) == [("right", "r")]
    (warning,) = made.cases[0].warnings
    assert f"40 slices (…right) was taken, because {reason}" in warning
    assert "Not taken: CT chest, 200 slices (…long)" in warning
    assert "most slices" not in warning


def test_among_equal_cts_that_of_the_study_of_the_rtstruct_is_taken() -> None:
    file = replace(rtstruct("r"), study_uid="study-b")
    made = plan(weighed(file, (ct("a", 90), Evidence()), (ct("b", 80), Evidence())))
    assert taken(made) == [("b", "r")]
    assert "because it is of the same study" in made.cases[0].warnings[0]


def test_phases_of_a_4d_ct_are_not_claimed_to_differ() -> None:
    phases = [ct(f"phase{number}0", 40) for number in range(5, -1, -1)]
    made = plan(weighed(rtstruct("r"), *((phase, Evidence(0, 9, True)) for phase in phases)))
    assert taken(made) == [("phase00", "r")]
    (warning,) = made.cases[0].warnings
    assert "6 CTs fit" in warning
    assert "(…phase00) was taken, the first by series UID, which may not be the one" in warning
    assert "because" not in warning
    assert "(…phase10), CT chest, 40 slices (…phase20), CT chest, 40 slices (…phase30) and 2 more" in warning


def test_cts_of_two_patients_with_one_series_uid_never_become_one_case() -> None:
    patients = [
        patient([one], [(rtstruct(f"r{name}"), one, "reference")], name)
        for name, one in (("P", ct("a")), ("Anon", ct("a", patient="Anon")), ("Q", ct("q", patient="Q")))
    ]
    made = plan(*patients)
    assert [case.patient_id for case in made.cases] == ["Q"]
    assert sorted(skipped.patient_id for skipped in made.skipped) == ["Anon", "P"]
    assert all("2 patients have this series UID" in skipped.reason for skipped in made.skipped)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("most-structures", "full"),
        ("newest", "new"),
        ("oldest", "old"),
        ("boost", "old"),
        ("BOOST", "old"),
        ("no such label", "full"),
    ],
)
def test_of_several_rtstructs_the_asked_one_is_taken_with_a_warning(rule: str, expected: str) -> None:
    a = ct("a")
    files = [
        rtstruct("full", FULL, "20200202"),
        rtstruct("new", ("GTV-1",), "20210101"),
        rtstruct("old", ("GTV-1", "CTV-1", "I1"), "20190101", label="Boost plan"),
    ]
    made = plan(patient([a], [(file, a, "reference") for file in files]), rtstruct=rule)
    assert taken(made) == [("a", expected)]
    told = next(warning for warning in made.cases[0].warnings if "3 RTSTRUCTs" in warning)
    assert ("none is called" in told) == (rule == "no such label")
    assert len(made.skipped) == 2


def test_an_rtstruct_that_draws_beats_one_that_only_names_the_structures() -> None:
    a = ct("a")
    files = [rtstruct("template", FULL, "20220101", drawn=False), rtstruct("drawn", ("GTV-1",), "20200101")]
    assert taken(plan(patient([a], [(file, a, "reference") for file in files]))) == [("a", "drawn")]


def test_among_equals_the_rtstruct_whose_references_resolve_is_taken() -> None:
    a = ct("a")
    near, sure = rtstruct("near", FULL, "20220101"), rtstruct("sure", FULL, "20200101")
    assert taken(plan(patient([a], [(near, a, "geometry"), (sure, a, "reference")]))) == [("a", "sure")]


def test_among_rtstructs_with_equally_many_structures_the_newest_is_taken() -> None:
    a = ct("a")
    files = [rtstruct("1", FULL, "20190101"), rtstruct("2", FULL, "20200101"), rtstruct("3", FULL, "20180101")]
    assert taken(plan(patient([a], [(file, a, "reference") for file in files]))) == [("a", "2")]


@pytest.mark.parametrize(("rule", "expected"), [("all", ["a", "b", "c"]), ("most-slices", ["b"]), ("newest", ["c"])])
def test_of_several_cts_with_contours_all_or_the_asked_one_become_cases(rule: str, expected: list[str]) -> None:
    series = [ct("a", 100, date="20190101"), ct("b", 150, date="20180101"), ct("c", 80, date="20200101")]
    links: list[tuple[RTStructFile, CTSeries, LinkedBy]] = [
        (rtstruct(f"r{s.series_uid}"), s, "reference") for s in series
    ]
    made = plan(patient(series, links), ct=rule)
    assert [uid for uid, _ in taken(made)] == expected
    assert all(any("3 CTs with contours" in warning for warning in case.warnings) for case in made.cases)
    assert len({case.name for case in made.cases}) == len(expected)


def test_an_unknown_way_to_choose_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="most-slices"):
        plan(ct="best")


def test_ids_that_clean_to_one_name_or_differ_in_case_stay_apart() -> None:
    patients = []
    for uid, name in (("a", "P/1"), ("b", "P_1"), ("c", "p_1"), ("d", "")):
        one = ct(uid, patient=name)
        patients.append(patient([one], [(rtstruct(f"r{uid}"), one, "reference")], name))
    names = [case.name for case in plan(*patients).cases]
    assert len({name.casefold() for name in names}) == 4
    assert "no-id" in names


def test_a_name_never_moves_to_another_ct() -> None:
    old, new = ct("old"), ct("new")
    both = patient([new, old], [(rtstruct("r1"), new, "reference"), (rtstruct("r2"), old, "reference")])
    made = plan(both, known_names={"old": "P"})
    names = {case.series.series_uid: case.name for case in made.cases}
    assert names["old"] == "P"
    assert names["new"].startswith("P_")
    again = plan(both, known_names={"old": "P", "new": names["new"]})
    assert {case.series.series_uid: case.name for case in again.cases} == names


def test_the_plan_does_not_depend_on_the_order_of_files() -> None:
    series = [ct("a", 100), ct("b", 100)]
    files = [rtstruct("1", FULL), rtstruct("2", FULL)]
    links: list[tuple[RTStructFile, CTSeries, LinkedBy]] = [(f, s, "frame of reference") for f in files for s in series]
    first = plan(patient(series, links))
    second = plan(patient(series[::-1], links[::-1]))
    assert taken(first) == taken(second)
    assert {c.series.series_uid: c.name for c in first.cases} == {c.series.series_uid: c.name for c in second.cases}


def test_what_this_software_predicted_is_no_ground_truth_unless_it_is_called_by_name() -> None:
    one = ct("a")
    drawn = rtstruct("drawn", FULL[:2])
    ours = replace(rtstruct("ours", FULL, date="20260101", label="AUTO_RESEARCH"), predicted=True)
    both = patient([one], [(drawn, one, "reference"), (ours, one, "reference")])
    for rule in ("most-structures", "newest", "oldest", "PLAN"):
        made = plan(both, rtstruct=rule)
        assert [case.link.rtstruct for case in made.cases] == [drawn]
        assert not made.cases[0].warnings
        assert [(left.uid, "prediction" in left.reason) for left in made.skipped] == [("ours", True)]
    assert [case.link.rtstruct for case in plan(both, rtstruct="auto_research").cases] == [ours]
    alone = plan(patient([one], [(ours, one, "reference")]))
    assert not alone.cases
    assert {left.uid for left in alone.skipped} == {"ours", "a"}
