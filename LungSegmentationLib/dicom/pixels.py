"""Stored pixel values of a CT file, and HU made of them.

Uncompressed pixels are read straight from their place in the file; compressed ones are decoded by GDCM (SimpleITK),
which knows all of DICOM's transfer syntaxes, from a temporary file that holds nothing but the pixels: so the header's
defects and the patient's name stay out of it, and the values that come back are the stored ones. Run lengths (RLE) are
decoded by pydicom, which reads more of them.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from LungSegmentationLib.dicom.header_reader import DEFLATED, inflate, meta_end
from LungSegmentationLib.dicom.images import Frame, ImageInfo
from LungSegmentationLib.errors import BadInputError, StorageError, UnsupportedFileError

__all__ = ["AIR", "ScaleNotes", "check_pixels", "stored_frames", "to_hu"]

AIR: Final = -1024
HIGHEST: Final = 32767

_NATIVE: Final = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    DEFLATED,
}
_RLE: Final = "1.2.840.10008.1.2.5"
# A compressed slice has no length to check its claims against; no CT detector has more pixels.
_MOST_COMPRESSED: Final = 4096 * 4096
_MOST_TILES: Final = 4096
_MULTIFRAME_WORD: Final = "1.2.840.10008.5.1.4.1.1.7.3"
_MULTIFRAME_BYTE: Final = "1.2.840.10008.5.1.4.1.1.7.2"

Stored = NDArray[np.integer]


@dataclass(slots=True)
class ScaleNotes:
    """What happened on the way to HU, summed over slices; each becomes one warning."""

    no_slope: int = 0
    no_intercept: int = 0
    too_high: int = 0
    beyond_bits: int = 0
    fine_slope: int = 0
    padding_in_tissue: str = ""


def check_pixels(info: ImageInfo) -> None:
    """Check that the claims of a header fit its pixel data, before anything is allocated.

    Raises
    ------
    UnsupportedFileError
        The pixels are of a kind that CT does not use (color, floating point, a lookup table).
    BadInputError
        The pixel data are missing or shorter than the header claims, or the claims contradict one another.
    """
    path, pixels = info.path, info.pixels
    if pixels is None:
        raise BadInputError(
            f"{path}: the file ends before its pixel data.", "It is incomplete: copy or export it again."
        )
    if pixels.tag != (0x7FE0, 0x0010):
        raise UnsupportedFileError(f"{path}: the pixels are floating point numbers, no CT slice stores them so.")
    if info.samples != 1 or (info.photometric and not info.photometric.startswith("MONOCHROME")):
        raise UnsupportedFileError(
            f"{path}: the image is in color ({info.photometric}, {info.samples} sample(s) per pixel).", "Leave it out."
        )
    if info.modality_lut:
        raise UnsupportedFileError(f"{path}: HU are given by a lookup table, not by slope and intercept.")
    if info.bits_allocated not in {8, 16, 32}:
        raise UnsupportedFileError(f"{path}: pixels of {info.bits_allocated} bits are not read.")
    if (
        not 1 <= info.bits_stored <= info.bits_allocated
        or not info.bits_stored - 1 <= info.high_bit < info.bits_allocated
    ):
        raise BadInputError(
            f"{path}: the header claims {info.bits_stored} bits up to bit {info.high_bit} of {info.bits_allocated}.",
            "The file is damaged.",
        )
    for frame in info.frames:
        slope = frame.slope
        if (slope is not None and slope <= 0) or abs(slope or 1) > 1e4 or abs(frame.intercept or 0) > 1e6:
            raise BadInputError(
                f"{path}: HU = {slope} × stored + {frame.intercept} cannot be meant.", "The header is damaged."
            )
    expected = info.rows * info.columns * len(info.frames) * (info.bits_allocated // 8)
    if info.transfer_syntax in _NATIVE:
        there = pixels.available if pixels.length is None else min(pixels.length, pixels.available)
        if pixels.length is None or there < expected:
            raise BadInputError(
                f"{path}: the header claims {len(info.frames)} image(s) of {info.columns} × {info.rows} pixels "
                f"({expected} bytes), but there are {there} bytes of pixel data.",
                "The file is incomplete or damaged: copy or export it again.",
            )
        if pixels.length > expected + max(16, expected // 100):
            raise BadInputError(
                f"{path}: there are {pixels.length} bytes of pixel data, but {len(info.frames)} image(s) of "
                f"{info.columns} × {info.rows} pixels have {expected}.",
                "The header is damaged: export the file again.",
            )
    elif not _is_compressed(info.transfer_syntax):
        raise UnsupportedFileError(f"{path}: the transfer syntax “{info.transfer_syntax[:64]}” is not known.")
    elif info.rows * info.columns > _MOST_COMPRESSED:
        raise BadInputError(
            f"{path}: the header claims a compressed image of {info.columns} × {info.rows} pixels.", "It is damaged."
        )


def _is_compressed(syntax: str) -> bool:
    uid = UID(syntax)
    return not uid.is_private and uid.is_transfer_syntax and uid.is_encapsulated


def stored_frames(info: ImageInfo) -> Iterator[Stored]:
    """Yield the stored values of each frame, (rows, columns); unsigned or signed as the header says.

    Raises
    ------
    BadInputError, StorageError
        The pixels cannot be decoded, or the file cannot be read.
    """
    if info.transfer_syntax not in _NATIVE:
        yield from _decoded(info)
        return
    assert info.pixels is not None
    order = "<" if info.little_endian else ">"
    dtype = np.dtype(f"{order}{'i' if info.signed else 'u'}{info.bits_allocated // 8}")
    count = info.rows * info.columns
    try:
        if info.transfer_syntax == DEFLATED:
            body = inflate(info.path.read_bytes()[meta_end(info.path) :], info.path)
            flat = np.frombuffer(body, dtype, count * len(info.frames), info.pixels.offset)
            yield from flat.reshape(-1, info.rows, info.columns)
            return
        with info.path.open("rb", buffering=0) as stream:
            stream.seek(info.pixels.offset)
            for _ in info.frames:
                values = np.fromfile(stream, dtype, count)
                if len(values) != count:
                    raise BadInputError(f"{info.path}: the file became shorter while it was read.", "Copy it again.")
                yield values.reshape(info.rows, info.columns)
    except OSError as error:
        raise StorageError(f"{info.path}: the file cannot be read ({error.strerror or error}).") from error


def _decoded(info: ImageInfo) -> Iterator[Stored]:
    path = info.path
    try:
        source = dcmread(BytesIO(path.read_bytes()), force=True, specific_tags=["PixelData"])
        data = source.PixelData
        if not isinstance(data, bytes) or not _check_streams(info, data):
            raise BadInputError(f"{path}: there are no compressed pixels in this file.", "Export it again.")
    except BadInputError:
        raise
    except Exception as error:  # a broken file may make the parser raise anything; nothing is documented
        raise BadInputError(
            f"{path}: the compressed pixels cannot be read ({type(error).__name__}: {str(error)[:120]}).",
            "The file is incomplete or damaged: export it again.",
        ) from error
    values = _decoded_by_pydicom(info, data) if info.transfer_syntax == _RLE else _decoded_by_gdcm(info, data)
    shape = (len(info.frames), info.rows, info.columns)
    values = values.reshape(-1, *values.shape[-2:]) if values.ndim >= 2 else values
    if values.shape != shape or values.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: the compressed pixels are {values.shape}, the header claims {shape}.", "The file is damaged."
        )
    yield from values


def _undecodable(info: ImageInfo) -> BadInputError:
    name = UID(info.transfer_syntax).name
    return BadInputError(
        f"{info.path}: the pixels ({name}) cannot be decoded.",
        "The file is damaged, or is compressed in an unknown way.",
    )


def _decoded_by_gdcm(info: ImageInfo, data: bytes) -> Stored:
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(prefix="lungseg-") as folder:
        copy = Path(folder) / "pixels.dcm"
        dcmwrite(copy, _pixels_only(info, data), enforce_file_format=True)
        try:
            values: Stored = sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
        except RuntimeError as error:
            raise _undecodable(info) from error
    return values


def _decoded_by_pydicom(info: ImageInfo, data: bytes) -> Stored:
    """Decode run lengths; GDCM refuses segments with the padding that images of odd size need."""
    try:
        values: Stored = pixel_array(_pixels_only(info, data), raw=True, decoding_plugin="pydicom")
    except Exception as error:  # damaged runs may make the decoder raise anything; nothing is documented
        raise _undecodable(info) from error
    return values


def _pixels_only(info: ImageInfo, data: bytes) -> Dataset:
    result = Dataset()
    result.file_meta = FileMetaDataset()
    kind = _MULTIFRAME_BYTE if info.bits_allocated == 8 else _MULTIFRAME_WORD
    result.file_meta.TransferSyntaxUID = UID(info.transfer_syntax)
    result.SOPClassUID = kind
    result.SOPInstanceUID = "2.25.1"
    result.Modality = "OT"
    result.Rows, result.Columns, result.NumberOfFrames = info.rows, info.columns, len(info.frames)
    result.SamplesPerPixel, result.PhotometricInterpretation = 1, "MONOCHROME2"
    result.BitsAllocated, result.BitsStored, result.HighBit = info.bits_allocated, info.bits_stored, info.high_bit
    result.PixelRepresentation = int(info.signed)
    element = DataElement(0x7FE00010, "OB", data)
    element.is_undefined_length = True
    result.add(element)
    return result


def _check_streams(info: ImageInfo, data: bytes) -> bool:
    """Compare the claims of each compressed frame with the file's, before a decoder believes and allocates them.

    Returns
    -------
    bool
        Whether there is any fragment at all.
    """
    found = False
    fragments = generate_fragments(data)
    next(fragments, b"")  # the table of offsets, often empty
    for fragment in fragments:
        first, found = not found, True
        claim = _claim(fragment[:65_536])
        if claim is None:
            if first and info.transfer_syntax != _RLE:
                raise BadInputError(f"{info.path}: the compressed image begins with no size.", "The file is damaged.")
            continue  # the continuation of a frame, or run lengths, which claim nothing
        if (claim.rows, claim.columns) != (info.rows, info.columns):
            raise BadInputError(
                f"{info.path}: the compressed image is {claim.columns} × {claim.rows} pixels, the header claims "
                f"{info.columns} × {info.rows}.",
                "The file is damaged.",
            )
        if claim.components != 1 or not 1 <= claim.tiles <= _MOST_TILES:
            raise BadInputError(
                f"{info.path}: the compressed image claims {claim.components} color(s) and {claim.tiles} tile(s).",
                "The file is damaged.",
            )
    return found


@dataclass(frozen=True, slots=True)
class _Claim:
    rows: int
    columns: int
    components: int
    tiles: int


def _claim(head: bytes) -> _Claim | None:
    """Return what the header of a JPEG, JPEG-LS or JPEG 2000 stream claims; None where it is not seen.

    Markers as in ITU-T T.81 B.2.2 (SOF), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
    """
    if head[:4] == b"\xff\x4f\xff\x51" and len(head) >= 42:
        right, bottom, left, top, width, height, first, upper, components = struct.unpack_from(">8IH", head, 8)
        across = -(-(right - first) // width) if width else 0
        down = -(-(bottom - upper) // height) if height else 0
        return _Claim(bottom - top, right - left, components, across * down)
    position = 2
    while head[:3] == b"\xff\xd8\xff" and position + 10 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}) or marker == 0xF7:
            rows, columns, components = struct.unpack_from(">HHB", head, position + 5)
            return _Claim(rows, columns, components, 1)
        position += 2 + int(struct.unpack_from(">H", head, position + 2)[0])
    return None


def to_hu(stored: Stored, info: ImageInfo, frame: Frame, out: NDArray[np.int16], notes: ScaleNotes) -> None:
    """Write the HU of one frame, clipped to −1024 … 32767, into ``out`` (rows, columns).

    HU = slope × stored + intercept (PS3.3 C.11.1.1.2), whatever the photometric interpretation: MONOCHROME1 says how
    gray is shown, after this. Padding (PS3.3 C.7.5.1.1.2) becomes −1024.
    """
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    notes.no_slope += frame.slope is None
    notes.no_intercept += frame.intercept is None
    padded = _padded(stored, info, slope, intercept, notes)
    if info.bits_stored < info.bits_allocated:
        stored = _cut_to_bits(stored, info, padded, notes)
    if slope == 1 and intercept == int(intercept) and stored.dtype.itemsize <= 2 and abs(intercept) < 2**30:
        values = stored.astype(np.int32)
        values += int(intercept)
    else:
        notes.fine_slope += slope < 0.5
        values = np.rint(stored * slope + intercept)
    if padded is not None:
        values[padded] = AIR
    highest = values.max()
    if highest > HIGHEST:
        notes.too_high += int(np.count_nonzero(values > HIGHEST))
    np.clip(values, AIR, HIGHEST, out=values)
    out[...] = values


def _padded(
    stored: Stored, info: ImageInfo, slope: float, intercept: float, notes: ScaleNotes
) -> NDArray[np.bool_] | None:
    """Return where a frame is padded; None where the clip of low values does the same or where padding is ambiguous."""
    if info.padding is None:
        return None
    low, high = info.padding
    limits = np.iinfo(stored.dtype)
    low, high = max(low, limits.min), min(high, limits.max)
    if low > high:
        return None
    lowest, highest = low * slope + intercept, high * slope + intercept
    if highest <= AIR and info.bits_stored == info.bits_allocated:
        return None
    padded: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    if not padded.any():
        return None
    if highest > -1000 and lowest < 3072:
        # The same value is found in tissue: taking it out would punch holes into the patient.
        notes.padding_in_tissue = f"{lowest:g}" if low == high else f"{lowest:g} to {highest:g}"
        return None
    return padded


def _cut_to_bits(stored: Stored, info: ImageInfo, padded: NDArray[np.bool_] | None, notes: ScaleNotes) -> Stored:
    """Keep the bits that hold the value (PS3.5 8.1.1); the rest may hold anything, once overlays."""
    above = info.bits_allocated - 1 - info.high_bit
    # Shifted to the top and back, the sign bit of a signed value is extended by the machine.
    cut = np.right_shift(np.left_shift(stored, above), info.bits_allocated - info.bits_stored).astype(stored.dtype)
    if info.high_bit == info.bits_stored - 1:
        differs = cut != stored
        if padded is not None:
            differs &= ~padded
        notes.beyond_bits += int(np.count_nonzero(differs))
    return cut
