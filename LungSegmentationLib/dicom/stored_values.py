"""One slice as the scanner stored it: values before slope and intercept, for showing what the conversion did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from LungSegmentationLib.dicom.header_reader import read_header
from LungSegmentationLib.dicom.images import ImageInfo, image_info
from LungSegmentationLib.dicom.pixels import check_pixels, stored_frames
from LungSegmentationLib.errors import BadInputError, LungSegError

__all__ = ["StoredSlice", "stored_slice"]


@dataclass(frozen=True)
class StoredSlice:
    """Stored values (rows, columns), and ``HU = slope × value + intercept``."""

    values: NDArray[Any]
    slope: float
    intercept: float


def stored_slice(folder: Path, sop_instance_uid: str) -> StoredSlice:
    """Return the slice with this SOP Instance UID from a folder.

    Raises
    ------
    BadInputError
        If the folder or the slice is not there any more, or it is one frame of a multi-frame file.
    """
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not there any more.")
    for file in sorted(folder.iterdir()):
        info = _info(file)
        if info is None or info.sop_instance_uid != sop_instance_uid:
            continue
        if len(info.frames) > 1:
            raise BadInputError("the CT is one multi-frame file.")
        check_pixels(info)
        frame = info.frames[0]
        values = next(iter(stored_frames(info)))
        slope = 1.0 if frame.slope is None else frame.slope
        return StoredSlice(values, slope, 0.0 if frame.intercept is None else frame.intercept)
    raise BadInputError(f"{folder} does not hold the slice any more.")


def _info(file: Path) -> ImageInfo | None:
    if not file.is_file():
        return None
    try:
        return image_info(read_header(file))
    except LungSegError:
        # Other files of the folder are none of our business here.
        return None
