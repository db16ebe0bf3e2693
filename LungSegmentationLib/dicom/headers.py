"""The header of one DICOM file, read without its pixels and without trusting it.

Values are taken from the raw bytes of the few elements that are needed: this is several times faster than converting
each to a Python object, and a value that breaks its own format is noticed instead of repaired. What was parsed before
is the element structure alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag

from LungSegmentationLib.dicom.raw_elements import ElementSet
from LungSegmentationLib.errors import BadInputError

__all__ = ["TAGS", "Header", "Pixels", "decode_text", "meta_uid"]

TAGS: Final = {
    "SpecificCharacterSet": BaseTag(0x00080005),
    "ImageType": BaseTag(0x00080008),
    "SOPClassUID": BaseTag(0x00080016),
    "SOPInstanceUID": BaseTag(0x00080018),
    "StudyDate": BaseTag(0x00080020),
    "Modality": BaseTag(0x00080060),
    "SeriesDescription": BaseTag(0x0008103E),
    "PatientName": BaseTag(0x00100010),
    "PatientID": BaseTag(0x00100020),
    "PatientBirthDate": BaseTag(0x00100030),
    "SliceThickness": BaseTag(0x00180050),
    "StudyInstanceUID": BaseTag(0x0020000D),
    "SeriesInstanceUID": BaseTag(0x0020000E),
    "ImagePositionPatient": BaseTag(0x00200032),
    "ImageOrientationPatient": BaseTag(0x00200037),
    "FrameOfReferenceUID": BaseTag(0x00200052),
    "ConcatenationUID": BaseTag(0x00209161),
    "SamplesPerPixel": BaseTag(0x00280002),
    "PhotometricInterpretation": BaseTag(0x00280004),
    "NumberOfFrames": BaseTag(0x00280008),
    "Rows": BaseTag(0x00280010),
    "Columns": BaseTag(0x00280011),
    "PixelSpacing": BaseTag(0x00280030),
    "BitsAllocated": BaseTag(0x00280100),
    "BitsStored": BaseTag(0x00280101),
    "HighBit": BaseTag(0x00280102),
    "PixelRepresentation": BaseTag(0x00280103),
    "PixelPaddingValue": BaseTag(0x00280120),
    "PixelPaddingRangeLimit": BaseTag(0x00280121),
    "RescaleIntercept": BaseTag(0x00281052),
    "RescaleSlope": BaseTag(0x00281053),
    "RescaleType": BaseTag(0x00281054),
    "ModalityLUTSequence": BaseTag(0x00283000),
    "SharedFunctionalGroupsSequence": BaseTag(0x52009229),
    "PerFrameFunctionalGroupsSequence": BaseTag(0x52009230),
    # inside the functional groups
    "FrameType": BaseTag(0x00089007),
    "CTImageFrameTypeSequence": BaseTag(0x00189329),
    "PlanePositionSequence": BaseTag(0x00209113),
    "PlaneOrientationSequence": BaseTag(0x00209116),
    "PixelMeasuresSequence": BaseTag(0x00289110),
    "PixelValueTransformationSequence": BaseTag(0x00289145),
}


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where the pixel data of a file begin and what the element claims.

    Attributes
    ----------
    tag
        Group and element: (0x7FE0, 0x0010) for integers; the float kinds are told apart by it.
    offset
        Position of the first byte of the value, in the file or, for a deflated one, in its inflated data set.
    length
        Claimed length of the value in bytes; None where undefined, as encapsulated (compressed) data are.
    available
        Bytes that there are from ``offset`` to the end.
    """

    tag: tuple[int, int]
    offset: int
    length: int | None
    available: int


@dataclass(frozen=True)
class Header:
    """Elements of one file, by keyword (only those in ``TAGS``).

    Attributes
    ----------
    path
        The file.
    dataset, meta
        The wanted elements, and the meta information (group 2).
    transfer_syntax
        Transfer Syntax UID; of a file without meta information the one that its bytes look like.
    little_endian
        Byte order of the data set and of uncompressed pixels.
    pixels
        Where the pixel data are; None for a file without.
    """

    path: Path
    dataset: ElementSet
    meta: ElementSet
    transfer_syntax: str
    little_endian: bool
    pixels: Pixels | None

    def item(self, keyword: str, dataset: ElementSet | None = None) -> object:
        """Return the raw value of an element, bytes as stored or already converted; None if absent or empty."""
        value = _value(self.dataset if dataset is None else dataset, TAGS[keyword])
        return None if value is None or (isinstance(value, (bytes, str)) and not value) else value

    def text(self, keyword: str, dataset: ElementSet | None = None) -> str:
        """Return an element of plain ASCII characters, stripped; empty if absent."""
        value = self.item(keyword, dataset)
        if value is None:
            return ""
        if isinstance(value, bytes):
            return value.decode("latin-1").strip(" \0\t\r\n")
        if isinstance(value, (MultiValue, list, tuple)):
            return "\\".join(str(part) for part in value)
        return str(value).strip(" \0")

    def words(self, keyword: str, dataset: ElementSet | None = None) -> tuple[str, ...]:
        """Return an element of several plain values; empty if absent."""
        text = self.text(keyword, dataset)
        return tuple(word.strip() for word in text.split("\\")) if text else ()

    def human(self, keyword: str) -> str:
        """Return an element in the file's own character set."""
        value = self.item(keyword)
        if isinstance(value, bytes):
            return decode_text(value, self.text("SpecificCharacterSet"))
        return "" if value is None else str(value)

    def numbers(self, keyword: str, count: int, dataset: ElementSet | None = None) -> tuple[float, ...] | None:
        """Return ``count`` decimal numbers, or None if the element is absent.

        Raises
        ------
        BadInputError
            The element is there, but is not that many finite numbers.
        """
        words = self.words(keyword, dataset)
        if not words:
            return None
        try:
            values = tuple(float(word) for word in words if "_" not in word)
        except ValueError:
            values = ()
        if len(values) != count or len(words) != count or not all(math.isfinite(value) for value in values):
            raise BadInputError(_not_numbers(self.path, keyword, count, words), "The file is damaged.")
        return values

    def number(self, keyword: str, dataset: ElementSet | None = None) -> float | None:
        """Return one decimal number, or None if the element is absent."""
        values = self.numbers(keyword, 1, dataset)
        return None if values is None else values[0]

    def integer(self, keyword: str, *, signed: bool = False) -> int | None:
        """Return a binary integer of 16 or 32 bits, or None if the element is absent.

        Raises
        ------
        BadInputError
            The element has another length.
        """
        value = _value(self.dataset, TAGS[keyword])
        if value is None or value == b"":
            return None
        if isinstance(value, int):
            return value
        if not isinstance(value, bytes) or len(value) not in {2, 4}:
            raise BadInputError(f"{self.path}: {keyword} is not one number.", "The file is damaged.")
        return int.from_bytes(value, "little" if self.little_endian else "big", signed=signed)

    def sequence(self, keyword: str, dataset: ElementSet | None = None) -> Sequence[ElementSet]:
        """Return the items of a sequence; empty if absent.

        Raises
        ------
        BadInputError
            The element is there, but is no sequence.
        """
        holder = self.dataset if dataset is None else dataset
        tag = TAGS[keyword]
        if tag not in holder:
            return []
        if isinstance(holder, dict):
            items = holder[tag]
            return items if isinstance(items, list) else []
        try:
            value = holder[tag].value
        except Exception as error:  # a broken sequence may make the parser raise anything; nothing is documented
            raise BadInputError(f"{self.path}: {keyword} cannot be read.", "The file is damaged.") from error
        if isinstance(value, DicomSequence):
            return list(value)
        if value:
            raise BadInputError(f"{self.path}: {keyword} is no sequence.", "The file is damaged.")
        return []

    @property
    def sop_class(self) -> str:
        """SOP Class UID, from the meta information where the data set leaves it empty."""
        return self.text("SOPClassUID") or meta_uid(self.meta, 0x00020002)

    @property
    def sop_instance(self) -> str:
        """SOP Instance UID, from the meta information where the data set leaves it empty."""
        return self.text("SOPInstanceUID") or meta_uid(self.meta, 0x00020003)


def _not_numbers(path: Path, keyword: str, count: int, words: tuple[str, ...]) -> str:
    shown = "\\".join(words)[:80]
    return f"{path}: {keyword} should hold {count} finite number(s), but is “{shown}”."


def _value(dataset: ElementSet, tag: int) -> Any:
    if isinstance(dataset, dict):
        return dataset.get(tag)
    # Kept as it is: asking for an empty element otherwise converts it, and fails on one of an unknown kind.
    element: Any = dataset.get_item(tag, keep_deferred=True)
    return None if element is None else element.value


def meta_uid(meta: ElementSet, tag: int) -> str:
    """Return a UID of the meta information; empty if absent."""
    value = _value(meta, tag)
    if value is None:
        return ""
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip(" \0")


@lru_cache(maxsize=1024)
def decode_text(value: bytes, character_set: str) -> str:
    """Decode a person's name or a description; characters that cannot be are shown as such, never an error."""
    try:
        encodings = convert_encodings(character_set.split("\\") if character_set else None)
        text = decode_bytes(value, encodings, {0x5C, 0x3D, 0x5E})
    except (LookupError, UnicodeError, ValueError, TypeError):
        text = value.decode("latin-1")
    return text.strip(" \0")
