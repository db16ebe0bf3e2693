"""The label set of the thorax against the table written down by hand, and label sets that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.labels import (
    LabelSet,
    Postprocessing,
    label_set_from_dict,
    label_set_to_dict,
    load_label_set,
    without_postprocessing,
)

RIGHT, LEFT, LUNG = "24028007", "7771000", "39607008"
ANATOMY = "123037004"

# label, key, name, TG-263, SNOMED CT type, SNOMED CT modifier, interpreted type, mirror
TABLE: list[tuple[int, str, str, str, str, str | None, str, str | None]] = [
    (1, "gtv", "GTV", "GTV", "228791009", None, "GTV", None),
    (2, "ptv", "PTV", "PTV", "228793007", None, "PTV", None),
    (3, "lung_right", "right lung", "Lung_R", LUNG, RIGHT, "ORGAN", "lung_left"),
    (4, "lung_left", "left lung", "Lung_L", LUNG, LEFT, "ORGAN", "lung_right"),
    (5, "heart", "heart", "Heart", "80891009", None, "ORGAN", None),
    (6, "esophagus", "esophagus", "Esophagus", "32849002", None, "ORGAN", None),
    (7, "spinal_cord", "spinal cord", "SpinalCord", "2748008", None, "ORGAN", None),
]

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def thorax() -> LabelSet:
    return load_label_set("thorax")


@pytest.fixture
def content() -> dict[str, Any]:
    """A small label set that is right, to be spoiled."""

    def structure(label: int, key: str, mirror: str | None) -> dict[str, Any]:
        code = {"value": str(label), "scheme": "99TEST", "meaning": key}
        return {
            "label": label,
            "key": key,
            "name": key,
            "tg263": key,
            "color": [label, 2, 3],
            "category": code,
            "type": code,
            "interpreted_type": "ORGAN",
            "mirror": mirror,
        }

    return {
        "schema": 1,
        "name": "small",
        "title": "Small",
        "exclusive": True,
        "background": {"name": "background", "color": [0, 0, 0]},
        "structures": [structure(1, "a", "b"), structure(2, "b", "a"), structure(3, "c", None)],
        "paint_order": ["c", "a", "b"],
    }


def _write(folder: Path, content: object) -> Path:
    path = folder / "Étiquettes 肺.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("row", TABLE, ids=[row[1] for row in TABLE])
def test_each_structure_of_the_thorax_is_as_designed(thorax: LabelSet, row: tuple[Any, ...]) -> None:
    structure = thorax.by_label(row[0])
    modifier = structure.modifier.value if structure.modifier else None
    assert row == (
        structure.label,
        structure.key,
        structure.name,
        structure.tg263,
        structure.type.value,
        modifier,
        structure.interpreted_type,
        structure.mirror,
    )


def test_the_thorax_has_these_seven_structures_in_the_order_of_their_labels(thorax: LabelSet) -> None:
    assert thorax.keys == tuple(row[1] for row in TABLE)
    assert len(thorax) == 7
    assert thorax.exclusive


def test_organs_are_anatomical_structures_and_targets_are_not(thorax: LabelSet) -> None:
    assert {s.key for s in thorax.structures if s.category.value == ANATOMY} == {
        "lung_right",
        "lung_left",
        "heart",
        "esophagus",
        "spinal_cord",
    }
    assert thorax["gtv"].category == thorax["ptv"].category


def test_all_structure_and_side_codes_are_snomed(thorax: LabelSet) -> None:
    assert {s.type.scheme for s in thorax.structures} == {"SCT"}
    assert {s.modifier.scheme for s in thorax.structures if s.modifier} == {"SCT"}


@pytest.mark.parametrize(
    ("key", "is_the_color"),
    [
        ("gtv", lambda r, g, b: r > 200 and g < 60 and b < 60),
        ("ptv", lambda r, g, b: r > 200 and 100 < g < 200 and b < 60),
        ("lung_right", lambda r, g, b: r < 60 and g > 200 and b > 200),
        ("lung_left", lambda r, g, b: r < 200 and 150 < g < 230 and b > 200),
        ("heart", lambda r, g, b: r > 200 and g < 60 and b > 200),
        ("esophagus", lambda r, g, b: r > 200 and g > 200 and b < 60),
        ("spinal_cord", lambda r, g, b: r < 60 and g > 200 and b < 60),
    ],
)
def test_each_structure_has_a_color_of_its_family(
    thorax: LabelSet, key: str, is_the_color: Callable[[int, int, int], bool]
) -> None:
    assert is_the_color(*thorax[key].color)


def test_no_two_structures_look_alike(thorax: LabelSet) -> None:
    colors = [thorax.background_color, *(structure.color for structure in thorax.structures)]
    nearest = min(
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for number, one in enumerate(colors)
        for other in colors[:number]
    )
    assert thorax.background_color == (0, 0, 0)
    assert nearest > 80


def test_structures_are_painted_from_the_lungs_to_the_gtv(thorax: LabelSet) -> None:
    assert set(thorax.paint_order[:2]) == {"lung_right", "lung_left"}
    assert thorax.paint_order[2:] == ("heart", "ptv", "esophagus", "spinal_cord", "gtv")


@pytest.mark.parametrize(
    ("key", "mirrored"),
    [("lung_right", "lung_left"), ("lung_left", "lung_right"), ("heart", "heart"), ("gtv", "gtv")],
)
def test_a_lung_seen_in_a_mirror_is_the_other_lung(thorax: LabelSet, key: str, mirrored: str) -> None:
    assert thorax.mirrored(key).key == mirrored


def test_a_label_set_knows_what_it_has(thorax: LabelSet) -> None:
    assert "heart" in thorax
    assert "liver" not in thorax
    assert 5 not in thorax


def test_an_unknown_structure_is_refused_with_the_known_ones(thorax: LabelSet) -> None:
    with pytest.raises(BadInputError, match=r"“liver”.*thorax.*gtv, ptv, lung_right"):
        thorax["liver"]


@pytest.mark.parametrize("label", [-1, 0, 8])
def test_a_label_outside_the_set_is_refused(thorax: LabelSet, label: int) -> None:
    with pytest.raises(BadInputError, match=f"Label {label} .*1 to 7"):
        thorax.by_label(label)


def test_an_unknown_label_set_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"“abdomen”.*thorax"):
        load_label_set("abdomen")


def test_structures_that_a_user_chose_are_kept_in_order_and_once_and_unknown_ones_are_wrong_usage(
    thorax: LabelSet,
) -> None:
    assert thorax.chosen(["heart", "gtv", "heart"], "--structures") == ("heart", "gtv")
    with pytest.raises(UsageError, match=r"--structures: “liver”.*thorax.*gtv, ptv"):
        thorax.chosen(["heart", "liver"], "--structures")


def test_a_label_set_can_come_from_a_users_file(tmp_path: Path, content: dict[str, Any]) -> None:
    label_set = load_label_set(_write(tmp_path, content))
    assert label_set.keys == ("a", "b", "c")
    assert label_set.paint_order == ("c", "a", "b")
    assert label_set.mirrored("a").key == "b"


def test_the_order_of_structures_in_a_file_does_not_matter(tmp_path: Path, content: dict[str, Any]) -> None:
    content["structures"].reverse()
    assert load_label_set(_write(tmp_path, content)).keys == ("a", "b", "c")


def _drop(*path: str) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for part in path[:-1]:
            content = content[part][0] if part == "structures" else content[part]
        del content[path[-1]]

    return edit


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda c: c.update(schema=2), id="later schema"),
        pytest.param(lambda c: c["structures"][2].update(label=5), id="gap in the labels"),
        pytest.param(lambda c: c["structures"][2].update(label=1), id="label twice"),
        pytest.param(lambda c: c["structures"][0].update(label=0), id="label of the background"),
        pytest.param(lambda c: c["structures"][2].update(label="three"), id="label no number"),
        pytest.param(lambda c: c["structures"][2].update(label=3.5), id="label no whole number"),
        pytest.param(lambda c: c["structures"][0].update(label=True), id="label a truth value"),
        pytest.param(lambda c: c["structures"][2].update(key="a"), id="key twice"),
        pytest.param(lambda c: c["structures"][2].update(key=3), id="key a number"),
        pytest.param(lambda c: c["structures"][2].update(key=""), id="key empty"),
        pytest.param(lambda c: c.update(paint_order=["a", "b", 3]), id="number painted"),
        pytest.param(lambda c: c.update(paint_order=["a", "b", ["c"]]), id="list painted"),
        pytest.param(lambda c: c["structures"][2].update(color=[1.5, 2, 3]), id="color no whole number"),
        pytest.param(lambda c: c["structures"][2].update(color=[0, 0, 256]), id="color above 255"),
        pytest.param(lambda c: c["structures"][2].update(color=[-1, 0, 0]), id="color below 0"),
        pytest.param(lambda c: c["structures"][2].update(color=[1, 2]), id="two color parts"),
        pytest.param(lambda c: c["structures"][2].update(color=None), id="no color"),
        pytest.param(lambda c: c["structures"][2].update(type={"value": "1"}), id="half a code"),
        pytest.param(lambda c: c.update(paint_order=["a", "b"]), id="structure not painted"),
        pytest.param(lambda c: c.update(paint_order=["a", "b", "c", "c"]), id="structure painted twice"),
        pytest.param(lambda c: c.update(paint_order=["a", "b", "d"]), id="unknown structure painted"),
        pytest.param(lambda c: c["structures"][2].update(mirror="a"), id="one-sided mirror"),
        pytest.param(lambda c: c["structures"][2].update(mirror="d"), id="mirror of an unknown"),
        pytest.param(lambda c: c.update(structures="abc"), id="structures no list"),
        pytest.param(lambda c: c.update(structures=[1, 2]), id="structures no objects"),
        *(pytest.param(_drop(*path), id="without " + " ".join(path)) for path in [
            ("schema",), ("name",), ("paint_order",), ("background",), ("structures",),
            ("structures", "key"), ("structures", "type"), ("structures", "tg263"),
        ]),
    ],
)  # fmt: skip
def test_a_label_set_that_contradicts_itself_is_refused(tmp_path: Path, content: dict[str, Any], spoil: Edit) -> None:
    spoil(content)
    path = _write(tmp_path, content)
    with pytest.raises(BadInputError) as refusal:
        load_label_set(path)
    assert "Étiquettes 肺.json" in str(refusal.value)
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"thorax"', "\x00\x01", "[" * 100_000])
def test_a_file_that_is_no_label_set_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"broken\.json"):
        load_label_set(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.json"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(BadInputError, match=r"bytes\.json"):
        load_label_set(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"missing\.json"):
        load_label_set(tmp_path / "missing.json")


def test_a_changed_file_is_read_anew(tmp_path: Path, content: dict[str, Any]) -> None:
    first = load_label_set(_write(tmp_path, content))
    content["title"] = "Changed, and longer than before"
    assert load_label_set(_write(tmp_path, content)).title != first.title


def test_postprocessing_is_read_and_written_as_it_is(content: dict[str, Any]) -> None:
    content["structures"][0]["postprocessing"] = {"components": "largest", "side": "right"}
    content["structures"][1]["postprocessing"] = {"min_cc": 0.5, "side": "left"}
    content["structures"][2]["postprocessing"] = {"components": 3, "fill_holes": "slices"}
    label_set = label_set_from_dict(content, "x")
    assert label_set["a"].postprocessing == Postprocessing("largest", side="right")
    assert label_set["b"].postprocessing == Postprocessing(min_cc=0.5, side="left")
    assert label_set["c"].postprocessing == Postprocessing(3, fill_holes="slices")
    again = label_set_to_dict(label_set)
    assert label_set_to_dict(label_set_from_dict(json.loads(json.dumps(again)), "x")) == again
    assert again["structures"][2]["postprocessing"] == {
        "components": 3,
        "min_cc": 0.0,
        "fill_holes": "slices",
        "max_hole_cc": 1.0,
        "side": None,
    }


def test_a_label_set_without_postprocessing_stays_without(content: dict[str, Any]) -> None:
    label_set = label_set_from_dict(content, "x")
    assert all(structure.postprocessing is None for structure in label_set.structures)
    assert not any("postprocessing" in item for item in label_set_to_dict(label_set)["structures"])


def test_postprocessing_is_no_part_of_what_a_label_set_is(content: dict[str, Any]) -> None:
    plain = label_set_from_dict(content, "x")
    content["structures"][2]["postprocessing"] = {"components": "largest"}
    mended = label_set_from_dict(content, "x")
    assert mended == plain
    assert label_set_to_dict(without_postprocessing(mended)) == label_set_to_dict(plain)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "no object"),
        ({"largest": True}, "unknown entry largest"),
        ({"components": 0}, "keeps 0 components"),
        ({"components": True}, "keeps True components"),
        ({"components": "biggest"}, "keeps 'biggest'"),
        ({"components": 1.5}, "keeps 1.5"),
        ({"components": None}, "keeps None"),
        ({"min_cc": -1}, "smallest size -1"),
        ({"min_cc": float("nan")}, "smallest size nan"),
        ({"min_cc": "1"}, "smallest size '1'"),
        ({"max_hole_cc": -0.1}, "largest hole -0.1"),
        ({"fill_holes": True}, "fills True"),
        ({"side": "up"}, "side 'up'"),
        ({"side": ["right"]}, "side ..right"),
        ({"side": "right"}, "no mirror partner"),
    ],
)
def test_postprocessing_that_cannot_be_meant_is_refused_in_a_sentence(
    content: dict[str, Any], value: object, said: str
) -> None:
    content["structures"][2]["postprocessing"] = value
    with pytest.raises(BadInputError, match=said):
        label_set_from_dict(content, "x")


def test_both_mirror_partners_have_a_side_or_none(content: dict[str, Any]) -> None:
    content["structures"][0]["postprocessing"] = {"side": "right"}
    with pytest.raises(BadInputError, match="a has the side right"):
        label_set_from_dict(content, "x")
    content["structures"][1]["postprocessing"] = {"side": "right"}
    with pytest.raises(BadInputError, match="a has the side right"):
        label_set_from_dict(content, "x")
