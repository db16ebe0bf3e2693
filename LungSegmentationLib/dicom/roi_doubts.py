"""What makes the name of a target doubtful: numbers, signs and single letters that may mean another structure.

Where a number may be a percentage, a margin, a breathing phase or a date, the name is left to a person.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from LungSegmentationLib.dicom.roi_rulebook import ANY_LANGUAGE, RuleBook
from LungSegmentationLib.dicom.roi_spans import MINUS, Span

__all__ = ["adds_to_a_number", "doubt_of_number", "doubt_of_signs", "doubt_of_target"]

_LEAST_D = 50  # D2 may be the second target on the right; below half of the dose no D is a coverage
_LEAST_V = 20
_ISODOSES = range(80, 121)
_YEARS = range(2001, 2040)
_MARGINS = range(3, 21)
_LONGEST_DOSE = 4
_HILAR_STATION = "10"
_NEGATIVE = re.compile(r"(?<=[\s(\[_])[-−–—]\d+([.,]\d+)?")


def adds_to_a_number(spans: Sequence[Span]) -> bool:
    """Whether one number is added to another, which may be targets, stations or a margin: ``GTV1+2``."""
    numbers = [span for span in spans if span.is_number]
    return any("+" in span.tokens[0].before for span in numbers[1:])


def doubt_of_target(book: RuleBook, spans: Sequence[Span], head: Span, raw: str) -> str:
    """Return why a target is left to a person for its signs and single letters; empty if it is not.

    Parameters
    ----------
    book
        The rules.
    spans
        The words of the name.
    head
        The first of them that names a target.
    raw
        The name without accents, for its signs.
    """
    name = head.text.upper()
    first = spans[0]
    if head.at == 1 and len(first.text) == 1 and first.text.isalpha() and first.text not in book.leading:
        # “R PTV” is on the right; the r of “rPTV” is none of a side
        apart = head.tokens[0].before and any(sense.language == ANY_LANGUAGE for sense in first.of("side"))
        if not apart:
            return f"“{first.text}” before {name} may be a dose, a helper or another kind of target"
    if "~" in raw:
        return "“~” may mean a part of the structure"
    if raw.endswith("?"):
        return "“?” at the end may mean a doubt"
    if _joins_doses(spans):
        return "two numbers with a hyphen may be a difference of dose levels"
    for span in spans:
        if span.text in book.unclear:
            return f"“{span.text}” beside {name} {book.unclear[span.text]}"
        around = spans[max(0, span.at - 1) : span.at + 2]
        if span.text == "x" and [other.is_number for other in around] != [True, False, True]:
            return f"“x” beside {name} may be a helper's mark"
    return doubt_of_signs(spans, raw)


def _joins_doses(spans: Sequence[Span]) -> bool:
    return any(
        first.is_number
        and second.is_number
        and second.tokens[0].before.strip() in MINUS
        and min(len(first.text), len(second.text)) > 1
        for first, second in pairwise(spans)
    )


def doubt_of_signs(spans: Sequence[Span], raw: str) -> str:
    """Return why a sign after the last word (``PTV+``) or a negative number (``PTV -3``) is doubtful, or nothing."""
    last = raw[-1:]
    # “N+” is a node with tumor
    if last in MINUS or (last == "+" and not spans[-1].has("part")):
        return f"“{last}” at the end may mean a margin or a difference"
    negative = _NEGATIVE.search(raw)
    return f"“{negative.group()}” may be a margin" if negative else ""


def doubt_of_number(book: RuleBook, spans: Sequence[Span], span: Span, target: str, *, dosed: bool) -> str:
    """Return what a number beside a target may be, other than its place in a row or its dose; empty if nothing.

    Parameters
    ----------
    book
        The rules.
    spans
        The words of the name.
    span
        The number.
    target
        Structure key of the target.
    dosed
        Whether the name holds a unit of dose.
    """
    previous = spans[span.at - 1].text if span.at else ""
    following = {other.text for other in spans[span.at + 1 : span.at + 2]}
    station = bool(following & {"l", "r"}) or previous in book.stations
    glued = bool(previous) and not span.tokens[0].before
    text = span.text
    value = float(text.replace(",", "."))
    if (previous == "v" and value >= _LEAST_V) or (previous == "d" and glued and value >= _LEAST_D):
        return f"“{previous}{text}” may be a dose or its coverage"
    if previous in {"p", "m"} and glued and value in _MARGINS:
        return f"“{previous}{text}” may be a margin (plus, minus) or one of many targets"
    if re.fullmatch(r"0+[.,]\d+", text):
        return f"“{text}” may be a margin"
    if dosed:
        return ""
    if len(re.split("[.,]", text)[0]) > _LONGEST_DOSE:
        return f"“{text}” may be a date"
    if value in _YEARS:
        return f"“{text}” may be the year of another treatment"
    if value in _ISODOSES:
        return f"“{text}” may be an isodose in percent"
    if target == "gtv" and re.fullmatch(r"\d?0", text) and not (station and text == _HILAR_STATION):
        return f"“{text}” may be a breathing phase or a dose"
    return ""
