"""What a number in the name of a target may mean besides its place in a row or its dose in Gy or cGy.

Where it may be a percentage, a margin, a breathing phase or a date, the name is left to a person.
"""

from __future__ import annotations

import re

__all__ = ["doubt"]

_LEAST_D = 50  # D2 may be the second target on the right; below half of the dose no D is a coverage
_LEAST_V = 20
_ISODOSES = range(80, 121)
_YEARS = range(2001, 2040)
_MARGINS = range(3, 21)
_LONGEST_DOSE = 4
_HILAR_STATION = "10"


def doubt(target: str, text: str, previous: str, *, glued: bool, station: bool, dosed: bool) -> str:
    """Say what else a number may be.

    Parameters
    ----------
    target
        Structure key of the target.
    text
        The number.
    previous
        The word before it.
    glued
        Whether nothing stands between the two.
    station
        Whether the words around it make it a lymph node station: ``LN 10``, ``10L``.
    dosed
        Whether the name holds a unit of dose.

    Returns
    -------
    str
        A phrase for people; empty where there is no doubt.
    """
    value = float(text.replace(",", "."))
    said = f"“{previous}{text}”" if glued else f"“{text}”"
    if (previous == "v" and value >= _LEAST_V) or (previous == "d" and glued and value >= _LEAST_D):
        return f"“{previous}{text}” may be a dose or its coverage"
    if previous in {"p", "m"} and glued and value in _MARGINS:
        return f"{said} may be a margin (plus, minus) or one of many targets"
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
