"""DICOM elements as bytes: datasets opened within bounds, and texts and terms read from what really stands there.

Elements of plain files are found directly, those of all others by pydicom; no wrong character set, value representation
or length can stop the reading.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, MutableSequence, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import pydicom
from pydicom.charset import decode_bytes, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID
from pydicom.valuerep import TEXT_VR_DELIMS

from LungSegmentationLib.dicom.decimal_strings import number
from LungSegmentationLib.dicom.plain_elements import Elements, read_plain
from LungSegmentationLib.errors import BadInputError, UnsupportedFileError

__all__ = [
    "ElementSet",
    "character_set",
    "integer",
    "is_complete",
    "items",
    "kind_of",
    "open_dataset",
    "raw_value",
    "term",
    "text",
    "uid",
]

ElementSet: TypeAlias = "Dataset | Elements"
"""Elements of a data set or of an item of a sequence."""

MAX_BYTES = 1 << 30
"""Largest file that is opened: the largest RTSTRUCTs met have some 10⁸ bytes."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT_LITTLE = b"1.2.840.10008.1.2.1\0\0\0"
PREAMBLE = 128
UNDEFINED_LENGTH = 0xFFFFFFFF
SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
MODALITY = 0x00080060

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_LATIN_TERMS = frozenset({"", "ISO_IR 6", "ISO_IR 100"})


def open_dataset(path: Path, tags: Iterable[int] | None = None) -> ElementSet:
    """Open a DICOM file, with or without preamble and file meta information.

    Parameters
    ----------
    path
        The file.
    tags
        Only these top-level elements are kept; default: all.

    Raises
    ------
    BadInputError
        If the file cannot be read, or its structure is broken.
    UnsupportedFileError
        If it is larger than ``MAX_BYTES``, also after inflating.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _too_large(path)
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"The file {path} cannot be read: {reason}.") from error
    wanted = None if tags is None else [SPECIFIC_CHARACTER_SET, *tags]
    try:
        data = _inflated(path, data)
        plain = read_plain(data, wanted=wanted)
        if plain is not None and plain.elements and plain.end == len(data):
            return plain.elements
        return pydicom.dcmread(BytesIO(data), force=True, specific_tags=wanted)
    except BadInputError:
        raise
    except Exception as error:  # broken bytes make pydicom raise almost anything: struct, key, value, recursion errors
        raise BadInputError(
            f"The file {path} is no readable DICOM file ({type(error).__name__}: {error}).", "Export it again."
        ) from error


def _too_large(path: Path) -> UnsupportedFileError:
    return UnsupportedFileError(f"The file {path} holds more than {MAX_BYTES >> 30} GiB, which no RTSTRUCT needs.")


def _inflated(path: Path, data: bytes) -> bytes:
    """Inflate a deflated file within bounds, before pydicom does it without any."""
    start = PREAMBLE + 16 + int.from_bytes(data[PREAMBLE + 12 : PREAMBLE + 16], "little")
    place = data.find(DEFLATED, PREAMBLE, min(start, PREAMBLE + 4096))
    if place < 0 or data[PREAMBLE : PREAMBLE + 4] != b"DICM":
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(data[start:], MAX_BYTES)
    if inflater.unconsumed_tail:
        raise _too_large(path)
    return data[:place] + EXPLICIT_LITTLE + data[place + len(DEFLATED) : start] + body


def raw_value(dataset: ElementSet, tag: int) -> bytes:
    """Return the bytes of an element, empty where it is absent or holds no text."""
    if isinstance(dataset, dict):
        plain = dataset.get(tag, b"")
        return plain if isinstance(plain, bytes) else b""
    element: Any = dataset.get_item(tag)
    value = None if element is None else element.value
    if value is None or isinstance(value, DicomSequence):
        return b""
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, MutableSequence) else [value]
    return "\\".join(str(part) for part in values).encode("utf-8", "replace")


def items(dataset: ElementSet, tag: int) -> Sequence[ElementSet]:
    """Return the items of a sequence; none where it is absent, empty or no sequence."""
    if isinstance(dataset, dict):
        plain = dataset.get(tag, [])
        return plain if isinstance(plain, list) else ()
    if dataset.get_item(tag) is None:
        return ()
    value: Any = dataset[tag].value
    return value if isinstance(value, DicomSequence) else ()


def is_complete(dataset: ElementSet, tag: int) -> bool:
    """Whether an element, not yet accessed, holds as many bytes as its length claims (else the file ends early)."""
    if isinstance(dataset, dict):
        return True
    element: Any = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or element.length == UNDEFINED_LENGTH:
        return True
    return len(element.value or b"") == element.length


def integer(raw: bytes) -> int | None:
    """Read an IS string; ``None`` where it holds no integer."""
    value = number(raw[:64].split(b"\\")[0])
    return int(value) if value.is_integer() else None


def uid(dataset: ElementSet, tag: int) -> str:
    """Return a UID without its padding."""
    return raw_value(dataset, tag).decode("ascii", "replace").strip("\0 ")


def term(dataset: ElementSet, tag: int) -> str:
    """Return a code string in capitals, without padding."""
    return raw_value(dataset, tag).decode("ascii", "replace").strip("\0 ").upper()


def text(dataset: ElementSet, tag: int, character_set: Sequence[str] = ()) -> str:
    """Return a text in whatever character set it is really written.

    Parameters
    ----------
    dataset, tag
        Where the text stands.
    character_set
        Terms of Specific Character Set (0008,0005) of the file. A text that does not fit them is read as UTF-8, then
        as Windows Latin 1. UTF-8 in a file that declares Latin 1 or nothing is a common fault of exporters and is
        read as UTF-8: Latin 1 text with accents practically never makes valid UTF-8.
    """
    raw = raw_value(dataset, tag)
    return " ".join(_CONTROL.sub(" ", _decoded(raw, character_set)).split())


def _decoded(raw: bytes, character_set: Sequence[str]) -> str:
    terms = [value.replace("ISO 2022 IR", "ISO_IR") for value in character_set]
    candidates = ["utf-8"] if set(terms) <= _LATIN_TERMS else []
    if len(terms) > 1 and b"\x1b" in raw:
        known = [python_encoding[value] for value in character_set if value in python_encoding]
        if known:
            try:
                return decode_bytes(raw, known, set(TEXT_VR_DELIMS))
            except (LookupError, UnicodeError):
                candidates.append("utf-8")
    candidates += [python_encoding[value] for value in terms[:1] if value in python_encoding]
    for encoding in (*candidates, "utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except (LookupError, UnicodeError):  # the next candidate answers
            continue
    return raw.decode("latin-1")


def character_set(dataset: ElementSet) -> tuple[str, ...]:
    """Return the terms of Specific Character Set; empty where it is missing."""
    terms = raw_value(dataset, SPECIFIC_CHARACTER_SET).decode("ascii", "replace").split("\\")
    return tuple(value.strip("\0 ") for value in terms) if terms != [""] else ()


def kind_of(dataset: ElementSet) -> str:
    """Say what a dataset is, for a message: the name of its SOP class, else its modality; empty if it says neither."""
    name = UID(uid(dataset, SOP_CLASS_UID)).name
    return name or term(dataset, MODALITY)
