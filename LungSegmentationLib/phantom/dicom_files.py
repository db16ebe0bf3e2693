"""Synthetic patients as DICOM files: CT Image Storage, one file a slice, and one RT Structure Set.

Attributes follow DICOM PS3.3 A.3 (CT Image IOD) and A.19 (RT Structure Set IOD).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage

from LungSegmentationLib.phantom.patient import PhantomPatient, PhantomRoi, SliceContour
from LungSegmentationLib.phantom.scanner import field_of_view
from LungSegmentationLib.storage import storage_errors

__all__ = ["DicomStyle", "draw_style", "phantom_uid", "write_dicom"]

IMPLEMENTATION = UID("2.25.316290412973842047551269438612350481")
CONTOUR_DATA = Tag(0x3006, 0x0050)
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
LONGEST_EXPLICIT = 0xFFFE
PADDING = -2000


@dataclass(frozen=True)
class DicomStyle:
    """How one patient's files are written; all of it is seen in clinics.

    Attributes
    ----------
    slope, intercept, signed
        Rescale of the stored values, and whether they are signed.
    padded
        Outside a round field of view lies the Pixel Padding Value −2000.
    file_names
        ``series`` (1-001.dcm), ``uid`` (CT.<uid>.dcm), ``bare`` (IM000001 without ending) or ``hash``.
    subfolders
        Series lie in folders of their own.
    charset
        Specific Character Set.
    manufacturer, model, planning
        Names of the scanner and of the planning system.
    implicit
        The RTSTRUCT has no explicit value representations.
    """

    slope: float
    intercept: float
    signed: bool
    padded: bool
    file_names: str
    subfolders: bool
    charset: str
    manufacturer: str
    model: str
    planning: str
    implicit: bool


def phantom_uid(patient: PhantomPatient, *parts: object) -> UID:
    """Return a UID (PS3.5 B.2) that depends on the patient's seed, index and options and on ``parts`` only."""
    text = "|".join(str(part) for part in (patient.seed, patient.index, patient.options, *parts))
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}")


def draw_style(patient: PhantomPatient) -> DicomStyle:
    """Choose how a patient's files are written, by seed and index."""
    rng = np.random.default_rng([patient.seed, patient.index, 6])
    slope, intercept, signed = ((1.0, -1024.0, False), (1.0, -1024.0, True), (1.0, 0.0, True), (0.5, -1024.0, False))[
        int(rng.choice(4, p=[0.35, 0.2, 0.35, 0.1]))
    ]
    names = " ".join(roi.plan.name for roi in patient.rois)
    latin = all(ord(letter) < 256 for letter in names)
    manufacturer, model = (
        ("SIEMENS", "Sensation Open"),
        ("GE MEDICAL SYSTEMS", "LightSpeed RT"),
        ("Philips", "Brilliance"),
    )[int(rng.integers(3))]
    return DicomStyle(
        slope=slope,
        intercept=intercept,
        signed=signed,
        padded=patient.scan.round_view and signed,
        file_names=("series", "uid", "bare", "hash")[int(rng.integers(4))],
        subfolders=bool(rng.random() < 0.4),
        charset="ISO_IR 100" if latin and rng.random() < 0.5 else "ISO_IR 192",
        manufacturer=manufacturer,
        model=model,
        planning=("Pinnacle3", "Eclipse", "XiO", "RayStation")[int(rng.integers(4))],
        implicit=bool(rng.random() < 0.5),
    )


def write_dicom(patient: PhantomPatient, folder: Path) -> None:
    """Write the CT and the RTSTRUCT of a patient below ``folder``, which is made.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    style = draw_style(patient)
    places = [folder / name if style.subfolders else folder for name in ("CT", "RTSTRUCT")]
    order = np.random.default_rng([patient.seed, patient.index, 7]).permutation(patient.grid.size[2])
    with storage_errors(folder):
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        image = _image_template(patient, style)
        outside = field_of_view(patient.grid) if style.padded else None
        for position, number in enumerate(order):
            _fill_image(image, patient, style, int(number), outside)
            name = _file_name(style, "CT", position + 1, image.SOPInstanceUID)
            _save(image, places[0] / name)
        structure_set = _structure_set(patient, style)
        name = _file_name(style, "RS", 0, structure_set.SOPInstanceUID)
        _save(structure_set, places[1] / name)


def _save(dataset: FileDataset, path: Path) -> None:
    """Write a file; on a full disk no part of it stays."""
    try:
        dataset.save_as(path, enforce_file_format=True)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _file_name(style: DicomStyle, kind: str, number: int, uid: str) -> str:
    if style.file_names == "series":
        return f"1-{number:03d}.dcm" if kind == "CT" else "2-1.dcm"
    if style.file_names == "uid":
        return f"{kind}.{uid}.dcm"
    if style.file_names == "bare":
        return f"IM{number:06d}" if kind == "CT" else "RS000001"
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def _common(patient: PhantomPatient, style: DicomStyle, sop_class: UID, *, implicit: bool) -> FileDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = "LUNGSEG_PHANTOM"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = style.charset
    dataset.SOPClassUID = sop_class
    rng = np.random.default_rng([patient.seed, patient.index, 8])
    date = f"{int(rng.integers(2012, 2025))}{int(rng.integers(1, 13)):02d}{int(rng.integers(1, 29)):02d}"
    dataset.StudyDate = dataset.SeriesDate = date
    dataset.StudyTime = dataset.SeriesTime = f"{int(rng.integers(8, 18)):02d}3000"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Thorax"
    dataset.PatientName = f"Phantom^{('Noémie', 'Zoë', 'Émile', 'Anna')[int(rng.integers(4))]}"
    dataset.PatientID = patient.patient_id
    dataset.PatientBirthDate = f"{int(rng.integers(1930, 1980))}0101"
    dataset.PatientSex = str(rng.choice(["F", "M"]))
    dataset.StudyInstanceUID = phantom_uid(patient, "study")
    dataset.StudyID = str(int(rng.integers(1, 9999)))
    return dataset


def _image_template(patient: PhantomPatient, style: DicomStyle) -> FileDataset:
    """Return all attributes that the slices share."""
    dataset = _common(patient, style, CTImageStorage, implicit=False)
    scan, grid = patient.scan, patient.grid
    row, column = grid.axes[:, 0], grid.axes[:, 1]
    plain = patient.options.orientation == "axial"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if plain else ["DERIVED", "SECONDARY", "REFORMATTED"]
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    dataset.AcquisitionDate, dataset.AcquisitionTime = dataset.StudyDate, dataset.StudyTime
    dataset.Modality = "CT"
    dataset.Manufacturer = style.manufacturer
    dataset.ManufacturerModelName = style.model
    dataset.SeriesDescription = f"Thorax {scan.grid.spacing[2]:g} {scan.kernel}"
    dataset.BodyPartExamined = "CHEST"
    dataset.SliceThickness = _number(grid.spacing[2])
    dataset.KVP = str(scan.kvp)
    dataset.DataCollectionDiameter = "500"
    dataset.SoftwareVersions = "1"
    dataset.ReconstructionDiameter = _number(grid.spacing[0] * grid.size[0])
    dataset.XRayTubeCurrent = str(scan.dose)
    dataset.ConvolutionKernel = scan.kernel
    dataset.PatientPosition = patient.options.position
    dataset.SeriesInstanceUID = phantom_uid(patient, "ct")
    dataset.SeriesNumber = "2"
    dataset.AcquisitionNumber = "1"
    dataset.ImageOrientationPatient = [_number(value, 12) for value in (*row, *column)]
    dataset.FrameOfReferenceUID = phantom_uid(patient, "frame")
    dataset.PositionReferenceIndicator = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = grid.size[1], grid.size[0]
    dataset.PixelSpacing = [_number(grid.spacing[1]), _number(grid.spacing[0])]
    bits = 12 if not style.signed and style.slope == 1 else 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(style.signed)
    if style.padded:
        dataset.PixelPaddingValue = PADDING
    dataset.WindowCenter, dataset.WindowWidth = ["-300", "40"], ["1400", "400"]
    dataset.RescaleIntercept, dataset.RescaleSlope = _number(style.intercept), _number(style.slope)
    dataset.RescaleType = "HU"
    return dataset


def _fill_image(
    dataset: FileDataset, patient: PhantomPatient, style: DicomStyle, number: int, outside: NDArray[np.bool_] | None
) -> None:
    grid = patient.grid
    uid = phantom_uid(patient, "ct", number)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.InstanceNumber = str(number + 1)
    position = np.asarray(grid.origin) + number * grid.spacing[2] * grid.axes[:, 2]
    dataset.ImagePositionPatient = [_number(value) for value in position]
    if patient.options.orientation == "axial":
        dataset.SliceLocation = _number(position[2])
    stored = patient.ct[number].astype(np.int32)
    stored -= int(style.intercept)
    if style.slope != 1:
        stored = np.rint(stored / style.slope).astype(np.int32)
    if outside is not None:
        stored[outside] = PADDING
    dataset.PixelData = stored.astype("<i2" if style.signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _structure_set(patient: PhantomPatient, style: DicomStyle) -> FileDataset:
    contours = [[_contour_text(contour) for contour in roi.contours] for roi in patient.rois]
    too_long = max((len(text) for texts in contours for text in texts), default=0) > LONGEST_EXPLICIT
    implicit = style.implicit or too_long
    dataset = _common(patient, style, RTStructureSetStorage, implicit=implicit)
    uid = phantom_uid(patient, "rtstruct")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.Modality = "RTSTRUCT"
    dataset.Manufacturer = style.planning
    dataset.ManufacturerModelName = style.planning
    dataset.SoftwareVersions = "9.8"
    dataset.SeriesDescription = "Contours"
    dataset.OperatorsName = ""
    dataset.SeriesInstanceUID = phantom_uid(patient, "rtstruct series")
    dataset.SeriesNumber = "3"
    dataset.FrameOfReferenceUID = phantom_uid(patient, "frame")
    dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = "PLAN"
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.StudyDate, dataset.StudyTime
    dataset.ApprovalStatus = "UNAPPROVED"

    images = [_reference(patient, number) for number in range(patient.grid.size[2])]
    series = _item(SeriesInstanceUID=phantom_uid(patient, "ct"), ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=dataset.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = dataset.FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    dataset.StructureSetROISequence = [
        _item(
            ROINumber=str(roi.plan.number),
            ReferencedFrameOfReferenceUID=frame,
            ROIName=roi.plan.name,
            ROIGenerationAlgorithm="MANUAL" if roi.plan.key else "SEMIAUTOMATIC",
        )
        for roi in patient.rois
    ]
    dataset.ROIContourSequence = [
        _roi_item(patient, roi, texts, implicit=implicit) for roi, texts in zip(patient.rois, contours, strict=True)
    ]
    dataset.RTROIObservationsSequence = [
        _item(
            ObservationNumber=str(place + 1),
            ReferencedROINumber=str(roi.plan.number),
            RTROIInterpretedType=roi.plan.interpreted_type,
            ROIInterpreter="",
        )
        for place, roi in enumerate(patient.rois)
    ]
    return dataset


def _roi_item(patient: PhantomPatient, roi: PhantomRoi, texts: Iterable[str], *, implicit: bool) -> Dataset:
    item = _item(ROIDisplayColor=list(roi.plan.color), ReferencedROINumber=str(roi.plan.number))
    contours = []
    for contour, text in zip(roi.contours, texts, strict=True):
        entry = Dataset()
        if contour.slice_index >= 0:
            entry.ContourImageSequence = [_reference(patient, contour.slice_index)]
        entry.ContourGeometricType = "CLOSED_PLANAR" if len(contour.points) > 1 else "POINT"
        entry.NumberOfContourPoints = str(len(contour.points))
        # As raw bytes: pydicom would make an object of each of some hundred thousand decimal strings.
        value = text.encode("ascii")
        entry[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(value), value, 0, implicit, True)
        entry.set_original_encoding(implicit, True, default_encoding)
        contours.append(entry)
    if contours:
        item.ContourSequence = contours
    return item


def _contour_text(contour: SliceContour) -> str:
    text = "\\".join(map("{:.3f}".format, contour.points.ravel().tolist()))
    return text + " " * (len(text) % 2)


def _reference(patient: PhantomPatient, number: int) -> Dataset:
    return _item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=phantom_uid(patient, "ct", number))


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def _number(value: float, digits: int = 6) -> str:
    """Write a decimal string of at most 16 characters."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text[:16]
