"""One slice as the scanner stored it: values before slope and intercept, for showing what the conversion did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from LungSegmentationLib.errors import BadInputError

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
        header = _header(file)
        if header is not None and header.get("SOPInstanceUID") == sop_instance_uid:
            return _read(file, header)
    raise BadInputError(f"{folder} does not hold the slice any more.")


def _header(file: Path) -> pydicom.Dataset | None:
    if not file.is_file():
        return None
    try:
        return pydicom.dcmread(
            file,
            stop_before_pixels=True,
            force=True,
            specific_tags=["SOPInstanceUID", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"],
        )
    except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, NotImplementedError):
        # Other files of the folder are none of our business here.
        return None


def _read(file: Path, header: pydicom.Dataset) -> StoredSlice:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise BadInputError("the CT is one multi-frame file.")
    slope = float(header.get("RescaleSlope", 1) or 1)
    intercept = float(header.get("RescaleIntercept", 0) or 0)
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise BadInputError(f"{file} cannot be decoded.") from error
    values = sitk.GetArrayFromImage(image)[0]
    # The reader applies slope and intercept; what was stored is wanted.
    stored = ((values - intercept) / slope).round().astype("int32")
    return StoredSlice(stored, slope, intercept)
