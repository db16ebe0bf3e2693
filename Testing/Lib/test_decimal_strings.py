"""Decimal strings: each number as Python's ``float`` reads it, to the last bit, however many come at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LungSegmentationLib.dicom import decimal_strings
from LungSegmentationLib.dicom.decimal_strings import number_lists, numbers

written_number = st.one_of(
    st.floats(-1e4, 1e4).map(lambda value: f"{value:.3f}"),
    st.floats(allow_nan=False).map(repr),
    st.integers(-(10**18), 10**18).map(str),
    st.from_regex(r"[ +-]?[0-9]{0,17}\.?[0-9]{0,17}(e[+-]?[0-9]{1,3})?[ \x00]?", fullmatch=True),
    st.text("0123456789.+-eE _naif\0", max_size=20),
)


def by_python(part: str) -> float:
    try:
        return float(part.strip(" \0"))
    except ValueError:
        return math.nan


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(written_number, max_size=30), max_size=6))
def test_many_strings_are_read_as_python_reads_each_number(lists: list[list[str]]) -> None:
    raws = ["\\".join(parts) for parts in lists]
    expected = [
        [by_python(part) for part in stripped.split("\\")] if (stripped := raw.rstrip("\\ \0")) else [] for raw in raws
    ]
    found = number_lists([raw.encode() for raw in raws])
    assert [list(map(repr, values.tolist())) for values in found] == [list(map(repr, values)) for values in expected]


def test_negative_zero_stays_negative() -> None:
    assert np.signbit(numbers(b"-0\\-0.00\\0.0")).tolist() == [True, True, False]


def test_a_long_list_is_the_same_in_any_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(0, 200, (40, 300)).round(4)
    raws = ["\\".join(map(str, row)).encode() for row in values.tolist()]
    for lot in (1, 1000, 1 << 30):
        monkeypatch.setattr(decimal_strings, "LOT", lot)
        assert np.array_equal(np.stack(number_lists(raws)), values)


def test_nothing_gives_nothing() -> None:
    assert number_lists([]) == []
    assert [values.size for values in number_lists([b"", b"1", b" \\", b"2\\3"])] == [0, 1, 0, 2]
