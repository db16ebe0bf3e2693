"""CT files made in code, for tests of the readers: every element can be given, changed or left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LEFT_OUT = object()


def slice_dataset(stored: np.ndarray, **elements: Any) -> Dataset:
    """A CT slice that holds an array of stored values (rows, columns); ``LEFT_OUT`` removes an element."""
    signed = stored.dtype.kind == "i"
    dataset = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": "1.2.3.4.1",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19500101",
        "StudyInstanceUID": "1.2.3.1",
        "StudyDate": "20200101",
        "SeriesInstanceUID": "1.2.3.2",
        "SeriesDescription": "chest",
        "FrameOfReferenceUID": "1.2.3.3",
        "SliceThickness": "3",
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [1, 1],
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * stored.dtype.itemsize,
        "BitsStored": 8 * stored.dtype.itemsize,
        "HighBit": 8 * stored.dtype.itemsize - 1,
        "PixelRepresentation": int(signed),
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "RescaleType": "HU",
        **elements,
    }
    for keyword, value in values.items():
        if value is not LEFT_OUT:
            setattr(dataset, keyword, value)
    if "PixelData" not in elements:
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
    return dataset


def write(path: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_slice(path: Path, stored: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Path:
    return write(path, slice_dataset(stored, **elements), syntax)


def write_series(
    folder: Path,
    stored: np.ndarray,
    *,
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (1, 1, 3),
    positions: Sequence[Sequence[float]] | None = None,
    prefix: str = "1.2.3.4",
    **elements: Any,
) -> list[Path]:
    """Write an array (slices, rows, columns), one file a slice.

    Slice k lies at ``origin + k × spacing[2] × (row × column)`` unless ``positions`` says otherwise; the spacing is
    between columns, rows, slices.
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    if positions is None:
        positions = [np.array(origin, float) + k * spacing[2] * normal for k in range(len(stored))]
    return [
        write_slice(
            folder / f"{k:04d}",
            plane,
            **{
                "ImagePositionPatient": [f"{value:.10g}" for value in position],
                "ImageOrientationPatient": [f"{value:.10g}" for value in orientation],
                "PixelSpacing": [spacing[1], spacing[0]],
                "SliceThickness": str(spacing[2]),
                "SOPInstanceUID": f"{prefix}.{k + 1}",
                "InstanceNumber": str(k + 1),
                **elements,
            },
        )
        for k, (plane, position) in enumerate(zip(stored, positions, strict=True))
    ]
