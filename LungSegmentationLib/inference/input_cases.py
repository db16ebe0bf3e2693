"""A CT that waits to be segmented: a DICOM series or a volume file, read when its turn comes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.cohort.selection import volume_key
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.pixels import AIR
from LungSegmentationLib.dicom.series import CTSeries
from LungSegmentationLib.dicom.writers import DicomSource, source_of
from LungSegmentationLib.errors import BadInputError, LungSegError, StorageError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.hounsfield import as_hounsfield
from LungSegmentationLib.volumes import itk_path, read_array

__all__ = ["DicomCase", "InputCase", "LoadedInput", "VolumeCase", "has_bytes"]

# Of so many values in a thousand that no int16 holds, a file is no CT in HU: unsigned numbers that went below zero.
_BEYOND: Final = 1e-3
_BYTE: Final = 1


@dataclass(frozen=True, eq=False)
class LoadedInput:
    """A CT in memory.

    Attributes
    ----------
    ct
        int16, HU, −1024 … 32767, (z, y, x); may be read-only.
    grid
        Its grid; LPS, mm.
    source
        What DICOM results refer to; None if the CT did not come from DICOM, or lacks what is needed.
    no_source
        Why there is none.
    warnings
        What a user should know of the CT, in sentences.
    """

    ct: NDArray[np.int16]
    grid: Grid
    source: DicomSource | None = None
    no_source: LungSegError | None = None
    warnings: tuple[str, ...] = ()

    def without_voxels(self) -> LoadedInput:
        """Return the same without voxels: a CT takes more memory than all that is written of it."""
        return replace(self, ct=np.empty((0, 0, 0), np.int16))


class InputCase(Protocol):
    """A CT that can be segmented; nothing of its voxels is in memory."""

    @property
    def name(self) -> str:
        """Name for files and folders, unique among the cases found together."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is read from."""
        ...

    @property
    def is_dicom(self) -> bool:
        """Whether DICOM results can refer to it."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """What a record says of it, without names of people and places."""
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256 (hexadecimal) that changes where the CT was exchanged."""
        ...

    def load(self) -> LoadedInput:
        """Read it.

        Raises
        ------
        LungSegError
            If it is damaged, forms no regular grid, or holds no HU.
        """
        ...


@dataclass(frozen=True)
class DicomCase:
    """A DICOM CT series."""

    name: str
    series: CTSeries
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the series."""
        return self.series.files

    @property
    def is_dicom(self) -> bool:
        """Always."""
        return True

    @property
    def about(self) -> dict[str, str]:
        """UIDs of study and series."""
        return {
            "kind": "dicom",
            "study_uid": self.series.study_uid,
            "series_uid": self.series.series_uid,
            "frame_of_reference_uid": self.series.frame_of_reference_uid,
        }

    def fingerprint(self) -> str:
        """Return a SHA-256 over UIDs, sizes and times of the files."""
        return _fingerprint([volume_key(self.series), *self.series.sop_instance_uids], self.series.files)

    def load(self) -> LoadedInput:
        """Read the series; a missing slice is interpolated and named, nothing is resampled.

        Raises
        ------
        LungSegError
            As :func:`~LungSegmentationLib.dicom.ct.read_ct`.
        """
        volume = read_ct(self.series)
        source, problem = None, None
        try:
            source = source_of(volume, self.series)
        except LungSegError as error:
            problem = error  # told where a DICOM result is asked for
        warnings = tuple(dict.fromkeys((*self.warnings, *self.series.warnings, *volume.warnings)))
        ct, grid = as_hounsfield(volume)
        return LoadedInput(ct, grid, source, problem, warnings)


@dataclass(frozen=True)
class VolumeCase:
    """A CT in a NIfTI, NRRD or MetaImage file."""

    name: str
    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.file,)

    @property
    def is_dicom(self) -> bool:
        """Never."""
        return False

    @property
    def about(self) -> dict[str, str]:
        """Only its kind: a file's name may be a patient's."""
        return {"kind": "volume"}

    def fingerprint(self) -> str:
        """Return a SHA-256 over size and time of the file."""
        return _fingerprint([], [self.file])

    def load(self) -> LoadedInput:
        """Read the file; numbers are rounded to HU and what is below −1024 is air, as in a DICOM CT.

        Raises
        ------
        BadInputError
            If it is damaged, or its numbers cannot be HU.
        UnsupportedFileError
            If it holds a segmentation, a color picture, or not three dimensions.
        """
        grid, array = read_array(self.file)
        warnings = (*_check_values(array, self.file), *_check_orientation(self.file))
        ct, grid = as_hounsfield((array, grid), str(self.file))
        # What read_ct does with padding, so that a CT is the same from DICOM and from a file.
        ct = np.maximum(ct, np.int16(AIR), out=ct if ct.flags.writeable else None)
        problem = BadInputError(
            "A DICOM result refers to the DICOM series that was segmented, and the input was none.",
            "Segment the DICOM folder, or write nifti or seg.nrrd.",
        )
        return LoadedInput(ct, grid, None, problem, warnings)


def has_bytes(path: Path) -> bool:
    """Whether a volume file holds 8-bit values, as segmentations do; a file that cannot be read does not."""
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(itk_path(path))
        reader.ReadImageInformation()
    except (RuntimeError, UnsupportedFileError):
        return False
    return reader.GetPixelID() in {sitk.sitkUInt8, sitk.sitkInt8}


def _check_values(array: NDArray[Any], path: Path) -> tuple[str, ...]:
    """Refuse what cannot be HU: a network finds something in any picture."""
    if array.dtype.itemsize == _BYTE:
        raise UnsupportedFileError(
            f"{path} holds 8-bit values, as a segmentation or a picture does, and no HU.", "Give the CT in HU."
        )
    if array.dtype.kind not in "iuf" or not array.size:
        return ()  # refused with all of their kind, as numbers that are not finite
    lowest, highest, beyond, uneven = np.inf, -np.inf, 0, 0
    for plane in array:
        low, high = float(plane.min()), float(plane.max())
        if not np.isfinite([low, high]).all():
            return ()
        lowest, highest = min(lowest, low), max(highest, high)
        beyond += int((plane > np.iinfo(np.int16).max).sum()) if plane.dtype != np.int16 else 0
        uneven += bool(plane.dtype.kind == "f" and (plane != np.rint(plane)).any())
    if highest - lowest <= 2:
        raise BadInputError(
            f"{path} holds no HU: all its values lie between {lowest:g} and {highest:g}.",
            "Give the CT before it was normalized or segmented.",
        )
    if beyond > _BEYOND * array.size:
        raise BadInputError(
            f"{path} holds no HU: {beyond} of its values lie above {np.iinfo(np.int16).max}, up to {highest:g}.",
            "If it was saved with unsigned numbers, save it with signed ones.",
        )
    warnings = []
    if beyond:
        warnings.append(f"{beyond} voxel(s) lie above {np.iinfo(np.int16).max} HU and were clipped.")
    if uneven:
        warnings.append(f"{uneven} slice(s) have values finer than 1 HU; they were rounded.")
    return tuple(warnings)


def _check_orientation(path: Path) -> tuple[str, ...]:
    """Tell where a file does not say how the patient lies: right and left may be exchanged then."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(path))
    reader.ReadImageInformation()
    known = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    name = path.name.lower()
    unsaid = name.endswith((".nii", ".nii.gz")) and known.get("qform_code") == "0" and known.get("sform_code") == "0"
    unsaid = unsaid or (name.endswith((".nrrd", ".nhdr")) and "NRRD_space" not in known)
    if not unsaid:
        return ()
    return ("The file does not say how the patient lies in it; right and left, head and feet may be exchanged.",)


def _fingerprint(texts: Sequence[str], files: Sequence[Path]) -> str:
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise StorageError(f"{file}: the file cannot be read ({error.strerror or error}).") from error
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
