"""What the header of a CT file says about its image: format of the pixels, and position and scale of each frame.

Classic CT files hold one frame; Enhanced CT files hold many, each with its own functional groups (PS3.3 C.7.6.16).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from LungSegmentationLib.dicom.headers import Header, Pixels
from LungSegmentationLib.dicom.raw_elements import ElementSet
from LungSegmentationLib.errors import BadInputError, GeometryError, UnsupportedFileError

__all__ = ["CT_CLASSES", "Frame", "ImageInfo", "image_info"]

CT_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
}
# More frames than any CT has; a header that claims more is damaged, and is refused before anything is allocated for it.
MOST_FRAMES: Final = 65_536
MOST_VOXELS: Final = 2**31


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice.

    Attributes
    ----------
    position
        Image Position (Patient): center of the first pixel in LPS, mm; None if the file does not say.
    orientation
        Image Orientation (Patient): unit vectors along a row and along a column, LPS.
    spacing
        Distance between rows, between columns (the order of DICOM's Pixel Spacing) in mm.
    thickness
        Slice Thickness in mm.
    slope, intercept
        HU = slope × stored + intercept; None where the file does not say.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float | None
    intercept: float | None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One file with CT pixels. Names are those of the DICOM attributes."""

    path: Path
    sop_class: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    frame_of_reference_uid: str
    modality: str
    description: str
    study_date: str
    concatenation_uid: str
    image_type: tuple[str, ...]
    rescale_type: str
    transfer_syntax: str
    little_endian: bool
    pixels: Pixels | None
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding: tuple[int, int] | None
    modality_lut: bool
    frames: tuple[Frame, ...]

    @property
    def is_localizer(self) -> bool:
        """Whether this is a planning radiograph (scout, topogram), not a slice."""
        return any("LOCALIZER" in word.upper() or "SCOUT" in word.upper() for word in self.image_type)

    @property
    def is_multiframe(self) -> bool:
        """Whether the file holds its frames in functional groups."""
        return CT_CLASSES.get(self.sop_class, "CT") != "CT" or len(self.frames) > 1


def image_info(header: Header) -> ImageInfo:
    """Read what a CT file says about its image.

    Raises
    ------
    BadInputError
        A value breaks its format or claims what cannot be (a size of zero, more frames than positions).
    UnsupportedFileError
        The file has no image.
    """
    path = header.path
    rows, columns = header.integer("Rows"), header.integer("Columns")
    if rows is None or columns is None:
        raise UnsupportedFileError(f"{path}: there is no image in this file.")
    if rows <= 0 or columns <= 0 or rows > 65_535 or columns > 65_535:
        raise BadInputError(f"{path}: the header claims an image of {columns} × {rows} pixels.", "The file is damaged.")
    allocated = header.integer("BitsAllocated")
    if allocated is None:
        raise BadInputError(
            f"{path}: the header does not say how pixels are stored (Bits Allocated).", "It is damaged."
        )
    stored = header.integer("BitsStored")
    stored = allocated if stored is None else stored
    high = header.integer("HighBit")
    high = stored - 1 if high is None else high
    signed = bool(header.integer("PixelRepresentation") or 0)
    frames = _frames(header)
    if rows * columns * len(frames) > MOST_VOXELS:
        raise BadInputError(
            f"{path}: the header claims {len(frames)} image(s) of {columns} × {rows} pixels, more than a CT has.",
            "The file is damaged: export it again.",
        )
    image_type = header.words("ImageType")
    shared = header.sequence("SharedFunctionalGroupsSequence")
    frame_type = _first(header, "CTImageFrameTypeSequence", *shared)
    if frame_type is not None:
        image_type += header.words("FrameType", frame_type)
    transformation = _first(header, "PixelValueTransformationSequence", *shared)
    samples = header.integer("SamplesPerPixel")
    return ImageInfo(
        path=path,
        sop_class=sys.intern(header.sop_class),
        sop_instance_uid=header.sop_instance,
        series_uid=sys.intern(header.text("SeriesInstanceUID")),
        study_uid=sys.intern(header.text("StudyInstanceUID")),
        patient_id=sys.intern(header.human("PatientID")),
        frame_of_reference_uid=sys.intern(header.text("FrameOfReferenceUID")),
        modality=sys.intern(header.text("Modality")),
        description=sys.intern(header.human("SeriesDescription")),
        study_date=sys.intern(header.text("StudyDate")),
        concatenation_uid=header.text("ConcatenationUID"),
        image_type=tuple(sys.intern(word) for word in dict.fromkeys(image_type)),
        rescale_type=sys.intern(header.text("RescaleType") or header.text("RescaleType", transformation)),
        transfer_syntax=sys.intern(header.transfer_syntax),
        little_endian=header.little_endian,
        pixels=header.pixels,
        rows=rows,
        columns=columns,
        samples=1 if samples is None else samples,
        photometric=sys.intern(header.text("PhotometricInterpretation")),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=signed,
        padding=_padding(header, allocated, signed),
        modality_lut=bool(header.sequence("ModalityLUTSequence")),
        frames=frames,
    )


def _padding(header: Header, allocated: int, signed: bool) -> tuple[int, int] | None:
    first = header.integer("PixelPaddingValue", signed=signed)
    if first is None:
        return None
    limit = header.integer("PixelPaddingRangeLimit", signed=signed)
    limit = first if limit is None else limit
    if allocated <= 16 and not signed:
        # Padding of −2000 in unsigned data is written as its two's complement; both readings mean the same bits.
        first, limit = first & 0xFFFF, limit & 0xFFFF
    return min(first, limit), max(first, limit)


def _frames(header: Header) -> tuple[Frame, ...]:
    claimed = header.number("NumberOfFrames")
    count = 1 if claimed is None else int(claimed)
    if count < 1 or count > MOST_FRAMES or (claimed is not None and claimed != count):
        raise BadInputError(f"{header.path}: the header claims {claimed:g} frames.", "The file is damaged.")
    shared = header.sequence("SharedFunctionalGroupsSequence")[:1]
    each = header.sequence("PerFrameFunctionalGroupsSequence")
    if not each and not shared:
        if count > 1:
            raise GeometryError(
                f"{header.path}: the file holds {count} frames, but no position for each.",
                "Export the series as single CT slices or as Enhanced CT.",
            )
        return (_classic_frame(header),)
    if len(each) != count:
        raise GeometryError(
            f"{header.path}: the file holds {count} frames, but positions for {len(each)}.", "Export the series again."
        )
    return tuple(_enhanced_frame(header, group, *shared) for group in each)


def _classic_frame(header: Header) -> Frame:
    return Frame(
        position=header.numbers("ImagePositionPatient", 3),
        orientation=header.numbers("ImageOrientationPatient", 6),
        spacing=header.numbers("PixelSpacing", 2),
        thickness=_thickness(header, None),
        slope=header.number("RescaleSlope"),
        intercept=header.number("RescaleIntercept"),
    )


def _enhanced_frame(header: Header, *groups: ElementSet) -> Frame:
    position = _first(header, "PlanePositionSequence", *groups)
    orientation = _first(header, "PlaneOrientationSequence", *groups)
    measures = _first(header, "PixelMeasuresSequence", *groups)
    values = _first(header, "PixelValueTransformationSequence", *groups)
    return Frame(
        position=None if position is None else header.numbers("ImagePositionPatient", 3, position),
        orientation=None if orientation is None else header.numbers("ImageOrientationPatient", 6, orientation),
        spacing=None if measures is None else header.numbers("PixelSpacing", 2, measures),
        thickness=None if measures is None else _thickness(header, measures),
        slope=None if values is None else header.number("RescaleSlope", values),
        intercept=None if values is None else header.number("RescaleIntercept", values),
    )


def _first(header: Header, keyword: str, *groups: ElementSet) -> ElementSet | None:
    """Return the macro of the frame, or the shared one."""
    for group in groups:
        items = header.sequence(keyword, group)
        if items:
            return items[0]
    return None


def _thickness(header: Header, dataset: ElementSet | None) -> float | None:
    try:
        value = header.number("SliceThickness", dataset)
    except BadInputError:
        # It is only looked at where a series has a single slice: not a reason to refuse a file.
        return None
    return value if value is not None and value > 0 else None
