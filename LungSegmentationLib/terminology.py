"""How a segment says what it is: terminology entries and tags in 3D Slicer's form, from the codes of a label set."""

from __future__ import annotations

from typing import Final

from LungSegmentationLib.labels import Code, Structure

__all__ = ["ANATOMIC_CONTEXT", "OWN_CONTEXT", "SLICER_CONTEXT", "segment_tags", "terminology_entry"]

SLICER_CONTEXT: Final = "Segmentation category and type - 3D Slicer General Anatomy list"
OWN_CONTEXT: Final = "Segmentation category and type - LungSegmentation"
"""Name of the terminology that knows the targets, which no terminology of Slicer does."""

ANATOMIC_CONTEXT: Final = "Anatomic codes - DICOM master list"


def terminology_entry(structure: Structure) -> str:
    """Return a structure's terminology entry as Slicer serializes it."""
    # What SNOMED CT calls anatomy is in Slicer's own list; the targets' category is DICOM's.
    anatomical = structure.category.scheme == "SCT"
    return "~".join(
        [
            SLICER_CONTEXT if anatomical else OWN_CONTEXT,
            *(_triple(code) for code in (structure.category, structure.type, structure.modifier)),
            ANATOMIC_CONTEXT,
            _triple(None),
            _triple(None),
        ]
    )


def segment_tags(structure: Structure) -> str:
    """Return the tags of a segment: its terminology entry, and its name after TG-263."""
    return f"TerminologyEntry:{terminology_entry(structure)}|TG263:{_plain(structure.tg263)}|"


def _triple(code: Code | None) -> str:
    return "^^" if code is None else "^".join(_plain(text) for text in (code.scheme, code.value, code.meaning))


def _plain(text: str) -> str:
    """Leave out what separates tags, entries and codes."""
    return " ".join("".join(" " if letter in "|~^" else letter for letter in text).split())
