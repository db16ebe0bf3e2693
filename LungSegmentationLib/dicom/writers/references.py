"""The CT series that a DICOM result belongs to: patient, study, and the image of each slice."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DA, TM

from LungSegmentationLib.dicom.header_reader import fetch, quiet_parser, read_header
from LungSegmentationLib.dicom.images import image_info
from LungSegmentationLib.errors import BadInputError, GeometryError, StorageError
from LungSegmentationLib.geometry import Grid

if TYPE_CHECKING:
    from LungSegmentationLib.dicom.ct import CTVolume
    from LungSegmentationLib.dicom.scan import CTSeries

__all__ = ["DicomSource", "ImageReference", "source_of"]

# Type 2 attributes have to be there, if empty; type 3 ones only with a value.
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
_OPTIONAL = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("LongitudinalTemporalInformationModified", "PositionReferenceIndicator"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
_SEXES = {"M", "F", "O"}


@dataclass(frozen=True)
class ImageReference:
    """One image: SOP class and instance, and the frame (from 1) where the instance holds several."""

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class DicomSource:
    """A CT series as a result refers to it; nothing of it is needed on the disk any more.

    Attributes
    ----------
    grid
        Of the volume; LPS, mm.
    study_uid, series_uid, frame_of_reference_uid
        As in the files.
    images
        One a slice; None where a slice was interpolated, so that no image exists.
    header
        Patient and study attributes (PS3.3 C.7.1.1, C.7.2.1), decoded.
    character_set
        Specific Character Set of the files; empty for the default one.
    """

    grid: Grid
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    images: tuple[ImageReference | None, ...]
    header: Dataset
    character_set: tuple[str, ...]

    def distinct_images(self) -> list[ImageReference]:
        """Return each instance once, without frames, in the order of the slices."""
        found = {
            image.sop_instance_uid: ImageReference(image.sop_class_uid, image.sop_instance_uid)
            for image in self.images
            if image is not None
        }
        return list(found.values())

    def texts(self) -> list[str]:
        """Return all values of ``header`` as text."""
        return [str(element.value) for element in self.header]


def source_of(ct: CTVolume, files: CTSeries | Sequence[Path] = ()) -> DicomSource:
    """Gather what a DICOM result has to say about its CT.

    Parameters
    ----------
    ct
        The volume that was segmented.
    files
        The files that it was read from. From the first one come patient and study (name, birth date, character set
        …). Without files these stay empty, except for the patient's id, and the images are taken for CT Image Storage.

    Raises
    ------
    GeometryError
        If the series has no frame of reference: nothing could be placed on it.
    BadInputError
        If a UID is missing, or the series is multi-frame and its files were not given.
    StorageError
        If a file cannot be read any more.
    """
    if not ct.frame_of_reference_uid:
        raise GeometryError(
            f"The CT series {ct.series_uid} has no frame of reference, so DICOM contours or segments cannot be tied "
            "to it.",
            "Write .nii.gz or .seg.nrrd instead.",
        )
    if not ct.series_uid or not ct.study_uid or "" in ct.sop_instance_uids:
        raise BadInputError(
            "The CT series lacks UIDs of its study, series or images, so a DICOM result cannot refer to it.",
            "Write .nii.gz or .seg.nrrd instead.",
        )
    paths = [Path(path) for path in (files if isinstance(files, Sequence) else files.files)]
    with quiet_parser():
        header, character_set = _header(ct, paths[0] if paths else None)
        images = _images(ct, paths)
    return DicomSource(ct.grid, ct.study_uid, ct.series_uid, ct.frame_of_reference_uid, images, header, character_set)


def _images(ct: CTVolume, paths: Sequence[Path]) -> tuple[ImageReference | None, ...]:
    uids = ct.sop_instance_uids
    given = [uid for uid in uids if uid is not None]
    if len(set(given)) == len(given) and (len(given) > 1 or len(paths) <= 1):
        sop_class = read_header(fetch(paths[0])).sop_class if paths else ""
        sop_class = sop_class or str(CTImageStorage)
        return tuple(None if uid is None else ImageReference(sop_class, uid) for uid in uids)
    if not paths:
        raise BadInputError(
            "The CT series is a multi-frame file, and which frame is which slice is not known.",
            "Give the files that it was read from.",
        )
    images: list[ImageReference | None] = [None] * len(uids)
    for path in paths:
        info = image_info(read_header(fetch(path)))
        for number, frame in enumerate(info.frames, 1):
            if frame.position is None:
                continue  # such a frame cannot have become a slice
            index = round(float(ct.grid.to_index([frame.position])[0, 2]))
            if 0 <= index < len(uids) and uids[index] == info.sop_instance_uid:
                images[index] = ImageReference(
                    info.sop_class, info.sop_instance_uid, number if info.is_multiframe else None
                )
    lost = sum(image is None and uid is not None for image, uid in zip(images, uids, strict=True))
    if lost:
        raise BadInputError(f"The files do not hold the images of {lost} slices of the CT.", "Give all of its files.")
    return tuple(images)


def _header(ct: CTVolume, path: Path | None) -> tuple[Dataset, tuple[str, ...]]:
    """Return patient and study as the files have them, without values that break their own format."""
    found = Dataset() if path is None else _read(path)
    header = Dataset()
    for keyword in (*_PATIENT, *_STUDY, *_OPTIONAL):
        value = _clean(found, keyword)
        if value or keyword not in _OPTIONAL:
            setattr(header, keyword, value)
    if path is None:
        header.PatientID = ct.patient_id
    if "DeidentificationMethod" not in header and "DeidentificationMethodCodeSequence" not in header:
        # Allowed only together (PS3.3 C.7.1.1).
        header.pop("PatientIdentityRemoved", None)
    if header.PatientSex not in _SEXES:
        header.PatientSex = ""
    names = found.get("SpecificCharacterSet") or []
    return header, tuple(str(name) for name in ([names] if isinstance(names, str) else names))


def _read(path: Path) -> Dataset:
    wanted = [*_PATIENT, *_STUDY, *_OPTIONAL, "SpecificCharacterSet"]
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=wanted, force=True)
    except OSError as error:
        raise StorageError(f"{path}: the file cannot be read ({error.strerror or error}).") from error


def _clean(found: Dataset, keyword: str) -> str | list[str] | Sequence[Dataset]:
    kind = dictionary_VR(keyword)
    try:
        value = found.get(keyword)
        if kind == "SQ":
            return [deepcopy(item) for item in value or []]
        if isinstance(value, MultiValue):
            return [str(one) for one in value]
        text = "" if value is None else str(value).strip("\0 ")
        if kind == "DA" and text:
            DA(text)
        if kind == "TM" and text:
            TM(text)
        if kind == "DS" and text:
            float(text)
    except (ValueError, TypeError, LookupError):
        # The image is older than the rule that it breaks; the result must not break it again.
        return ""
    return text
