"""DICOM elements found straight in the bytes of well-formed little endian files, some ten times faster than a parser.

Only what is beyond doubt is read here. Anything else (no meta information, big endian, deflated, an unknown or
contradictory value representation, a length that does not fit) makes a file not plain: pydicom reads it then, so that
there is one place that knows what to make of defects.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from pydicom.datadict import dictionary_VR

__all__ = ["Elements", "PlainFile", "read_plain"]

Elements: TypeAlias = "dict[int, bytes | list[Elements]]"
"""Tag to the bytes of the value, or to the items of a sequence."""

TRANSFER_SYNTAX: Final = 0x00020010
IMPLICIT: Final = b"1.2.840.10008.1.2"
EXPLICIT: Final = b"1.2.840.10008.1.2.1"
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF
PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
# Deeper than any information object nests; a file that goes on is left to the parser.
DEEPEST: Final = 16

_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_EXPLICIT_HEAD: Final = struct.Struct("<HH2sH")
_IMPLICIT_HEAD: Final = struct.Struct("<HHI")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A well-formed file.

    Attributes
    ----------
    meta, elements
        The meta information (group 2) and the data set.
    transfer_syntax
        Transfer Syntax UID.
    explicit
        Whether each element names its value representation.
    end
        Where reading stopped: at the pixel data or at the end.
    """

    meta: Elements
    elements: Elements
    transfer_syntax: str
    explicit: bool
    end: int


class _NotPlainError(Exception):
    pass


def read_plain(data: bytes, *, wanted: Container[int] | None = None) -> PlainFile | None:
    """Read a file up to its pixel data.

    Parameters
    ----------
    data
        The file, or its beginning as far as the pixel data.
    wanted
        Only these elements are kept, and all that is in them; default: all.

    Returns
    -------
    PlainFile or None
        None if the file is not plain, or ends elsewhere than at the end of an element.
    """
    if data[128:132] != b"DICM":
        return None
    try:
        meta, position = _Walk(data, explicit=True).meta(132)
        syntax = meta.get(TRANSFER_SYNTAX, b"")
        name = syntax.rstrip(b"\0 ") if isinstance(syntax, bytes) else b""
        if name not in {IMPLICIT, EXPLICIT}:
            return None
        walk = _Walk(data, explicit=name == EXPLICIT)
        elements, end = walk.elements(position, len(data), wanted, to_pixels=True)
    except (_NotPlainError, struct.error):  # struct.error: the file ends within the head of an element
        return None
    return PlainFile(meta, elements, name.decode(), walk.explicit, end)


class _Walk:
    """Goes through the elements of one file."""

    def __init__(self, data: bytes, *, explicit: bool) -> None:
        self.data = data
        self.explicit = explicit

    def meta(self, position: int) -> tuple[Elements, int]:
        """Return the meta information and where the data set begins."""
        found: Elements = {}
        while self.data[position : position + 2] == b"\x02\0":
            tag, _, begin, length = self._head(position)
            position = begin + length
            if position > len(self.data):
                raise _NotPlainError
            found[tag] = self.data[begin:position]
        return found, position

    def elements(
        self,
        position: int,
        end: int,
        wanted: Container[int] | None,
        *,
        to_pixels: bool = False,
        delimited: bool = False,
        depth: int = 0,
    ) -> tuple[Elements, int]:
        """Return the elements up to ``end``, to the pixel data, or to the delimiter of an item; and where that is."""
        if depth > DEEPEST:
            raise _NotPlainError
        data = self.data
        found: Elements = {}
        if not self.explicit and position < end and data[position + 4 : position + 6].isupper():
            # Two capitals would be a value representation: the file may not be what it says.
            raise _NotPlainError
        while position < end:
            tag, sequence, begin, length = self._head(position)
            if to_pixels and tag in PIXELS:
                return found, position
            if tag >= ITEM:
                if delimited and tag == ITEM_END and length == 0:
                    return found, begin
                raise _NotPlainError
            kept = wanted is None or tag in wanted
            if length != UNDEFINED:
                position = begin + length
                if position > end:
                    raise _NotPlainError
                if kept:
                    found[tag] = self._items(begin, position, depth, None)[0] if sequence else data[begin:position]
            elif sequence:
                items, position = self._items(begin, end, depth, None if kept else (), delimited=True)
                if kept:
                    found[tag] = items
            else:
                raise _NotPlainError
        if delimited:
            raise _NotPlainError
        return found, position

    def _items(
        self, position: int, end: int, depth: int, wanted: Container[int] | None, *, delimited: bool = False
    ) -> tuple[list[Elements], int]:
        """Return the items of a sequence, and where it ends."""
        found: list[Elements] = []
        while position < end:
            group, element, length = _IMPLICIT_HEAD.unpack_from(self.data, position)
            tag, position = group << 16 | element, position + 8
            if tag == SEQUENCE_END and delimited and length == 0:
                return found, position
            if tag != ITEM:
                raise _NotPlainError
            undefined = length == UNDEFINED
            stop = end if undefined else position + length
            if stop > end:
                raise _NotPlainError
            item, position = self.elements(position, stop, wanted, delimited=undefined, depth=depth + 1)
            found.append(item)
        if delimited:
            raise _NotPlainError
        return found, position

    def _head(self, position: int) -> tuple[int, bool, int, int]:
        """Return tag, whether it is a sequence, and begin and length of the value."""
        if not self.explicit:
            group, element, length = _IMPLICIT_HEAD.unpack_from(self.data, position)
            tag = group << 16 | element
            return tag, _known_vr(tag) == b"SQ", position + 8, length
        group, element, vr, length = _EXPLICIT_HEAD.unpack_from(self.data, position)
        tag = group << 16 | element
        if vr in _SHORT:
            begin = position + 8
        elif vr in _LONG:
            begin, length = position + 12, _LENGTH.unpack_from(self.data, position + 8)[0]
        elif tag in {ITEM_END, SEQUENCE_END}:
            return tag, False, position + 8, _LENGTH.unpack_from(self.data, position + 4)[0]
        else:
            raise _NotPlainError
        known = _known_vr(tag)
        if known and (vr == b"SQ") != (known == b"SQ"):
            raise _NotPlainError
        return tag, vr == b"SQ", begin, length


@lru_cache(maxsize=4096)
def _known_vr(tag: int) -> bytes:
    """Return the value representation of the dictionary; empty for what it does not know."""
    try:
        return dictionary_VR(tag).encode()
    except KeyError:
        return b""
