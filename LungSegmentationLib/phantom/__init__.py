"""Synthetic thorax patients: anatomy, CT and contours by seed, in memory and as real DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.phantom.dicom_files import write_dicom
from LungSegmentationLib.phantom.options import Orientation, PatientPosition, PhantomOptions
from LungSegmentationLib.phantom.patient import DEFAULTS, PhantomPatient, PhantomRoi, SliceContour, make_patient
from LungSegmentationLib.storage import write_json

__all__ = [
    "Orientation",
    "PatientPosition",
    "PhantomOptions",
    "PhantomPatient",
    "PhantomRoi",
    "SliceContour",
    "make_patient",
    "make_phantoms",
    "write_patient",
]


def make_phantoms(
    out: Path,
    patients: int,
    seed: int,
    options: PhantomOptions = DEFAULTS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make a number of patients and write them to ``out/dicom/<patient>`` and ``out/truth/<patient>``.

    Parameters
    ----------
    out
        Folder, made if missing; what it already holds of these patients is overwritten.
    patients, seed
        How many, and which.
    options
        See :class:`PhantomOptions`.
    progress
        Called with the number of finished patients and of all, first with 0.

    Returns
    -------
    list of Path
        The DICOM folders, one a patient.

    Raises
    ------
    UsageError
        If ``patients`` is below 1.
    StorageError
        If ``out`` cannot be written.
    """
    if patients < 1:
        raise UsageError(f"{patients} phantoms cannot be made.", "Choose 1 or more.")
    folders = []
    for index in range(patients):
        if progress is not None:
            progress(index, patients)
        folders.append(write_patient(make_patient(seed, index, options), out))
    if progress is not None:
        progress(patients, patients)
    return folders


def write_patient(patient: PhantomPatient, folder: Path) -> Path:
    """Write a patient's DICOM files, and the truth beside them where no scan of the DICOM folder finds it.

    ``folder/dicom/<patient>`` holds CT and RTSTRUCT; ``folder/truth/<patient>`` holds ``structures.nii.gz`` (bit
    field), ``labels.nii.gz`` (painted in the label set's order), both on the CT's grid, and ``truth.json``.

    Returns
    -------
    Path
        The DICOM folder.

    Raises
    ------
    StorageError
        If ``folder`` cannot be written.
    """
    target = folder / "dicom" / patient.patient_id
    write_dicom(patient, target)
    _write_truth(patient, folder / "truth" / patient.patient_id)
    return target


def _write_truth(patient: PhantomPatient, folder: Path) -> None:
    from LungSegmentationLib.volumes import write_volume

    volume, keys = patient.grid.voxel_volume, patient.structures.label_set.keys
    truth = {
        "schema": 1,
        "patient_id": patient.patient_id,
        "seed": patient.seed,
        "index": patient.index,
        "label_set": patient.structures.label_set.name,
        "drawn": list(patient.drawn),
        "roi_names": dict(patient.roi_names),
        "cc": {key: round(np.count_nonzero(patient.structures.mask(key)) * volume, 3) for key in keys},
        "lung_excludes_gtv": patient.lung_excludes_gtv,
        "contrast": patient.contrast,
        "size": list(patient.grid.size),
        "spacing_mm": list(patient.grid.spacing),
        "origin_mm": list(patient.grid.origin),
        "direction": list(patient.grid.direction),
    }
    arrays = {"structures": patient.structures.bits, "labels": patient.structures.label_map()}
    for name, array in arrays.items():
        write_volume(patient.grid.image(array), folder / f"{name}.nii.gz")
    write_json(folder / "truth.json", truth)
