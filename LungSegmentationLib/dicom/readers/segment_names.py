"""Which segment of a file is which structure: by what it is called, how it is coded, and the rules for ROI names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from LungSegmentationLib.dicom.roi_map import resolve_structure
from LungSegmentationLib.dicom.roi_names import RoiInfo, RoiKind, RoiRules, assign
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import Code, LabelSet, Structure

__all__ = ["CodedPair", "SegmentInfo", "SegmentMatch", "match_segments"]

CodedPair = tuple[str, str]
"""Coding scheme and code value."""

_ORGAN = "ORGAN"


@dataclass(frozen=True)
class SegmentInfo:
    """What a file says of a segment.

    Attributes
    ----------
    name
        For people; may be empty.
    identifier
        For programs: Slicer's segment ID, DICOM's Tracking ID; our files have the structure key there.
    tg263
        Name after AAPM TG-263, if the file keeps one.
    type, modifier
        Codes of the segmented property.
    """

    name: str
    identifier: str = ""
    tg263: str = ""
    type: CodedPair | None = None
    modifier: CodedPair | None = None

    @property
    def called(self) -> str:
        """How messages call it."""
        return f"“{self.name or self.identifier or self.tg263}”"


@dataclass(frozen=True)
class SegmentMatch:
    """Which structure each segment is, in the order of the segments, and what a person should know."""

    keys: tuple[str | None, ...]
    warnings: tuple[str, ...]


def match_segments(
    segments: Sequence[SegmentInfo], label_set: LabelSet, rules: RoiRules | None = None, *, code_first: bool
) -> SegmentMatch:
    """Decide which structure each segment is.

    What tells it, in this order: its name if that is a structure's key, name or TG-263 name; its code (with the side);
    its TG-263 tag; its identifier; its name by the rules for ROI names. The first that tells anything counts, and one
    that tells something else is said. Targets are united where several segments are the same one; an organ is the
    segment that is told first in that order, then in the file's, and the others are left out and named.

    Parameters
    ----------
    segments
        In the order of the file.
    label_set
        The structures.
    rules
        For names. Default: those of ``Resources/RoiNames``.
    code_first
        Whether the code goes before the name: it does in DICOM, where the label is free text; in Slicer a copied
        segment keeps its code, and the name is what its user changes and sees.
    """
    warnings: list[str] = []
    told: list[tuple[int, str | None, str]] = []
    for segment in segments:
        found = _told(segment, label_set, rules, code_first)
        if not found:
            told.append((0, None, ""))
            continue
        rank, key, way = found[0]
        told.append((rank, key, way))
        other = next(((name, how) for _, name, how in found if name != key), None)
        if other is not None:
            warnings.append(
                f"Segment {segment.called} is taken for {label_set[key].name} by its {way}; "
                f"its {other[1]} says {label_set[other[0]].name}."
            )
    keys = [key for _, key, _ in told]
    for structure in label_set.structures:
        places = [place for place, key in enumerate(keys) if key == structure.key]
        if len(places) < 2 or structure.interpreted_type != _ORGAN:
            continue
        best = min(places, key=lambda place: (told[place][0], place))
        for place in places:
            if place != best:
                keys[place] = None
                warnings.append(
                    f"Segment {segments[place].called} was left out: {structure.name} is segment "
                    f"{segments[best].called}."
                )
    unknown = [segment.called for segment, (_, key, _) in zip(segments, told, strict=True) if key is None]
    if unknown:
        shown = ", ".join(unknown[:12]) + (f" and {len(unknown) - 12} more" if len(unknown) > 12 else "")
        noun, verb = ("Segment", "is") if len(unknown) == 1 else ("Segments", "are")
        warnings.append(f"{noun} {shown} {verb} no structure of the label set {label_set.name} and left out.")
    return SegmentMatch(tuple(keys), tuple(warnings))


def _told(
    segment: SegmentInfo, label_set: LabelSet, rules: RoiRules | None, code_first: bool
) -> list[tuple[int, str, str]]:
    name = "name", _called(segment.name, label_set)
    code = "code", _coded(segment, label_set)
    ways = [code, name] if code_first else [name, code]
    ways += [("TG-263 name", _called(segment.tg263, label_set)), ("identifier", _called(segment.identifier, label_set))]
    found = [(rank, key, way) for rank, (way, key) in enumerate(ways) if key is not None]
    if not found:
        by_rules = _by_rules(segment.name or segment.identifier, label_set, rules)
        found = [] if by_rules is None else [(len(ways), by_rules, "name")]
    return found


def _called(name: str, label_set: LabelSet) -> str | None:
    try:
        return resolve_structure(name, label_set)
    except BadInputError:
        return None


def _coded(segment: SegmentInfo, label_set: LabelSet) -> str | None:
    if segment.type is None:
        return None
    same = [one for one in label_set.structures if _pair(one.type) == segment.type]
    exact = [one for one in same if _pair(one.modifier) == segment.modifier]
    # A code without its side does not tell a right lung from a left one; a further modifier takes nothing away.
    fitting: list[Structure] = exact or [one for one in same if one.modifier is None]
    return fitting[0].key if len(fitting) == 1 else None


def _pair(code: Code | None) -> CodedPair | None:
    return None if code is None else (code.scheme, code.value)


def _by_rules(name: str, label_set: LabelSet, rules: RoiRules | None) -> str | None:
    decision = assign([RoiInfo(1, name, contour_count=1)], label_set, rules).decisions[0]
    return decision.structure if decision.kind is RoiKind.USED else None
