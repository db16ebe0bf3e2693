"""DICOM SEG files: one binary segment a structure, overlaps kept, tied to the CT's images (DICOM PS3.3 A.51)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from LungSegmentationLib import __version__
from LungSegmentationLib.dicom.header_reader import quiet_parser
from LungSegmentationLib.dicom.writers.content import (
    DESCRIPTION,
    IMPLEMENTATION,
    PRODUCT,
    AlgorithmInfo,
    chosen_structures,
    common_character_set,
    decimal_string,
    long_string,
    stamp,
)
from LungSegmentationLib.dicom.writers.references import DicomSource, ImageReference
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import Code, Structure
from LungSegmentationLib.storage import atomic_path
from LungSegmentationLib.structures import MAX_BITS, StructureMap

if TYPE_CHECKING:
    import highdicom
    from numpy.typing import NDArray

__all__ = ["write_seg"]

_FAMILY = DicomCode("123110", "DCM", "Artificial Intelligence")
_SERIES_NUMBER = 9002
# No UID that can occur begins so.
_PLACEHOLDER = "0.0."
# As many as a label set of a byte has structures.
_MARK_COLUMNS = MAX_BITS


def write_seg(
    structures: StructureMap,
    source: DicomSource,
    path: Path,
    *,
    description: str = DESCRIPTION,
    algorithm: AlgorithmInfo | None = None,
    keys: Iterable[str] | None = None,
) -> Path:
    """Write the structures, each as it is with its overlaps, as binary segments.

    Only slices that hold something have a frame, and only structures with voxels become a segment: viewers stumble
    over segments without frames. A frame on a slice that was interpolated refers to no image.

    Parameters
    ----------
    structures
        On the grid of ``source``.
    source
        The CT series; its files need not exist any more.
    path
        The file; written whole or not at all.
    description
        Series Description; the default says that this is automatic and for research.
    algorithm
        What made the segmentation.
    keys
        Structures to write, default all.

    Raises
    ------
    BadInputError
        If none of the structures has a voxel: DICOM has no empty segmentation.
    StorageError
        If the file cannot be written.
    """
    if structures.shape != source.grid.shape:
        raise ValueError(f"structures of shape {structures.shape} do not lie on a grid of shape {source.grid.shape}")
    counts = structures.voxel_counts()
    chosen = [structure for structure in chosen_structures(structures, keys) if counts[structure.key]]
    if not chosen:
        raise BadInputError(
            f"{path} was not written: no structure was found, and DICOM has no empty segmentation.",
            "Write .seg.nrrd, .nii.gz or RTSTRUCT if an empty result is to be kept.",
        )
    # Odd patient names and the like come from the source and are carried over as they are.
    with quiet_parser():
        dataset = _segmentation(structures, source, chosen, description, algorithm or AlgorithmInfo())
        _fill_pixels(dataset, structures, chosen)
        _refer(dataset, source)
    with atomic_path(path) as partial, quiet_parser():
        dataset.save_as(partial, enforce_file_format=True)
    return path


def _segmentation(
    structures: StructureMap,
    source: DicomSource,
    chosen: Sequence[Structure],
    description: str,
    algorithm: AlgorithmInfo,
) -> highdicom.seg.Segmentation:
    import highdicom

    frames = _frames(structures, chosen)
    images = _stand_ins(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=frames.marks(),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, structure, algorithm) for number, structure in enumerate(chosen, 1)
            ],
            series_instance_uid=generate_uid(prefix=None),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=PRODUCT,
            manufacturer_model_name=PRODUCT,
            software_versions=__version__,
            device_serial_number="1",
            content_label=algorithm.label,
            content_description=long_string(description),
            series_description=long_string(description),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            plane_positions=[
                highdicom.PlanePositionSequence("PATIENT", images[index].ImagePositionPatient)
                for index in frames.slices
            ],
        )
    texts = [*source.texts(), description, algorithm.name, algorithm.version]
    texts += [text for structure in chosen for text in (structure.name, structure.tg263, structure.type.meaning)]
    dataset.SpecificCharacterSet = common_character_set(list(source.character_set), texts)
    for element in source.header:
        dataset[element.tag] = element
    stamp(dataset, datetime.now().astimezone())
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION
    dataset.file_meta.ImplementationVersionName = f"LUNGSEG_{__version__}"[:16]
    return dataset


@dataclass(frozen=True)
class _Frames:
    """Which slices hold which structures.

    Attributes
    ----------
    slices
        Those that hold something, ascending.
    held
        bool, (slices, structures).
    overlapping
        Whether a voxel has several structures.
    """

    slices: list[int]
    held: NDArray[np.bool_]
    overlapping: bool

    def marks(self) -> NDArray[np.uint8]:
        """Return a tiny image of each slice, (slices, 1, columns, structures), with a pixel for each structure held.

        highdicom makes of it what it would make of the whole slices, but for their pixels; those would take several
        times the memory of the volume. Pixels coincide if structures overlap, as the result says whether they do.
        """
        count = self.held.shape[1]
        marks = np.zeros((len(self.slices), 1, _MARK_COLUMNS, count), np.uint8)
        for place in range(count):
            marks[:, 0, 0 if self.overlapping else place, place] = self.held[:, place]
        return marks


def _frames(structures: StructureMap, chosen: Sequence[Structure]) -> _Frames:
    values = np.arange(256)
    members = np.array([(values >> (structure.label - 1)) & 1 for structure in chosen], bool)
    slices, held, overlapping = [], [], False
    for index, bits in enumerate(structures.bits):
        present = np.bincount(bits.ravel(), minlength=256) > 0
        inside = members[:, present].any(1)
        if inside.any():
            slices.append(index)
            held.append(inside)
            overlapping = overlapping or bool((members[:, present].sum(0) > 1).any())
    return _Frames(slices, np.array(held), overlapping)


def _fill_pixels(dataset: Dataset, structures: StructureMap, chosen: Sequence[Structure]) -> None:
    """Exchange the tiny images for the pixels of the frames, a bit each, without a gap between frames (PS3.5 8.1.1)."""
    rows, columns = structures.shape[1:]
    packed = np.zeros((rows * columns * int(dataset.NumberOfFrames) + 7) // 8, np.uint8)
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        # What all frames share stands in one place for all.
        named = group if "SegmentIdentificationSequence" in group else dataset.SharedFunctionalGroupsSequence[0]
        segment = chosen[named.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        image = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        bits = structures.bits[int(image.removeprefix(_PLACEHOLDER))].ravel()
        first, shift = divmod(number * rows * columns, 8)
        inside = (bits >> np.uint8(segment.label - 1)) & np.uint8(1)
        # A frame need not begin with a byte: what lies before its first bit belongs to the last one.
        frame = np.packbits(np.concatenate([np.zeros(shift, np.uint8), inside]), bitorder="little")
        packed[first : first + len(frame)] |= frame
    dataset.Rows, dataset.Columns = rows, columns
    pixels = packed.tobytes()
    dataset["PixelData"].value = pixels + b"\0" * (len(pixels) % 2)


def _stand_ins(source: DicomSource) -> list[Dataset]:
    """Return a header for each slice, also for interpolated ones; its UID tells the slice and is exchanged later."""
    grid = source.grid
    shared = Dataset()
    shared.update(source.header)
    shared.SOPClassUID = CTImageStorage
    shared.Modality = "CT"
    shared.StudyInstanceUID = source.study_uid
    shared.SeriesInstanceUID = source.series_uid
    shared.FrameOfReferenceUID = source.frame_of_reference_uid
    shared.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator", "")
    shared.Rows, shared.Columns = 1, _MARK_COLUMNS
    shared.PixelSpacing = [decimal_string(grid.spacing[1]), decimal_string(grid.spacing[0])]
    shared.SliceThickness = decimal_string(grid.spacing[2])
    shared.SpacingBetweenSlices = decimal_string(grid.spacing[2])
    shared.ImageOrientationPatient = [decimal_string(value) for value in grid.axes[:, :2].T.ravel()]
    positions = grid.to_physical([[0.0, 0.0, float(index)] for index in range(grid.size[2])])
    images = []
    for index, position in enumerate(positions):
        image = Dataset()
        image.update(shared)
        image.SOPInstanceUID = f"{_PLACEHOLDER}{index}"
        image.ImagePositionPatient = [decimal_string(value) for value in position]
        images.append(image)
    return images


def _refer(dataset: Dataset, source: DicomSource) -> None:
    """Exchange the stand-ins for the images that they stand for."""
    distinct = [_reference(image) for image in source.distinct_images()]
    dataset.SourceImageSequence = distinct
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ReferencedInstanceSequence = [_reference(image) for image in source.distinct_images()]
    dataset.ReferencedSeriesSequence = [series]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            item = derivation.SourceImageSequence[0]
            if not item.ReferencedSOPInstanceUID.startswith(_PLACEHOLDER):
                continue  # the segments of a slice share the item
            image = source.images[int(item.ReferencedSOPInstanceUID.removeprefix(_PLACEHOLDER))]
            if image is None:
                group.DerivationImageSequence = []
                break
            item.update(_reference(image))


def _reference(image: ImageReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    if image.frame is not None:
        item.ReferencedFrameNumber = str(image.frame)
    return item


def _description(number: int, structure: Structure, algorithm: AlgorithmInfo) -> highdicom.seg.SegmentDescription:
    import highdicom

    item = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=long_string(structure.name),
        segmented_property_category=_code(structure.category),
        segmented_property_type=_code(structure.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues(algorithm.how),
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=long_string(algorithm.name),
            family=_FAMILY,
            version=long_string(algorithm.version),
            source=PRODUCT,
        ),
        tracking_uid=generate_uid(prefix=None),
        tracking_id=structure.key,
        display_color=highdicom.color.CIELabColor.from_rgb(*structure.color),
    )
    item.SegmentDescription = long_string(structure.tg263)
    if structure.modifier is not None:
        modifier = structure.modifier
        concept = Dataset()
        concept.CodeValue = modifier.value
        concept.CodingSchemeDesignator = modifier.scheme
        concept.CodeMeaning = modifier.meaning
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept]
    return item


def _code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)
