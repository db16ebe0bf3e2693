"""Small RTSTRUCT datasets, made in code, for the tests of reading and drawing contours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

RT_STRUCTURE_SET_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
FRAME = "1.2.3.4.5"
SERIES = "1.2.3.4.6"


def square(z: float, size: float = 10.0, corner: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return the corners (4, 3) of an axial square."""
    x, y = corner
    return np.array([[x, y, z], [x + size, y, z], [x + size, y + size, z], [x, y + size, z]])


def contour_item(points: np.ndarray, kind: str | None = "CLOSED_PLANAR", images: Sequence[str] = ()) -> Dataset:
    """Return an item of the Contour Sequence."""
    item = Dataset()
    if images:
        item.ContourImageSequence = [image_item(uid) for uid in images]
    if kind is not None:
        item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points)
    item.ContourData = [f"{value:.2f}" for value in np.ravel(points)]
    return item


def image_item(uid: str | None) -> Dataset:
    """Return a reference to an image, without a UID on request."""
    item = Dataset()
    item.ReferencedSOPClassUID = CT_IMAGE_STORAGE
    if uid is not None:
        item.ReferencedSOPInstanceUID = uid
    return item


def structure_set(rois: dict[str, Sequence[Dataset]], numbers: Sequence[int] | None = None) -> Dataset:
    """Return an RTSTRUCT with these ROIs and their contours."""
    numbers = list(range(1, len(rois) + 1)) if numbers is None else numbers
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = RT_STRUCTURE_SET_STORAGE
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["rtstruct"])
    dataset.StudyDate = "20200102"
    dataset.Modality = "RTSTRUCT"
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "P1"
    dataset.StudyInstanceUID = "1.2.3.4.7"
    dataset.SeriesInstanceUID = "1.2.3.4.8"
    dataset.StructureSetLabel = "plan"
    dataset.StructureSetName = "first plan"
    dataset.StructureSetDate = "20200103"
    dataset.StructureSetTime = "101112"
    series = Dataset()
    series.SeriesInstanceUID = SERIES
    series.ContourImageSequence = [image_item(f"1.2.9.{number}") for number in range(3)]
    study = Dataset()
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = FRAME
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, (name, contours) in zip(numbers, rois.items(), strict=True):
        roi = Dataset()
        roi.ROINumber = number
        roi.ReferencedFrameOfReferenceUID = FRAME
        roi.ROIName = name
        dataset.StructureSetROISequence.append(roi)
        drawn = Dataset()
        drawn.ROIDisplayColor = [255, 128, 0]
        drawn.ContourSequence = list(contours)
        drawn.ReferencedROINumber = number
        dataset.ROIContourSequence.append(drawn)
        observation = Dataset()
        observation.ObservationNumber = number
        observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = "ORGAN"
        dataset.RTROIObservationsSequence.append(observation)
    return dataset


def patch(path: Path, placeholder: bytes, value: bytes) -> Path:
    """Put bytes into a file that pydicom would refuse to write, in place of a longer or equally long value."""
    content = path.read_bytes()
    assert content.count(placeholder) == 1
    path.write_bytes(content.replace(placeholder, value.ljust(len(placeholder), b" ")))
    return path


def save(dataset: Dataset, path: Path, *, explicit: bool = True, meta: bool = True) -> Path:
    """Write a dataset, with or without preamble and file meta information."""
    syntax = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    if meta:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path, enforce_file_format=True)
    else:
        dataset.save_as(path, implicit_vr=not explicit, little_endian=True, enforce_file_format=False)
    return path
