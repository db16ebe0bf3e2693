"""The header of one DICOM file, read without its pixels and without trusting it.

Values are taken from the raw bytes of the few elements that are needed: this is several times faster than converting
each to a Python object, and a value that breaks its own format is noticed instead of repaired. What pydicom parses here
is the element structure alone.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from LungSegmentationLib.errors import BadInputError, StorageError, UnsupportedFileError

__all__ = ["DICOMDIR", "Header", "Pixels", "decode_text", "inflate", "meta_end", "quiet_parser", "read_header"]

DICOMDIR: Final = "1.2.840.10008.1.3.10"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
# Enough for the header of nearly every CT slice; the rest of the file is read only where it is not.
PREFIX: Final = 32 * 1024
# A file of this size is taken into memory to be parsed; beyond it the parser works on the disk.
WHOLE: Final = 64 * 1024 * 1024
# A deflated file may claim any size: one that needs more than this holds no CT slice.
INFLATED: Final = 1024 * 1024 * 1024

_PIXEL_TAGS: Final = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}
_LONG_VRS: Final = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN", b"SQ", b"UC", b"UR", b"UT", b"SV", b"UV"}

TAGS: Final = {
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyDate": 0x00080020,
    "Modality": 0x00080060,
    "SeriesDescription": 0x0008103E,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
    "SliceThickness": 0x00180050,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "ConcatenationUID": 0x00209161,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "ModalityLUTSequence": 0x00283000,
    "SharedFunctionalGroupsSequence": 0x52009229,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
    # inside the functional groups
    "FrameType": 0x00089007,
    "CTImageFrameTypeSequence": 0x00189329,
    "PlanePositionSequence": 0x00209113,
    "PlaneOrientationSequence": 0x00209116,
    "PixelMeasuresSequence": 0x00289110,
    "PixelValueTransformationSequence": 0x00289145,
}
_WANTED: Final = list(TAGS.values())


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
        What pydicom parsed: the wanted elements, and the meta information (group 2).
    transfer_syntax
        Transfer Syntax UID; of a file without meta information the one that its bytes look like.
    little_endian
        Byte order of the data set and of uncompressed pixels.
    pixels
        Where the pixel data are; None for a file without.
    """

    path: Path
    dataset: Dataset
    meta: Dataset
    transfer_syntax: str
    little_endian: bool
    pixels: Pixels | None

    def item(self, keyword: str, dataset: Dataset | None = None) -> object:
        """Return the raw value of an element, bytes as stored or already converted; None if absent or empty."""
        element = _element(self.dataset if dataset is None else dataset, TAGS[keyword])
        value = None if element is None else element.value
        return None if value is None or (isinstance(value, (bytes, str)) and not value) else value

    def text(self, keyword: str, dataset: Dataset | None = None) -> str:
        """Return an element of plain ASCII characters, stripped; empty if absent."""
        value = self.item(keyword, dataset)
        if value is None:
            return ""
        if isinstance(value, bytes):
            return value.decode("latin-1").strip(" \0\t\r\n")
        if isinstance(value, (MultiValue, list, tuple)):
            return "\\".join(str(part) for part in value)
        return str(value).strip(" \0")

    def words(self, keyword: str, dataset: Dataset | None = None) -> tuple[str, ...]:
        """Return an element of several plain values; empty if absent."""
        text = self.text(keyword, dataset)
        return tuple(word.strip() for word in text.split("\\")) if text else ()

    def human(self, keyword: str) -> str:
        """Return an element in the file's own character set."""
        value = self.item(keyword)
        if isinstance(value, bytes):
            return decode_text(value, self.text("SpecificCharacterSet"))
        return "" if value is None else str(value)

    def numbers(self, keyword: str, count: int, dataset: Dataset | None = None) -> tuple[float, ...] | None:
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

    def number(self, keyword: str, dataset: Dataset | None = None) -> float | None:
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
        element = _element(self.dataset, TAGS[keyword])
        value = None if element is None else element.value
        if value is None or value == b"":
            return None
        if isinstance(value, int):
            return value
        if not isinstance(value, bytes) or len(value) not in {2, 4}:
            raise BadInputError(f"{self.path}: {keyword} is not one number.", "The file is damaged.")
        little = element.is_little_endian if isinstance(element, RawDataElement) else self.little_endian
        return int.from_bytes(value, "little" if little else "big", signed=signed)

    def sequence(self, keyword: str, dataset: Dataset | None = None) -> list[Dataset]:
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
        try:
            value = holder[tag].value
        except Exception as error:  # a broken sequence may make the parser raise anything; nothing is documented
            raise BadInputError(f"{self.path}: {keyword} cannot be read.", "The file is damaged.") from error
        if isinstance(value, Sequence):
            return list(value)
        if value:
            raise BadInputError(f"{self.path}: {keyword} is no sequence.", "The file is damaged.")
        return []

    @property
    def sop_class(self) -> str:
        """SOP Class UID, from the meta information where the data set leaves it empty."""
        return self.text("SOPClassUID") or _meta_uid(self.meta, 0x00020002)

    @property
    def sop_instance(self) -> str:
        """SOP Instance UID, from the meta information where the data set leaves it empty."""
        return self.text("SOPInstanceUID") or _meta_uid(self.meta, 0x00020003)


def _not_numbers(path: Path, keyword: str, count: int, words: tuple[str, ...]) -> str:
    shown = "\\".join(words)[:80]
    return f"{path}: {keyword} should hold {count} finite number(s), but is “{shown}”."


def _element(dataset: Dataset, tag: int) -> RawDataElement | DataElement | None:
    # Kept as it is: asking for an empty element otherwise converts it, and fails on one of an unknown kind.
    return dataset.get_item(tag, keep_deferred=True) if tag in dataset else None


def _meta_uid(meta: Dataset, tag: int) -> str:
    element = _element(meta, tag)
    value = None if element is None else element.value
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


@contextmanager
def quiet_parser() -> Iterator[None]:
    """Keep pydicom's remarks on odd values from the user: what matters of them is checked and reported here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pydicom\..*")
        yield


def inflate(data: bytes, path: Path) -> bytes:
    """Inflate the data set of a deflated file, of bounded size.

    Raises
    ------
    BadInputError
        The stream is damaged or grows beyond what a CT file can be.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        result = stream.decompress(data, INFLATED)
    except zlib.error as error:
        raise BadInputError(f"{path}: the deflated data are damaged ({error}).", "Export the file again.") from error
    if stream.unconsumed_tail:
        raise BadInputError(f"{path}: the deflated data grow beyond {INFLATED >> 20} MB.", "Export the file again.")
    return result


def meta_end(path: Path) -> int:
    """Return where the data set of a deflated file begins: after its meta information."""
    meta = read_file_meta_info(path)
    return 132 + 12 + int(meta.FileMetaInformationGroupLength)


def read_header(path: Path) -> Header:
    """Read what is needed of a file's header; the pixels stay on the disk.

    Parameters
    ----------
    path
        A DICOM file with or without preamble and ending.

    Raises
    ------
    UnsupportedFileError
        The file is not DICOM.
    BadInputError
        It is, but is damaged or empty.
    StorageError
        It cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            prefix = stream.read(PREFIX)
            size = stream.seek(0, 2)
            if not prefix:
                raise BadInputError(f"{path}: the file is empty.")
            if not _looks_like_dicom(prefix):
                raise UnsupportedFileError(f"{path}: this is not a DICOM file.")
            if len(prefix) < size and DEFLATED.encode() not in prefix[:1024]:
                header = _parse(path, BytesIO(prefix), size, complete=False)
                if header is not None:
                    return header
            stream.seek(0)
            source = BytesIO(stream.read()) if size <= WHOLE else stream
            header = _parse(path, source, size, complete=True)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
    if header is None:
        raise BadInputError(f"{path}: the header cannot be read.", "The file is damaged: export it again.")
    return header


def _looks_like_dicom(prefix: bytes) -> bool:
    if prefix[128:132] == b"DICM":
        return True
    if len(prefix) < 16:
        return False
    # Without a preamble the data set begins at once, with group 2 or 8 in either byte order.
    return struct.unpack_from("<H", prefix)[0] in {0x0002, 0x0008} or struct.unpack_from(">H", prefix)[0] == 0x0008


def _parse(path: Path, source: BytesIO, size: int, *, complete: bool) -> Header | None:
    """Parse what lies before the pixels; None if ``source`` is only a part of the file and ends too early."""
    try:
        if complete and size <= WHOLE and DEFLATED.encode() in source.getbuffer()[:1024].tobytes():
            meta = read_file_meta_info(path)
            if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
                body = inflate(source.getvalue()[meta_end(path) :], path)
                source, size = BytesIO(body), len(body)
                dataset = read_dataset(source, False, True, stop_when=_at_pixels, specific_tags=_WANTED)
                return Header(path, dataset, meta, DEFLATED, True, _pixels(source, False, True, size))
        dataset = dcmread(source, stop_before_pixels=True, specific_tags=_WANTED, force=True)
    except BadInputError:
        raise
    except Exception as error:  # a broken file may make the parser raise anything; nothing is documented
        if not complete:
            return None
        raise BadInputError(
            f"{path}: the header cannot be read ({type(error).__name__}: {str(error)[:120]}).",
            "The file is damaged: export it again.",
        ) from error
    implicit, little = dataset.original_encoding
    implicit, little = bool(implicit), little is not False
    pixels = _pixels(source, implicit, little, size)
    if pixels is None and not complete:
        return None
    meta = dataset.file_meta
    if not len(dataset) and not len(meta) and pixels is None:
        raise UnsupportedFileError(f"{path}: this is not a DICOM file.")
    if not len(dataset) and pixels is None and _meta_uid(meta, 0x00020002) != DICOMDIR:
        raise BadInputError(
            f"{path}: the file ends before its header says anything.", "It is incomplete: copy it again."
        )
    syntax = _meta_uid(meta, 0x00020010)
    if not syntax:
        syntax = "1.2.840.10008.1.2" if implicit else ("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
    return Header(path, dataset, meta, syntax, little, pixels)


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001 — the parser's callback signature
    return (int(tag) >> 16, int(tag) & 0xFFFF) in _PIXEL_TAGS


def _pixels(source: BytesIO, implicit: bool, little: bool, size: int) -> Pixels | None:
    """Look at the element where the parser stopped."""
    order = "<" if little else ">"
    start = source.tell()
    head = source.read(12)
    if len(head) < 8:
        return None
    tag = struct.unpack(order + "HH", head[:4])
    if tag not in _PIXEL_TAGS:
        return None
    if implicit:
        length, begin = struct.unpack(order + "I", head[4:8])[0], start + 8
    elif head[4:6] in _LONG_VRS and len(head) == 12:
        length, begin = struct.unpack(order + "I", head[8:12])[0], start + 12
    else:
        length, begin = struct.unpack(order + "H", head[6:8])[0], start + 8
    undefined = length == 0xFFFFFFFF
    return Pixels((tag[0], tag[1]), begin, None if undefined else length, max(size - begin, 0))
