"""ROI names: a table written by hand, the rules of combination, the user's map, and names nobody would write."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LungSegmentationLib.dicom.roi_map import RoiMap
from LungSegmentationLib.dicom.roi_names import RoiAssignment, RoiInfo, RoiKind, assign, load_roi_rules
from LungSegmentationLib.dicom.roi_rules import RoiRules
from LungSegmentationLib.errors import BadInputError, InstallationError
from LungSegmentationLib.labels import load_label_set

TABLE = Path(__file__).with_name("roi_names_table.csv")
ROWS = [(row["name"], row["expected"]) for row in csv.DictReader(TABLE.read_text("utf-8").splitlines())]
RULES = load_roi_rules()
THORAX = load_label_set("thorax")


def take(*names: str | tuple[str, str], **more: object) -> RoiAssignment:
    """Assign names (or names with types) that all have contours."""
    rois = [
        RoiInfo(number, name, contour_count=20) if isinstance(name, str) else RoiInfo(number, *name, contour_count=20)
        for number, name in enumerate(names, start=1)
    ]
    return assign(rois, THORAX, **more)  # type: ignore[arg-type]


def used(assignment: RoiAssignment) -> dict[str, list[str]]:
    names = {decision.number: decision.name for decision in assignment.decisions}
    return {key: [names[number] for number in numbers] for key, numbers in assignment.structures().items()}


def kinds(assignment: RoiAssignment) -> dict[str, RoiKind]:
    return {decision.name: decision.kind for decision in assignment.decisions}


def test_the_table_is_large_and_names_nothing_twice():
    assert len(ROWS) >= 400
    assert len({name for name, _ in ROWS}) == len(ROWS)


def test_the_table_expects_only_what_exists():
    known = {*THORAX.keys, "unknown"}
    assert {expected for _, expected in ROWS if not expected.startswith("ignored:")} == known


@pytest.mark.parametrize(("name", "expected"), ROWS, ids=[ascii(name) for name, _ in ROWS])
def test_a_real_name_means_what_a_clinician_means(name: str, expected: str):
    assert RULES.classify(name).outcome == expected


PLAIN_ROWS = [row for row in ROWS if row[0].isascii() and not row[0].startswith("_")]


def worded(name: str) -> bool:
    """Whether the words of a name are told apart by separators, so that case may change without loss."""
    letters = "".join(c if c.isalnum() else " " for c in name)
    return all(part.isupper() or part.islower() or part.istitle() or not part.isalpha() for part in letters.split())


@pytest.mark.parametrize("change", [str.upper, str.lower, str.casefold])
def test_case_changes_nothing_where_words_are_separated(change):
    # “(DR)” is somebody's initials only in capitals
    names = [row for row in ROWS if worded(row[0]) and "(" not in row[0] and "Ã" not in row[0]]
    assert len(names) > 300
    assert [(n, e) for n, e in names if RULES.classify(change(n)).outcome != e] == []


@pytest.mark.parametrize("separator", [" ", "_", ".", "  ", "__", " _ "])
def test_the_separator_changes_nothing_where_it_is_no_minus(separator: str):
    names = [row for row in ROWS if not set(row[0]) & set("-+.,&?!") and not row[0].startswith("_")]
    changed = [(n, separator.join(n.replace("_", " ").split()), e) for n, e in names]
    assert [(n, c) for n, c, e in changed if RULES.classify(c).outcome != e] == []


@pytest.mark.parametrize("around", [" {} ", "{} ", "\t{}", "{}\x00", "'{}'"])
def test_what_stands_around_a_name_changes_nothing(around: str):
    assert [(n, e) for n, e in ROWS if n[0] != "_" and RULES.classify(around.format(n)).outcome != e] == []


def test_composed_and_decomposed_accents_are_the_same():
    assert RULES.classify("Moelle e\u0301pinie\u0300re").structure == "spinal_cord"
    assert RULES.classify("Pulma\u0303o esq").structure == "lung_left"


@given(st.text(max_size=300))
@settings(max_examples=400, deadline=None)
def test_no_name_crashes_the_rules(name: str):
    reading = RULES.classify(name)
    assert reading.outcome
    assert reading.reason


WORDS = sorted({word for name, _ in ROWS for word in name.replace("_", " ").replace("-", " ").split()})


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.sampled_from([" ", "_", "-", "+", "", "(", "/"]))
@settings(max_examples=600, deadline=None)
def test_no_mixture_of_known_words_crashes_the_rules_or_the_assignment(words: list[str], separator: str):
    assignment = take(separator.join(words), *words)
    assert len(assignment.decisions) == len(words) + 1


@given(st.lists(st.sampled_from([name for name, _ in ROWS]), max_size=25), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_roi_gets_one_decision_and_organs_at_most_one_roi(names: list[str], with_contours: bool):
    rois = [RoiInfo(7 * index, name, contour_count=int(with_contours)) for index, name in enumerate(names)]
    assignment = assign(rois, THORAX)
    assert [(d.number, d.name) for d in assignment.decisions] == [(r.number, r.name) for r in rois]
    for key, numbers in assignment.structures().items():
        assert len(numbers) == 1 or key in {"gtv", "ptv"}
    for decision in assignment.decisions:
        assert (decision.structure is not None) == (decision.kind in {RoiKind.USED, RoiKind.UNITED})
        assert with_contours or decision.structure is None


@given(st.sampled_from([row for row in ROWS if row[1] not in THORAX.keys]))
@settings(max_examples=200, deadline=None)
def test_what_is_ignored_or_unknown_is_never_used(row: tuple[str, str]):
    assert take(row[0], "Heart", "GTV").structures() == {"heart": (2,), "gtv": (3,)}


@pytest.mark.parametrize(
    "spoiled",
    ["{}_PRV", "PRV {}", "{} ring", "{}_opt", "opt_{}", "avoid {}", "{}_dose", "z_{}", "zz {}", "x{}", "{}+5mm",
     "{} + 3 mm", "{} margin", "{} minus aorta", "{} ohne x", "{} in field", "dummy_{}", "{}_crop", "{}-CTV",
     "{} - ITV", "ITV {}", "{} wall", "{} overlap", "{} and aorta", "{}_20%"],
)  # fmt: skip
def test_a_word_that_excludes_does_so_for_every_name(spoiled: str):
    names = [name for name, expected in ROWS if expected in THORAX]
    assert [name for name in names if RULES.classify(spoiled.format(name)).structure is not None] == []


@pytest.mark.parametrize("minus", ["{}-GTV", "{} - PTV", "{}-GTVp", "{} minus GTV", "{}_sans_PTV", "GTV-{}"])
def test_an_organ_and_a_target_with_a_minus_are_never_used(minus: str):
    names = [name for name, expected in ROWS if expected in THORAX and expected not in {"gtv", "ptv"}]
    assert [name for name in names if RULES.classify(minus.format(name)).structure is not None] == []


def test_a_left_name_is_never_a_right_one_whatever_language_is_added():
    for name, expected in ROWS:
        if expected in {"lung_left", "lung_right"}:
            for side in ("L", "R", "li", "re", "G", "D", "sx", "dx", "izq", "der", "esq", "dir", "left", "right"):
                found = RULES.classify(f"{name} {side}").structure
                assert found in {expected, None}, f"{name} {side}"


def test_a_very_long_name_is_read_in_bounded_time():
    assert RULES.classify("heart" * 20_000).structure is None
    assert RULES.classify("?" * 100_000 + "a").structure is None


# ---------------------------------------------------------------- reasons


def test_the_reason_names_what_was_matched_and_the_language():
    decision = take("Poumon G").decisions[0]
    assert decision.reason == "matched “poumon g” → left lung (French)"
    assert (decision.by, decision.kind) == ("rules", RoiKind.USED)


def test_the_reason_of_an_exclusion_says_its_kind():
    assert take("zPTV").decisions[0].reason.startswith("ignored: planning helper")


# ---------------------------------------------------------------- organs


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        (["Heart1", "Heart"], "Heart"),
        (["Heart (2)", "Heart"], "Heart"),
        (["Heart_old", "Heart1"], "Heart1"),
        (["Coeur", "Heart"], "Heart"),
        (["Heart_auto", "coeur"], "coeur"),
        (["Heart_old", "Heart_auto"], "Heart_auto"),
        (["Heart2", "Heart1"], "Heart1"),
        (["Heart v1", "Heart v2"], "Heart v2"),
        (["SpinalCanal", "Cord_old"], "Cord_old"),
        (["Canal médullaire", "Moelle"], "Moelle"),
        (["Lung Left", "LUNG_L"], "LUNG_L"),
    ],
)
def test_of_several_candidates_the_better_name_wins_in_either_order(names: list[str], winner: str):
    for order in (names, names[::-1]):
        assignment = take(*order)
        assert list(used(assignment).values()) == [[winner]]
        loser = next(d for d in assignment.decisions if d.name != winner)
        assert loser.kind is RoiKind.ALTERNATIVE
        assert winner in loser.reason
        assert any(winner in warning for warning in assignment.warnings)


def test_a_canal_alone_stands_for_the_cord_with_a_warning():
    assignment = take("Canal médullaire")
    assert used(assignment) == {"spinal_cord": ["Canal médullaire"]}
    assert any("substitute" in warning for warning in assignment.warnings)


def test_between_equal_names_the_one_with_more_contours_wins_then_the_first():
    rois = [RoiInfo(1, "Heart", contour_count=3), RoiInfo(2, "HEART", contour_count=30)]
    assert assign(rois, THORAX).structures() == {"heart": (2,)}
    rois = [RoiInfo(5, "Heart", contour_count=3), RoiInfo(2, "Heart", contour_count=3)]
    assert assign(rois, THORAX).structures() == {"heart": (5,)}


def test_an_empty_roi_loses_against_a_worse_name():
    rois = [RoiInfo(1, "Heart"), RoiInfo(2, "Heart_old", contour_count=20)]
    assignment = assign(rois, THORAX)
    assert assignment.structures() == {"heart": (2,)}
    assert assignment.decisions[0].kind is RoiKind.EMPTY


def test_a_structure_with_only_empty_rois_is_missing_and_said_so():
    assignment = assign([RoiInfo(1, "Heart"), RoiInfo(2, "zPTV")], THORAX)
    assert assignment.structures() == {}
    assert kinds(assignment) == {"Heart": RoiKind.EMPTY, "zPTV": RoiKind.IGNORED}
    assert any("Heart" in warning for warning in assignment.warnings)


def test_an_old_version_is_used_with_a_warning_if_it_is_all_there_is():
    assignment = take("Heart_old")
    assert used(assignment) == {"heart": ["Heart_old"]}
    assert any("older version" in warning for warning in assignment.warnings)


def test_unknown_names_are_listed_in_a_warning():
    assignment = take("Heart", "Heart xyz", "PD")
    assert kinds(assignment)["PD"] is RoiKind.UNKNOWN
    assert any("Heart xyz" in warning and "PD" in warning for warning in assignment.warnings)


# ---------------------------------------------------------------- targets


def test_several_gtvs_are_united_and_each_says_with_which():
    assignment = take("GTVp", "GTVn1", "GTV-2", "CTV", "Lungs-GTV")
    assert used(assignment) == {"gtv": ["GTVp", "GTVn1", "GTV-2"]}
    assert kinds(assignment)["GTVp"] is RoiKind.UNITED
    assert "GTVn1" in assignment.decisions[0].reason
    assert any("union of 3" in warning for warning in assignment.warnings)


def test_dose_levels_and_boosts_of_a_ptv_are_united():
    assert used(take("PTV_6000", "PTV_5000", "PTV boost", "PTV_eval")) == {"ptv": ["PTV_6000", "PTV_5000", "PTV boost"]}


def test_old_versions_copies_and_pet_gtvs_are_not_united_with_a_good_one():
    assignment = take("GTV-1", "GTV_old", "GTV copy", "GTV_PET", "GTV-2")
    assert used(assignment) == {"gtv": ["GTV-1", "GTV-2"]}
    assert kinds(assignment)["GTV_PET"] is RoiKind.ALTERNATIVE


def test_five_observers_twice_are_one_drawing_of_one_target_and_it_is_the_first_manual():
    names = [f"GTV-1{method}-{number}" for method in ("auto", "vis") for number in range(1, 6)]
    assignment = take(*names)
    assert used(assignment) == {"gtv": ["GTV-1vis-1"]}
    assert sum(decision.kind is RoiKind.ALTERNATIVE for decision in assignment.decisions) == 9
    assert any("10 drawings" in warning for warning in assignment.warnings)


def test_observers_are_told_apart_per_target():
    assignment = take("GTVp_obs1", "GTVp_obs2", "GTVn_obs1", "GTVn_obs2")
    assert used(assignment) == {"gtv": ["GTVp_obs1", "GTVn_obs1"]}


@pytest.mark.parametrize("other", ["GTV-1auto(DR)", "GTV-1auto-3", "GTV (AB)", "GTV_DrSmith", "GTV_obs2", "GTV_auto"])
def test_a_drawing_without_an_observers_mark_wins(other: str):
    assignment = take(other, "GTV-1")
    assert used(assignment) == {"gtv": ["GTV-1"]}
    assert kinds(assignment)[other] is RoiKind.ALTERNATIVE


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["GTV_Obs2", "GTV_Obs1"], "GTV_Obs1"),
        (["GTV_obs10", "GTV_obs9"], "GTV_obs9"),
        (["GTV (CD)", "GTV (AB)"], "GTV (AB)"),
        (["GTV_DrSmith", "GTV_DrJones"], "GTV_DrJones"),
        (["GTV_auto", "GTV_manual"], "GTV_manual"),
    ],
)
def test_one_observer_is_taken_by_the_stated_rule(names: list[str], taken: str):
    assert used(take(*names)) == {"gtv": [taken]}


@pytest.mark.parametrize("name", ["dPTV", "PTV d95", "PTV_D95%", "PTVe", "PTV_wrong", "PTV_2019", "PTV_95", "PTV -3"])
def test_what_may_be_no_target_is_not_united_with_the_target(name: str):
    assert used(take(name, "PTV")) == {"ptv": ["PTV"]}


def test_a_discarded_drawing_is_not_used_even_where_there_is_no_other():
    assert used(take("GTV_wrong", "Heart_obsolete", "Herz alt")) == {"heart": ["Herz alt"]}


def test_right_and_left_targets_are_both_kept_or_a_person_is_asked():
    assert used(take("PTV D", "PTV G")) == {"ptv": ["PTV D", "PTV G"]}
    assert any("PTV dir" in warning for warning in take("PTV dir", "PTV esq").warnings)


def test_a_propagated_target_is_used_only_alone_and_with_a_warning():
    assert used(take("GTV_propagated", "GTV")) == {"gtv": ["GTV"]}
    assert any("another image" in warning for warning in take("GTV_propagated").warnings)


@pytest.mark.parametrize(
    ("name", "interpreted_type", "said"),
    [
        ("GTV 50%", "", ("phase", "isocontour")),
        ("Tumeur", "GTV", ("--roi-map", "correction")),
        ("Lésion", "PTV", ("PTV", "--roi-map")),
        ("dPTV", "", ("dose",)),
        ("PTV_e", "", ("evaluation",)),
        ("PTV_95", "", ("percent",)),
        ("GTV_bad", "", ("wrong", "bad")),
    ],
)
def test_the_reason_says_what_a_person_needs_to_decide(name: str, interpreted_type: str, said: tuple[str, ...]):
    reading = RULES.classify(name, interpreted_type)
    assert reading.structure is None
    assert [word for word in said if word not in reading.reason] == []


def test_no_cure_is_offered_for_a_type_that_is_no_structure_of_ours():
    assert "--roi-map" not in RULES.classify("Tumeur", "CTV").reason


# ---------------------------------------------------------------- interpreted types


@pytest.mark.parametrize(
    ("name", "interpreted_type", "outcome"),
    [
        ("Lt Lung", "AVOIDANCE", "lung_left"),
        ("Lung L", "EXTERNAL", "ignored:external"),
        ("Lung L", "ORGAN", "lung_left"),
        ("GTV-1", "ORGAN", "gtv"),
        ("CTV", "GTV", "ignored:other_target"),
        ("Breast", "GTV", "ignored:other_organ"),
        ("Whatever", "GTV", "unknown"),
        ("Whatever", "MARKER", "ignored:marker"),
        ("Whatever", "BOLUS", "ignored:device"),
        ("Whatever", "contrast_agent", "ignored:contrast"),
        ("Whatever", "DOSE_REGION", "ignored:dose"),
        ("Heart", "NO SUCH TYPE", "heart"),
    ],
)
def test_the_interpreted_type_excludes_but_never_names(name: str, interpreted_type: str, outcome: str):
    assert RULES.classify(name, interpreted_type).outcome == outcome


def test_a_type_that_contradicts_the_name_ranks_lower_and_is_reported():
    assert used(take(("Heart", "PTV"), ("HEART", "ORGAN"))) == {"heart": ["HEART"]}
    assert any("type PTV" in warning for warning in take(("Heart", "PTV")).warnings)


def test_an_organ_excluded_by_its_type_is_reported():
    assert any("Heart" in warning for warning in take(("Heart", "EXTERNAL")).warnings)


# ---------------------------------------------------------------- map and corrections


def written(folder: Path, text: str, name: str = "map.json") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def test_the_users_map_wins_over_the_rules(tmp_path: Path):
    path = written(tmp_path, '{"ITV": "GTV", "Heart": "ignore", "Herz neu*": "Heart", "PD": "right lung", "x?": null}')
    assignment = take("ITV", "GTV", "Heart", "Herz neu 3", "PD", "xy", roi_map=RoiMap.read(path, THORAX))
    assert used(assignment) == {"gtv": ["ITV"], "heart": ["Herz neu 3"], "lung_right": ["PD"]}
    assert kinds(assignment) == {
        "ITV": "used", "GTV": "alternative", "Heart": "ignored", "Herz neu 3": "used", "PD": "used", "xy": "ignored",
    }  # fmt: skip
    assert {d.by for d in assignment.decisions if d.name != "GTV"} == {"map"}


@pytest.mark.parametrize(
    "text", ["name,structure\nMyHeart,heart\n", "MyHeart;Heart\r\n", "\ufeffName\tStructure\nMyHeart\tHEART"]
)
def test_a_map_may_be_a_csv_from_a_spreadsheet(tmp_path: Path, text: str):
    roi_map = RoiMap.read(written(tmp_path, text, "ROI карта é.csv"), THORAX)
    assert used(take("MyHeart", roi_map=roi_map)) == {"heart": ["MyHeart"]}


def test_in_a_map_the_exact_name_wins_over_the_pattern_and_targets_are_united(tmp_path: Path):
    text = '{"T*": "gtv", "T[1]": "ptv", "Tx": "ignore", "heart?": "heart", "Herz": "heart"}'
    assignment = take(
        "T1", "T2", "T[1]", "Tx", "Herz", "heart1", "heart2", roi_map=RoiMap.read(written(tmp_path, text))
    )
    assert used(assignment) == {"gtv": ["T1", "T2"], "ptv": ["T[1]"], "heart": ["heart1"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ('{"a": "lung_left",}', "line 1"),
        ('["Heart"]', "no object"),
        ('{"a": "Heart",\n "b": 3}', "entry 2"),
        ('{"a": {"b": "Heart"}}', "entry 1"),
        ('{"a": "Hart"}', "entry 1"),
        ('{"a": "Heart", "a": "GTV"}', "entry 2"),
        ('{"  ": "Heart"}', "entry 1"),
        ("a,b,c\n", "line 1"),
        ("a,Heart\nb\n", "line 2"),
        ("a,Heart\nb,Herz\n", "line 2"),
        ('a,"Heart\n', "CSV"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_wrong_map_is_refused_in_a_sentence_with_file_and_place(tmp_path: Path, text: str, said: str):
    path = written(tmp_path, text)
    with pytest.raises(BadInputError) as caught:
        RoiMap.read(path, THORAX)
    if said == "JSON" and "deeply" in str(caught.value):
        said = "deeply"
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_map_that_is_no_text_or_not_there_is_refused(tmp_path: Path):
    (tmp_path / "latin.csv").write_bytes("Cœur gauché;heart".encode("utf-16"))
    for name, said in (("latin.csv", "UTF-8"), ("nothing.json", "nothing.json"), (".", "cannot be read")):
        with pytest.raises(BadInputError, match=said):
            RoiMap.read(tmp_path / name)


def test_an_unknown_structure_in_the_map_is_found_at_use_too(tmp_path: Path):
    roi_map = RoiMap.read(written(tmp_path, '{"Liver": "liver"}'))
    with pytest.raises(BadInputError, match="entry 1"):
        take("Liver", roi_map=roi_map)


def test_an_unknown_structure_in_the_map_is_refused_at_once_though_no_roi_has_the_name(tmp_path: Path):
    for text in ('{"no such ROI": "lung"}', "name,structure\nno such ROI,lung\n"):
        with pytest.raises(BadInputError, match=r"no such ROI.*is no structure"):
            RoiMap.read(written(tmp_path, text), THORAX)


def test_the_entries_of_a_map_that_fit_no_roi_are_told(tmp_path: Path):
    text = '{"Haert": "heart", "COEUR": "heart", "GTV*": "gtv", "GTV1": "gtv", "Lng?": "lung_left", "T[1]": "ptv"}'
    roi_map = RoiMap.read(written(tmp_path, text), THORAX)
    assert roi_map.unmatched(["Heart", " cœur", "coeur ", "GTV1", "T[1]"]) == ("Haert", "Lng?")
    assert roi_map.unmatched(iter(["Haert", "LNGX", "coeur", "gtvn", "t1"])) == ("GTV1",)
    assert roi_map.unmatched([]) == tuple(entry.name for entry in roi_map.entries)


def test_corrections_win_over_everything(tmp_path: Path):
    roi_map = RoiMap.read(written(tmp_path, '{"A": "heart", "B": "heart"}'))
    assignment = take("A", "B", "Heart", "Lung L", roi_map=roi_map, corrections={"B": "esophagus", 3: "Heart", 4: None})
    assert used(assignment) == {"esophagus": ["B"], "heart": ["Heart"]}
    assert [d.by for d in assignment.decisions] == ["map", "correction", "correction", "correction"]
    assert [d.kind for d in assignment.decisions] == ["alternative", "used", "used", "ignored"]


def test_corrections_of_one_structure_are_united_also_for_an_organ():
    assignment = take("lobes", "rest", corrections={"lobes": "lung_left", "rest": "Lung_L"})
    assert used(assignment) == {"lung_left": ["lobes", "rest"]}


def test_a_correction_that_fits_nothing_warns_and_one_to_no_structure_is_refused():
    assert any("Herz" in warning for warning in take("Heart", corrections={"Herz": "heart", 99: None}).warnings)
    with pytest.raises(BadInputError, match="Heart"):
        take("Heart", corrections={"Heart": "liver"})


# ---------------------------------------------------------------- label sets and files


def test_a_label_set_that_the_rules_do_not_know_is_found_by_its_own_names(tmp_path: Path):
    content = json.loads((Path(__file__).parents[2] / "Resources/LabelSets/thorax.json").read_text("utf-8"))
    heart = next(item for item in content["structures"] if item["key"] == "heart")
    heart.update(key="aorta", name="aorta", tg263="A_Aorta")
    content["paint_order"] = [{"heart": "aorta"}.get(key, key) for key in content["paint_order"]]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content), "utf-8")
    rois = [RoiInfo(1, "a aorta", contour_count=1), RoiInfo(2, "Heart", contour_count=1)]
    assignment = assign(rois, load_label_set(path))
    assert assignment.structures() == {"aorta": (1,)}
    assert assignment.decisions[1].kind is RoiKind.IGNORED


def test_no_rois_are_no_decisions():
    assert assign([], THORAX) == RoiAssignment((), ())


def test_a_broken_rule_file_is_named(tmp_path: Path):
    with pytest.raises(InstallationError):
        RoiRules(tmp_path)
    for text in ("{", "[]", '{"schema": 9}', '{"schema": 1, "kind": "x"}', '{"schema": 1, "kind": "targets"}'):
        (tmp_path / "bad.json").write_text(text, "utf-8")
        with pytest.raises(BadInputError, match=r"bad\.json"):
            RoiRules(tmp_path)


def test_the_module_loads_without_heavy_libraries():
    code = (
        "import sys; from LungSegmentationLib.dicom.roi_names import load_roi_rules; load_roi_rules().classify('GTV');"
        "print([m for m in ('numpy', 'SimpleITK', 'pydicom', 'torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TABLE.parents[2]
    )
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- real files

REAL = {
    "rt_lung1-001/mask_rtstruct/1-1.dcm": {
        "gtv": ["GTV-1"], "spinal_cord": ["Spinal-Cord"], "lung_left": ["Lung-Left"], "lung_right": ["Lung-Right"],
    },
    "rt_lung1-001_xio_rtstruct/2.dcm": {
        "gtv": ["GTV-1"], "ptv": ["PTV-1"], "spinal_cord": ["Spinal cord"], "lung_left": ["Lung L"],
        "lung_right": ["Lung R"],
    },
    "rt_lung1-002/1.dcm": {
        "gtv": ["GTV-1"], "ptv": ["PTV-1"], "spinal_cord": ["Spinal cord"], "esophagus": ["Esophagus"],
        "heart": ["Heart"], "lung_left": ["Lung L"], "lung_right": ["Lung R"],
    },
    "rt_ibsi_pat2/DCM_RS_00041.dcm": {"gtv": ["GTV-1"]},
    "rt_ibsi_pat3/DCM_RS_00046.dcm": {"gtv": ["GTV-1"]},
    "tricky/rtstruct/breast_lung_heart_1slice/rtss.dcm": {"heart": ["Heart"], "lung_left": ["Lt Lung"]},
    "tricky/rtstruct/rt-utils_mock/rt.dcm": {},
    "tricky/transfer_syntax/rtstruct.dcm": {},
}  # fmt: skip


def read_rois(path: Path) -> list[RoiInfo]:
    """List the ROIs, each as if it had contours."""
    dataset = pydicom.dcmread(path, force=True)
    types = {
        item.ReferencedROINumber: item.get("RTROIInterpretedType", "")
        for item in dataset.get("RTROIObservationsSequence", [])
    }
    return [
        RoiInfo(int(item.ROINumber), str(item.ROIName), types.get(item.ROINumber) or "", 20)
        for item in dataset.StructureSetROISequence
    ]


@pytest.mark.realdata
@pytest.mark.parametrize(("file", "expected"), REAL.items(), ids=list(REAL))
def test_the_rois_of_a_real_file_become_the_right_structures(data: Path, file: str, expected: dict[str, list[str]]):
    assignment = assign(read_rois(data / file), THORAX)
    found = used(assignment)
    assert found == expected


@pytest.mark.realdata
def test_the_planning_systems_own_helpers_are_all_understood(data: Path):
    assignment = assign(read_rois(data / "rt_lung1-001_xio_rtstruct/2.dcm"), THORAX)
    rest = {decision.kind for decision in assignment.decisions if decision.structure is None}
    assert rest == {RoiKind.IGNORED}
    assert assignment.warnings == ()


@pytest.mark.realdata
def test_a_second_structure_set_with_only_a_gtv_gives_only_a_gtv(data: Path):
    file = next((data / "rt_lung1-002_second_rtstruct").glob("*.dcm"))
    assert assign(read_rois(file), THORAX).structures() == {"gtv": (2,)}
