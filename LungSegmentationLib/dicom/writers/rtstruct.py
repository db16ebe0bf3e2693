"""RTSTRUCT files: sub-pixel contours, slice by slice, tied to the CT that they were drawn on (DICOM PS3.3 A.19.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from LungSegmentationLib.dicom.header_reader import quiet_parser
from LungSegmentationLib.dicom.writers.content import (
    DESCRIPTION,
    AlgorithmInfo,
    chosen_structures,
    common_character_set,
    file_meta,
    long_string,
    stamp,
)
from LungSegmentationLib.dicom.writers.contour_tracing import trace_slices
from LungSegmentationLib.dicom.writers.references import DicomSource, ImageReference
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import Code, Structure
from LungSegmentationLib.storage import atomic_path
from LungSegmentationLib.structures import StructureMap

__all__ = ["Field", "write_rtstruct"]

Field = Callable[[str, int], NDArray[np.floating] | None]
"""Given a structure key and a slice: a field (rows, columns) that is positive inside, or None to smooth instead."""

_CONTOUR_DATA = Tag(0x3006, 0x0050)
_DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
_SERIES_NUMBER = "9001"
_FEWEST_DIGITS, _MOST_DIGITS = 4, 7


def write_rtstruct(
    structures: StructureMap,
    source: DicomSource,
    path: Path,
    *,
    description: str = DESCRIPTION,
    algorithm: AlgorithmInfo | None = None,
    keys: Iterable[str] | None = None,
    field: Field | None = None,
) -> Path:
    """Write the structures, each as it is with its overlaps, as contours.

    Contours are closed polygons with vertices between pixel centers
    (:func:`~LungSegmentationLib.dicom.writers.contour_tracing.trace`): filling them gives back the same voxels. Holes
    are keyholes, which readers that unite contours and readers that toggle fill alike. A contour on a slice that was
    interpolated, so that no image holds it, refers to no image.

    Parameters
    ----------
    structures
        On the grid of ``source``, in any orientation.
    source
        The CT series.
    path
        The file; written whole or not at all.
    description
        Series Description; the default says that this is automatic and for research.
    algorithm
        What made the segmentation.
    keys
        Structures to write, default all. One without voxels becomes an ROI without contours: looked for, not found.
    field
        Gives the outlines their place between pixel centers, for example probability minus 0.5.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    chosen = chosen_structures(structures, keys)
    algorithm = algorithm or AlgorithmInfo()
    if structures.shape != source.grid.shape:
        raise ValueError(f"structures of shape {structures.shape} do not lie on a grid of shape {source.grid.shape}")
    with quiet_parser():
        dataset = _header(source, description, algorithm, chosen)
    dataset.StructureSetROISequence = [
        _item(
            ROINumber=str(structure.label),
            ReferencedFrameOfReferenceUID=source.frame_of_reference_uid,
            ROIName=long_string(structure.tg263),
            ROIDescription=long_string(structure.name),
            ROIGenerationAlgorithm=algorithm.how,
            ROIGenerationDescription=long_string(f"{algorithm.name} {algorithm.version}"),
        )
        for structure in chosen
    ]
    dataset.ROIContourSequence = [_drawn(structures, source, structure, field) for structure in chosen]
    dataset.RTROIObservationsSequence = [_observation(structure) for structure in chosen]
    dataset.ApprovalStatus = "UNAPPROVED"
    with atomic_path(path) as partial, quiet_parser():
        dataset.save_as(partial, enforce_file_format=True)
    return path


def _header(
    source: DicomSource, description: str, algorithm: AlgorithmInfo, chosen: Iterable[Structure]
) -> FileDataset:
    now = datetime.now().astimezone()
    uid = generate_uid(prefix=None)
    # Explicit value representations leave 16 bits for the length of a contour's text, too few for a large one.
    meta = file_meta(RTStructureSetStorage, uid, ImplicitVRLittleEndian)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    texts = [*source.texts(), description, algorithm.name, algorithm.version]
    texts += [text for structure in chosen for text in (structure.tg263, structure.name)]
    dataset.SpecificCharacterSet = common_character_set(list(source.character_set), texts)
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = uid
    dataset.Modality = "RTSTRUCT"
    stamp(dataset, now)
    dataset.OperatorsName = ""
    dataset.SeriesDescription = long_string(description)
    for element in source.header:
        if not element.keyword.startswith("LossyImage"):
            dataset[element.tag] = element
    dataset.StudyInstanceUID = source.study_uid
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.SeriesNumber = _SERIES_NUMBER
    dataset.InstanceNumber = "1"
    dataset.FrameOfReferenceUID = source.frame_of_reference_uid
    dataset.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator", "")
    dataset.StructureSetLabel = algorithm.label
    dataset.StructureSetName = long_string(f"{algorithm.name} {algorithm.version}")
    dataset.StructureSetDescription = long_string(description)
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.SeriesDate, dataset.SeriesTime
    series = _item(
        SeriesInstanceUID=source.series_uid,
        ContourImageSequence=[_reference(image) for image in source.distinct_images()],
    )
    study = _item(
        ReferencedSOPClassUID=_DETACHED_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=source.study_uid,
        RTReferencedSeriesSequence=[series],
    )
    dataset.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=source.frame_of_reference_uid, RTReferencedStudySequence=[study])
    ]
    return dataset


def _drawn(structures: StructureMap, source: DicomSource, structure: Structure, field: Field | None) -> Dataset:
    item = _item(ROIDisplayColor=list(structure.color), ReferencedROINumber=str(structure.label))
    digits = _digits(source.grid)
    contours: list[Dataset] = []
    for index, polygon in _outlines(structures, structure, field):
        points = source.grid.to_physical(np.column_stack([polygon, np.full(len(polygon), float(index))]))
        # Adding zero turns −0.0 into 0.0.
        points = points.round(digits) + 0.0
        points = points[(points != np.roll(points, 1, axis=0)).any(1)]
        contour = Dataset()
        image = source.images[index]
        if image is not None:
            contour.ContourImageSequence = [_reference(image)]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = str(len(points))
        contour.ContourNumber = str(len(contours) + 1)
        text = _decimal_strings(points, digits)
        # As bytes: pydicom would make an object of each of some hundred thousand decimal strings.
        contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, True, True)
        contour.set_original_encoding(True, True, default_encoding)
        contours.append(contour)
    if contours:
        item.ContourSequence = contours
    return item


def _outlines(
    structures: StructureMap, structure: Structure, field: Field | None
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    bit = np.uint8(1 << (structure.label - 1))
    held = [index for index, bits in enumerate(structures.bits) if (bits & bit).any()]
    slices = (
        (structures.bits[index] & bit != 0, None if field is None else field(structure.key, index)) for index in held
    )
    for index, polygons in zip(held, trace_slices(slices), strict=True):
        for polygon in polygons:
            yield index, polygon


def _observation(structure: Structure) -> Dataset:
    concept = _code(structure.type)
    if structure.modifier is not None:
        concept.SegmentedPropertyTypeModifierCodeSequence = [_code(structure.modifier)]
    return _item(
        ObservationNumber=str(structure.label),
        ReferencedROINumber=str(structure.label),
        ROIObservationLabel=long_string(structure.tg263)[:16],
        RTROIIdentificationCodeSequence=[concept],
        RTROIInterpretedType=structure.interpreted_type,
        ROIInterpreter="",
    )


def _digits(grid: Grid) -> int:
    """Return the digits behind the point that tell places a ten-thousandth of a pixel apart; 4 for any usual CT."""
    return int(np.clip(4 - np.floor(np.log10(min(grid.spacing))) - 1, _FEWEST_DIGITS, _MOST_DIGITS))


def _decimal_strings(points: NDArray[np.float64], digits: int) -> bytes:
    """Write coordinates as decimal strings of at most 16 characters (positions are below 10⁵ mm)."""
    text = "\\".join(map(f"{{:.{digits}f}}".format, points.ravel().tolist()))
    return (text + " " * (len(text) % 2)).encode("ascii")


def _reference(image: ImageReference) -> Dataset:
    item = _item(ReferencedSOPClassUID=image.sop_class_uid, ReferencedSOPInstanceUID=image.sop_instance_uid)
    if image.frame is not None:
        item.ReferencedFrameNumber = str(image.frame)
    return item


def _code(code: Code) -> Dataset:
    return _item(CodeValue=code.value, CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item
