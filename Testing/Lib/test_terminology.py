"""What segments say of themselves, and the terminology that Slicer is given, agree with the label set."""

from __future__ import annotations

import json

from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.resources import resource_path
from LungSegmentationLib.terminology import OWN_CONTEXT, SLICER_CONTEXT, segment_tags, terminology_entry

LABELS = load_label_set()


def test_an_entry_has_seven_parts_and_three_values_a_code() -> None:
    for structure in LABELS.structures:
        parts = terminology_entry(structure).split("~")
        assert len(parts) == 7
        assert [part.count("^") for part in (*parts[1:4], *parts[5:])] == [2] * 5
        assert parts[2] == f"{structure.type.scheme}^{structure.type.value}^{structure.type.meaning}"


def test_targets_are_in_our_terminology_and_organs_in_that_of_slicer() -> None:
    contexts = {structure.key: terminology_entry(structure).split("~")[0] for structure in LABELS.structures}
    assert contexts["gtv"] == contexts["ptv"] == OWN_CONTEXT
    assert {contexts[key] for key in LABELS.keys if key not in {"gtv", "ptv"}} == {SLICER_CONTEXT}


def test_tags_end_each_with_a_bar() -> None:
    tags = segment_tags(LABELS["lung_left"])
    assert tags.endswith("|")
    assert [tag.split(":", 1)[0] for tag in tags[:-1].split("|")] == ["TerminologyEntry", "TG263"]


def test_the_terminology_file_knows_every_structure_that_slicer_does_not() -> None:
    content = json.loads(resource_path("Terminologies", "LungSegmentation.term.json").read_text(encoding="utf-8"))
    assert content["SegmentationCategoryTypeContextName"] == OWN_CONTEXT
    known = {
        (category["CodeValue"], kind["CodeValue"]): (kind["CodeMeaning"], tuple(kind["recommendedDisplayRGBValue"]))
        for category in content["SegmentationCodes"]["Category"]
        for kind in category["Type"]
    }
    ours = {
        (one.category.value, one.type.value): (one.type.meaning, one.color)
        for one in LABELS.structures
        if terminology_entry(one).startswith(OWN_CONTEXT)
    }
    assert known == ours
