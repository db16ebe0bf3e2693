"""Decimal strings to numbers, hundreds of thousands at a time, to the last bit as ``float`` reads them.

A number of at most 15 digits is an integer below 2⁵³ over a power of ten that a double holds exactly; one division
rounds correctly (W. D. Clinger, How to read floating point numbers accurately, PLDI 1990). What is written otherwise
(exponents, blanks, more digits, no number at all) is read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["number", "number_lists", "numbers"]

PADDING: Final = b"\\ \0"
MOST_DIGITS: Final = 15
# With a sign and a point.
LONGEST: Final = MOST_DIGITS + 2
# Bytes worked on at once: more would leave the processor's cache.
LOT: Final = 1 << 17

_POWERS: Final = 10.0 ** np.arange(LONGEST + 1)

Floats = NDArray[np.float64]


def number(part: bytes) -> float:
    """Read one number with or without padding; what is none becomes NaN."""
    try:
        return float(part.strip(b" \0"))
    except ValueError:
        return float("nan")


def numbers(raw: bytes) -> Floats:
    """Read the values of a DS string (DICOM PS3.5 6.2), whatever their length; what is no number becomes NaN."""
    return number_lists([raw])[0]


def number_lists(raws: Sequence[bytes]) -> list[Floats]:
    """Read many DS strings as :func:`numbers` does one.

    Returns
    -------
    list of float64, shape (n,)
        One for each string; may be views of one array.
    """
    stripped = [raw.rstrip(PADDING) for raw in raws]
    counts = [raw.count(b"\\") + 1 if raw else 0 for raw in stripped]
    result: list[Floats] = []
    for lot in _lots(stripped):
        values = _read(b"\\".join(filter(None, stripped[lot])))
        ends = np.cumsum(counts[lot])
        result += np.split(values, ends[:-1])
    return result


def _lots(raws: Sequence[bytes]) -> Iterator[slice]:
    begin = filled = 0
    for index, raw in enumerate(raws):
        if filled > LOT:
            yield slice(begin, index)
            begin, filled = index, 0
        filled += len(raw)
    if raws:
        yield slice(begin, len(raws))


def _read(text: bytes) -> Floats:
    """Read numbers that backslashes divide."""
    if not text:
        return np.empty(0)
    characters = np.frombuffer(text + bytes(LONGEST), np.uint8)
    ends = np.append(np.flatnonzero(characters[: len(text)] == ord("\\")), len(text))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    # One row a place in the number, one column a number: the loops are over the few places.
    width = min(int(lengths.max()), LONGEST)
    places = np.stack([characters[place:].take(starts) for place in range(max(width, 1))])
    inside = np.arange(len(places), dtype=np.uint8)[:, None] < lengths.clip(max=LONGEST).astype(np.uint8)
    digits = places - np.uint8(ord("0"))
    is_digit = (digits < 10) & inside
    is_point = (places == ord(".")) & inside
    negative = (places[0] == ord("-")) & inside[0]
    signed = ((places[0] == ord("+")) & inside[0]) | negative
    whole = np.zeros(len(starts))
    behind = np.zeros(len(starts), np.uint8)
    after_point = np.zeros(len(starts), np.bool_)
    for digit, valid, point in zip(digits, is_digit, is_point, strict=True):
        whole *= valid * np.uint8(9) + np.uint8(1)
        whole += digit * valid
        after_point |= point
        behind += after_point & valid
    values = whole / _POWERS[behind]
    np.negative(values, out=values, where=negative)
    digit_count, point_count = _count(is_digit), _count(is_point)
    plain = (digit_count + point_count + signed == lengths) & (point_count <= 1)
    plain &= (digit_count > 0) & (digit_count <= MOST_DIGITS)
    for index in np.flatnonzero(~plain).tolist():
        values[index] = number(text[starts[index] : ends[index]])
    return values


def _count(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Count over the places, of which there are few."""
    counts: NDArray[np.uint8] = np.add.reduce(flags.view(np.uint8), axis=0, dtype=np.uint8)
    return counts
