"""Any segmentation file becomes structures on a grid: label maps, bit fields, ``.seg.nrrd``, DICOM SEG, RTSTRUCT."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.cohort.case import DrawnOn, draw_structures
from LungSegmentationLib.dicom.header_reader import fetch, quiet_parser, read_header
from LungSegmentationLib.dicom.images import CT_CLASSES, MOST_VOXELS
from LungSegmentationLib.dicom.readers.placing import (
    GRID_TOLERANCE,
    common_part,
    described,
    lies_inside,
    offset_of,
)
from LungSegmentationLib.dicom.readers.seg import SEG_CLASSES, read_seg
from LungSegmentationLib.dicom.readers.seg_nrrd import SegNrrd, holds_segments, read_seg_nrrd
from LungSegmentationLib.dicom.readers.segment_names import match_segments
from LungSegmentationLib.dicom.roi_names import RoiKind, load_roi_rules
from LungSegmentationLib.dicom.rtstruct import RT_STRUCTURE_SET_STORAGE, read_rtstruct
from LungSegmentationLib.errors import BadInputError, GeometryError, LungSegError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.volumes import VOLUME_ENDINGS, itk_path, read_array, volume_description, volume_stem

__all__ = [
    "SEGMENTATION_ENDINGS",
    "SegmentationFile",
    "SegmentationKind",
    "is_ct_image",
    "is_dicom_segmentation",
    "own_grid",
    "placement",
    "read_segmentation_file",
    "segmentation_kind",
    "segmentation_stem",
]

SegmentationKind = Literal["label map", "bits", "seg.nrrd", "dicom-seg", "rtstruct"]

SEGMENTATION_ENDINGS: Final = (".seg.nrrd", ".seg.dcm", ".rtstruct.dcm", ".dcm", *VOLUME_ENDINGS)
"""Longer endings before those that they end in."""

_BITS: Final = "structures"


@dataclass(frozen=True, eq=False)
class SegmentationFile:
    """A segmentation in memory.

    Attributes
    ----------
    kind
        What the file is.
    structures
        As in the file, overlaps kept; of a label map, one a voxel.
    grid
        Of the structures.
    keys
        Structures that the file names, in the order of the labels: those with voxels, and empty segments; which
        structures were looked for a label map does not say.
    warnings
        What was left out, and what a person should know.
    description, algorithm
        As the file says; empty if it does not.
    """

    kind: SegmentationKind
    structures: StructureMap
    grid: Grid
    keys: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    description: str = ""
    algorithm: str = ""

    @property
    def exclusive(self) -> bool:
        """Whether no voxel belongs to two structures."""
        values = np.arange(256)
        return not (values & (values - 1) != 0)[_present(self.structures)].any()


@dataclass(frozen=True)
class _GridOnly:
    """A grid of which no more is known."""

    grid: Grid
    frame_of_reference_uid: str = ""
    series_uid: str = "unknown"
    interpolated_slices: tuple[int, ...] = ()


def segmentation_stem(path: Path) -> str:
    """Return the file name without the ending of a segmentation (``P1`` of ``P1.seg.nrrd``)."""
    name = path.name.lower()
    return next((path.name[: -len(end)] for end in SEGMENTATION_ENDINGS if name.endswith(end)), path.stem)


def segmentation_kind(path: Path) -> SegmentationKind:
    """Tell what kind of segmentation a file is, by its ending and, for DICOM and NRRD, by its header.

    Raises
    ------
    BadInputError
        If there is no such file, or it cannot be read.
    UnsupportedFileError
        If it is no kind that can hold a segmentation.
    """
    if not path.is_file():
        raise BadInputError(f"There is no file {path}.")
    name = path.name.lower()
    if name.endswith(VOLUME_ENDINGS):
        if name.endswith(".seg.nrrd") or holds_segments(path):
            return "seg.nrrd"
        return "bits" if volume_stem(path) == _BITS else "label map"
    try:
        with quiet_parser():
            header = read_header(fetch(path))
    except LungSegError as error:
        raise _unknown(path) from error
    if header.sop_class in SEG_CLASSES:
        return "dicom-seg"
    if header.sop_class == RT_STRUCTURE_SET_STORAGE or header.text("Modality") == "RTSTRUCT":
        return "rtstruct"
    raise _unknown(path, header.text("Modality"))


def _unknown(path: Path, modality: str = "") -> UnsupportedFileError:
    what = f"a DICOM file of the kind {modality}" if modality else "of an unknown kind"
    return UnsupportedFileError(
        f"{path} is {what}, not a segmentation.",
        f"Known are {', '.join(VOLUME_ENDINGS)}, .seg.nrrd, DICOM SEG and RTSTRUCT.",
    )


def is_dicom_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM SEG or RTSTRUCT; False for any other file, and for one that cannot be read."""
    if path.name.lower().endswith(VOLUME_ENDINGS):
        return False
    try:
        return segmentation_kind(path) in {"dicom-seg", "rtstruct"}
    except LungSegError:
        return False  # asked of every file of a folder: most are something else


def is_ct_image(path: Path) -> bool:
    """Whether a file is a DICOM CT image; False for any other file, and for one that cannot be read."""
    if path.name.lower().endswith(VOLUME_ENDINGS):
        return False
    try:
        return read_header(fetch(path)).sop_class in CT_CLASSES
    except LungSegError:
        return False  # asked of any file of a folder


def own_grid(path: Path) -> Grid | None:
    """Return the grid that a file knows by itself: of the image that was segmented; None for DICOM SEG and RTSTRUCT.

    Raises
    ------
    BadInputError
        If the file cannot be read.
    """
    kind = segmentation_kind(path)
    if kind in {"dicom-seg", "rtstruct"}:
        return None
    if kind == "seg.nrrd":
        return _whole_grid(read_seg_nrrd(path))
    return _header_grid(path)


def _header_grid(path: Path) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return read_array(path)[0]  # which says what is wrong
    if reader.GetDimension() != 3:
        return read_array(path)[0]
    return Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def placement(path: Path) -> Callable[[Grid], bool]:
    """Return what tells whether a segmentation's voxels are voxels of a grid, as far as a glance tells.

    Parameters
    ----------
    path
        Of any kind but RTSTRUCT, whose contours are matched otherwise.

    Raises
    ------
    BadInputError
        If the file cannot be read.
    """
    kind = segmentation_kind(path)
    if kind == "dicom-seg":
        found = read_seg(path)
        one = found.slice_grid(found.frames[0])
        return lambda grid: (offset := offset_of(one, grid)) is not None and lies_inside(one, grid, offset)
    if kind == "seg.nrrd":
        part = read_seg_nrrd(path).grid
        return lambda grid: (
            (offset := offset_of(part, grid)) is not None
            and all(span.stop > span.start for span in common_part(part, grid, offset)[1])
        )
    whole = _header_grid(path)
    return lambda grid: whole.matches(grid, GRID_TOLERANCE)


def read_segmentation_file(path: Path, label_set: LabelSet, on: Grid | DrawnOn | None = None) -> SegmentationFile:
    """Read a segmentation of any kind.

    Parameters
    ----------
    path
        A label map (NIfTI, NRRD, MetaImage), a bit field called ``structures``, a ``.seg.nrrd``, a DICOM SEG or an
        RTSTRUCT.
    label_set
        The structures to find. What the file calls otherwise is left out and said.
    on
        The CT, or its grid. Segments are put on it voxel by voxel, and contours are drawn on it; nothing is
        resampled. Needed for an RTSTRUCT; without it a DICOM SEG lies on the smallest grid that holds it, a
        ``.seg.nrrd`` on that of the image it was made on. The grid of other files is their own in any case.

    Raises
    ------
    BadInputError
        If the file is missing, damaged, or holds no structure of the label set.
    UnsupportedFileError
        If it is of a kind that holds no segmentation.
    GeometryError
        If its voxels do not lie on the grid.
    """
    path = Path(path)
    kind = segmentation_kind(path)
    place = _GridOnly(on) if isinstance(on, Grid) else on
    if kind in {"rtstruct", "dicom-seg"}:
        with quiet_parser():
            return (_rtstruct if kind == "rtstruct" else _dicom_seg)(path, label_set, place)
    if kind == "seg.nrrd":
        return _seg_nrrd(path, read_seg_nrrd(path), label_set, place)
    return _voxels(path, kind, label_set)


def _voxels(path: Path, kind: SegmentationKind, label_set: LabelSet) -> SegmentationFile:
    grid, values = read_array(path)
    is_bits = kind == "bits"
    highest = (1 << len(label_set)) - 1 if is_bits else len(label_set)
    called = "structure bits" if is_bits else "a label map"
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise BadInputError(f"{path} is not {called}: it holds values that are no whole numbers.")
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > highest:
        raise BadInputError(
            f"{path} is not {called} of the label set {label_set.name}: it holds the value "
            f"{low if low < 0 else high:g}, and 0 to {highest} are known.",
            "Choose the label set that it was made with.",
        )
    bits: NDArray[np.uint8] = values.astype(np.uint8, copy=False)
    structures = StructureMap(label_set, bits) if is_bits else StructureMap.from_label_map(label_set, bits)
    held = np.bitwise_or.reduce(np.flatnonzero(_present(structures)))
    keys = tuple(one.key for one in label_set.structures if (int(held) >> (one.label - 1)) & 1)
    return SegmentationFile(kind, structures, grid, keys, description=volume_description(path))


def _seg_nrrd(path: Path, found: SegNrrd, label_set: LabelSet, on: DrawnOn | None) -> SegmentationFile:
    match = match_segments([segment.info for segment in found.segments], label_set, code_first=False)
    _check_any(path, match.keys, label_set)
    grid = on.grid if on is not None else _whole_grid(found)
    offset = offset_of(found.grid, grid)
    if offset is None:
        raise _elsewhere(path, found.grid, grid)
    bits = np.zeros(grid.shape, np.uint8)
    theirs, ours = common_part(found.grid, grid, offset)
    cut = 0
    for segment, key in zip(found.segments, match.keys, strict=True):
        if key is None:
            continue
        mask = found.layers[segment.layer] == segment.value
        inside = mask[theirs]
        bits[ours] |= inside.view(np.uint8) << np.uint8(label_set[key].label - 1)
        cut += int(np.count_nonzero(mask)) - int(np.count_nonzero(inside))
    warnings = [*match.warnings]
    if cut:
        warnings.append(f"{cut} voxels of {path.name} lie outside of the image and were left out.")
    return SegmentationFile(
        "seg.nrrd",
        StructureMap(label_set, bits),
        grid,
        _ordered(match.keys, label_set),
        tuple(warnings),
        found.description,
        found.algorithm,
    )


def _dicom_seg(path: Path, label_set: LabelSet, on: DrawnOn | None) -> SegmentationFile:
    found = read_seg(path)
    numbers = list(found.segments)
    match = match_segments([found.segments[number] for number in numbers], label_set, code_first=True)
    _check_any(path, match.keys, label_set)
    shifts = {
        number: np.uint8(label_set[key].label - 1)
        for number, key in zip(numbers, match.keys, strict=True)
        if key is not None
    }
    grid = found.grid if on is None else on.grid
    if (
        on is not None
        and found.frame_of_reference_uid
        and on.frame_of_reference_uid
        not in {
            "",
            found.frame_of_reference_uid,
        }
    ):
        raise GeometryError(
            f"{path} was made in another frame of reference than the CT.", "Give the CT that was segmented."
        )
    bits = np.zeros(grid.shape, np.uint8)
    rows, columns = found.grid.size[1], found.grid.size[0]
    places: dict[tuple[float, float, float], tuple[int, int, int]] = {}
    for frame, number, mask in found.masks():
        if frame.position not in places:
            one = found.slice_grid(frame)
            offset = offset_of(one, grid)
            if offset is None or not lies_inside(one, grid, offset):
                raise _elsewhere(path, found.grid, grid)
            places[frame.position] = offset
        x, y, z = places[frame.position]
        if number in shifts:
            bits[z, y : y + rows, x : x + columns] |= mask.view(np.uint8) << shifts[number]
    return SegmentationFile(
        "dicom-seg",
        StructureMap(label_set, bits),
        grid,
        _ordered(match.keys, label_set),
        (*found.warnings, *match.warnings),
        str(found.dataset.get("SeriesDescription") or ""),
    )


def _rtstruct(path: Path, label_set: LabelSet, on: DrawnOn | None) -> SegmentationFile:
    if on is None:
        raise BadInputError(
            f"{path} holds contours, and the image that they are drawn on is not given.", "Give the CT as well."
        )
    rtstruct = read_rtstruct(path)
    drawn = draw_structures(rtstruct, on, label_set, load_roi_rules())
    warnings = [*drawn.warnings]
    rest = [f"“{one.name}”" for one in drawn.assignment.decisions if one.kind in {RoiKind.IGNORED, RoiKind.UNKNOWN}]
    if rest:
        shown = ", ".join(rest[:12]) + (f" and {len(rest) - 12} more" if len(rest) > 12 else "")
        warnings.append(f"ROI {shown}: no structure of the label set {label_set.name}, left out.")
    keys = _ordered(drawn.assignment.structures(), label_set)
    told = read_header(fetch(path)).text("SeriesDescription")
    return SegmentationFile(
        "rtstruct", drawn.structures, on.grid, keys, tuple(dict.fromkeys(warnings)), told if told.isascii() else ""
    )


def _check_any(path: Path, keys: tuple[str | None, ...], label_set: LabelSet) -> None:
    if not any(keys):
        raise BadInputError(
            f"None of the {len(keys)} segments of {path} is a structure of the label set {label_set.name}.",
            f"Name them {', '.join(label_set.keys)}.",
        )


def _ordered(keys: Any, label_set: LabelSet) -> tuple[str, ...]:
    found = set(keys)
    return tuple(key for key in label_set.keys if key in found)


def _present(structures: StructureMap) -> NDArray[np.bool_]:
    present = np.zeros(256, bool)
    for image in structures.bits:
        present |= np.bincount(image.ravel(), minlength=256) > 0
    return present


def _whole_grid(found: SegNrrd) -> Grid:
    """Return the grid of the image that was segmented, if the voxels lie on it, else their own."""
    reference = found.reference
    if reference is None or math.prod(reference.size) > MOST_VOXELS or offset_of(found.grid, reference) is None:
        return found.grid
    return reference


def _elsewhere(path: Path, own: Grid, grid: Grid) -> GeometryError:
    return GeometryError(
        f"{path} does not lie on the voxels of the image: {described(own)} against {described(grid)}.",
        "Give the image that was segmented.",
    )
