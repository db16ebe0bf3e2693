"""Reading the header of one DICOM file: only what lies before the pixels, and of that only what is needed."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import BaseTag

from LungSegmentationLib.dicom.headers import TAGS, Header, Pixels, meta_uid
from LungSegmentationLib.dicom.plain_elements import read_plain
from LungSegmentationLib.errors import BadInputError, StorageError, UnsupportedFileError

__all__ = ["DEFLATED", "DICOMDIR", "FileStart", "fetch", "inflate", "meta_end", "quiet_parser", "read_header"]

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
_WANTED: Final[list[BaseTag | int]] = list(TAGS.values())
_WANTED_TAGS: Final = frozenset(map(int, _WANTED))


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


@dataclass(frozen=True, slots=True)
class FileStart:
    """The first bytes of a file, where nearly every header ends, and the size of the whole."""

    path: Path
    prefix: bytes
    size: int


def fetch(path: Path) -> FileStart:
    """Read the first bytes of a file.

    This waits for the disk and nothing else, so it gains from threads; parsing does not and is done in one.

    Raises
    ------
    StorageError
        The file cannot be opened.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            prefix = stream.read(PREFIX)
            size = len(prefix) if len(prefix) < PREFIX else stream.seek(0, 2)
    except OSError as error:
        raise StorageError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
    return FileStart(path, prefix, max(size, len(prefix)))


def read_header(file: Path | FileStart) -> Header:
    """Read what is needed of a file's header; the pixels stay on the disk.

    Parameters
    ----------
    file
        A DICOM file with or without preamble and ending, or its beginning as :func:`fetch` read it.

    Raises
    ------
    UnsupportedFileError
        The file is not DICOM.
    BadInputError
        It is, but is damaged or empty.
    StorageError
        It cannot be opened or read.
    """
    start = fetch(file) if isinstance(file, Path) else file
    path, prefix, size = start.path, start.prefix, start.size
    if not prefix:
        raise BadInputError(f"{path}: the file is empty.")
    if not _looks_like_dicom(prefix):
        raise UnsupportedFileError(f"{path}: this is not a DICOM file.")
    header = _plain(start)
    if header is not None:
        return header
    if len(prefix) == size:
        header = _parse(path, BytesIO(prefix), size, complete=True)
    else:
        if DEFLATED.encode() not in prefix[:1024]:
            header = _parse(path, BytesIO(prefix), size, complete=False)
        if header is None:
            header = _parse_whole(path, size)
    if header is None:
        raise BadInputError(f"{path}: the header cannot be read.", "The file is damaged: export it again.")
    return header


def _plain(start: FileStart) -> Header | None:
    """Read the header of a plain file; None where it is none, or has no pixels in what was fetched."""
    plain = read_plain(start.prefix, wanted=_WANTED_TAGS)
    if plain is None or not plain.elements:
        return None
    source = BytesIO(start.prefix)
    source.seek(plain.end)
    pixels = _pixels(source, not plain.explicit, True, start.size)
    if pixels is None:
        return None
    return Header(start.path, plain.elements, plain.meta, plain.transfer_syntax, True, pixels)


def _parse_whole(path: Path, size: int) -> Header | None:
    try:
        with path.open("rb") as stream:
            source = BytesIO(stream.read()) if size <= WHOLE else stream
            return _parse(path, source, size, complete=True)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(f"{path}: the file cannot be read ({error.strerror or error}).") from error


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
    if not len(dataset) and pixels is None and meta_uid(meta, 0x00020002) != DICOMDIR:
        raise BadInputError(
            f"{path}: the file ends before its header says anything.", "It is incomplete: copy it again."
        )
    syntax = meta_uid(meta, 0x00020010)
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
