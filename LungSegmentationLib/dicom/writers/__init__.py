"""One segmentation, many endings: label maps, ``.seg.nrrd``, DICOM SEG, RTSTRUCT."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from LungSegmentationLib.dicom.ct import CTVolume
from LungSegmentationLib.dicom.writers.content import DESCRIPTION, AlgorithmInfo, chosen_structures
from LungSegmentationLib.dicom.writers.references import DicomSource, ImageReference, source_of
from LungSegmentationLib.dicom.writers.rtstruct import Field, write_rtstruct
from LungSegmentationLib.dicom.writers.seg import write_seg
from LungSegmentationLib.dicom.writers.seg_nrrd import write_seg_nrrd
from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.structures import StructureMap

__all__ = [
    "DESCRIPTION",
    "RESULT_ENDINGS",
    "AlgorithmInfo",
    "DicomSource",
    "Field",
    "ImageReference",
    "result_format",
    "source_of",
    "write_label_map",
    "write_result",
    "write_rtstruct",
    "write_seg",
    "write_seg_nrrd",
]

RESULT_ENDINGS: Final = {
    "nifti": ".nii.gz",
    "nrrd": ".nrrd",
    "mha": ".mha",
    "seg.nrrd": ".seg.nrrd",
    "dicom-seg": ".seg.dcm",
    "rtstruct": ".rtstruct.dcm",
}
"""Formats of a result, and the ending that a file of each gets."""

_BY_ENDING: Final = {
    ".seg.nrrd": "seg.nrrd",
    ".seg.dcm": "dicom-seg",
    ".rtstruct.dcm": "rtstruct",
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "nrrd",
    ".mha": "mha",
}
_DICOM: Final = ("dicom-seg", "rtstruct")


def result_format(path: Path, format: str | None = None) -> str:  # noqa: A002 (what users call it)
    """Return the format of a result file: a key of ``RESULT_ENDINGS``.

    Parameters
    ----------
    path
        The file; its ending decides where ``format`` is not given.
    format
        Needed for a plain ``.dcm``, which can be either of two.

    Raises
    ------
    UsageError
        If neither tells, or they contradict each other.
    """
    known = ", ".join(RESULT_ENDINGS)
    if format is not None and format not in RESULT_ENDINGS:
        raise UsageError(f"“{format}” is no format of a result.", f"Choose one of: {known}.")
    name = path.name.lower()
    by_ending = next((found for ending, found in _BY_ENDING.items() if name.endswith(ending)), None)
    if format is None and by_ending is None:
        if name.endswith(".dcm"):
            raise UsageError(
                f"{path}: the ending .dcm does not tell what to write.", "Give the format dicom-seg or rtstruct."
            )
        raise UsageError(
            f"{path}: the ending does not tell what to write.", f"End it in one of: {', '.join(_BY_ENDING)}."
        )
    if format is None:
        return str(by_ending)
    # DICOM files may have any ending or none; for the others the ending is what a reader goes by.
    if by_ending != format and (format not in _DICOM or by_ending is not None):
        raise UsageError(f"{path} does not end as a {format} file does.", f"End it in {RESULT_ENDINGS[format]}.")
    return format


def write_result(
    structures: StructureMap,
    source: CTVolume | DicomSource | Grid,
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 (what users call it)
    description: str = DESCRIPTION,
    algorithm: AlgorithmInfo | None = None,
    keys: Iterable[str] | None = None,
    field: Field | None = None,
) -> Path:
    """Write a segmentation in the format that its ending or ``format`` says.

    ``.seg.nrrd``, DICOM SEG and RTSTRUCT hold every structure as it is, overlaps included; the label maps (``.nii.gz``,
    ``.nii``, ``.nrrd``, ``.mha``) are painted in the label set's order.

    Parameters
    ----------
    structures
        On the grid of ``source``.
    source
        What was segmented. DICOM formats need a :class:`DicomSource` of :func:`source_of`, or a CT volume, whose
        patient has then an id and no name.
    path
        The file; written whole or not at all. Missing folders are made.
    format
        A key of ``RESULT_ENDINGS``.
    description
        Series Description of DICOM files, and what the headers of others say; the default says that the result is
        automatic and for research.
    algorithm
        What made it; DICOM and ``.seg.nrrd`` say so.
    keys
        Structures to write, default all.
    field
        For RTSTRUCT: see :func:`write_rtstruct`.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    UsageError
        If ending and format do not say what to write.
    BadInputError
        If a DICOM format is asked for and the source is no DICOM series or lacks UIDs, or a DICOM SEG would be empty.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    chosen_format = result_format(path, format)
    if chosen_format in _DICOM:
        if isinstance(source, Grid):
            raise BadInputError(
                f"{path} was not written: a DICOM result refers to the DICOM series that was segmented, and the input "
                "was none.",
                "Segment the DICOM folder, or write .nii.gz or .seg.nrrd.",
            )
        series = source_of(source) if isinstance(source, CTVolume) else source
        if chosen_format == "dicom-seg":
            return write_seg(structures, series, path, description=description, algorithm=algorithm, keys=keys)
        return write_rtstruct(
            structures, series, path, description=description, algorithm=algorithm, keys=keys, field=field
        )
    grid = source if isinstance(source, Grid) else source.grid
    if chosen_format == "seg.nrrd":
        return write_seg_nrrd(structures, grid, path, description=description, algorithm=algorithm, keys=keys)
    return write_label_map(structures, grid, path, keys=keys, description=description)


def write_label_map(
    structures: StructureMap,
    grid: Grid,
    path: Path,
    *,
    keys: Iterable[str] | None = None,
    description: str = DESCRIPTION,
) -> Path:
    """Write one label a voxel, uint8, painted in the label set's order, as NIfTI, NRRD or MetaImage.

    The header of the file holds the description.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    from LungSegmentationLib.volumes import write_volume

    chosen = [structure.key for structure in chosen_structures(structures, keys)]
    write_volume(grid.image(structures.label_map(chosen)), path, description)
    return path
