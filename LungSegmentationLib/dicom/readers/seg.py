"""DICOM SEG files of any maker (DICOM PS3.3 A.51, A.93): frames placed by their positions, one frame in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from LungSegmentationLib.dicom.header_reader import quiet_parser
from LungSegmentationLib.dicom.images import MOST_VOXELS
from LungSegmentationLib.dicom.readers.segment_names import CodedPair, SegmentInfo
from LungSegmentationLib.errors import BadInputError, GeometryError, LungSegError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid

__all__ = ["SEG_CLASSES", "DicomSeg", "SegFrame", "read_seg"]

SEG_CLASSES = frozenset({str(SegmentationStorage), "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage, and Label Map Segmentation Storage, which not every pydicom knows."""

_ON_GRID = 0.02
"""mm by which the slices of a file may be off a regular distance."""

_MOST_SLICES = 100_000
_PARALLEL = 1e-4


@dataclass(frozen=True)
class SegFrame:
    """One frame: where its first pixel's center lies (LPS, mm), and whose it is (None: each pixel says)."""

    position: tuple[float, float, float]
    segment: int | None


@dataclass(frozen=True, eq=False)
class DicomSeg:
    """A file, its pixels not unpacked yet.

    Attributes
    ----------
    path
        The file.
    segments
        By segment number.
    frames
        In the file's order.
    grid
        Smallest regular grid that holds all frames; a file does not say how far the images went.
    frame_of_reference_uid
        Coordinate system of the positions; may be empty.
    series_uids, image_uids
        Series and images that the file refers to.
    warnings
        Sentences on what a person should know.
    """

    path: Path
    segments: dict[int, SegmentInfo]
    frames: tuple[SegFrame, ...]
    grid: Grid
    frame_of_reference_uid: str
    series_uids: tuple[str, ...]
    image_uids: frozenset[str]
    warnings: tuple[str, ...]
    dataset: Dataset

    def slice_grid(self, frame: SegFrame) -> Grid:
        """Return the grid of one frame, a single slice."""
        columns, rows, _ = self.grid.size
        return Grid((columns, rows, 1), self.grid.spacing, frame.position, self.grid.direction)

    def masks(self) -> Iterator[tuple[SegFrame, int, NDArray[np.bool_]]]:
        """Yield each frame with the number of a segment and its pixels (rows, columns).

        Raises
        ------
        BadInputError
            If the pixels are damaged.
        """
        try:
            for frame, pixels in zip(self.frames, _pixels(self.dataset, len(self.frames)), strict=True):
                if frame.segment is not None:
                    yield frame, frame.segment, pixels > 0
                    continue
                for number in np.unique(pixels).tolist():
                    if number in self.segments:
                        yield frame, number, pixels == number
        except LungSegError:
            raise
        except Exception as error:  # decoders raise almost anything on broken bytes
            raise _broken(self.path, error) from error


def read_seg(path: Path) -> DicomSeg:
    """Read a DICOM segmentation.

    Raises
    ------
    BadInputError
        If the file is missing or broken.
    UnsupportedFileError
        If it is something else than a segmentation.
    GeometryError
        If its frames form no regular grid.
    """
    try:
        with quiet_parser():
            dataset = dcmread(path, force=False)
            return _read(path, dataset)
    except LungSegError:
        raise
    except FileNotFoundError as error:
        raise BadInputError(f"There is no file {path}.") from error
    except InvalidDicomError as error:
        raise UnsupportedFileError(f"{path} is no DICOM file.") from error
    except Exception as error:  # sequences are parsed on access: broken bytes make pydicom raise almost anything
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> BadInputError:
    return BadInputError(f"The DICOM SEG {path} is broken ({type(error).__name__}: {error}).", "Export it again.")


def _read(path: Path, dataset: Dataset) -> DicomSeg:
    if dataset.get("SOPClassUID") not in SEG_CLASSES:
        kind = dataset.get("Modality") or "unknown"
        raise UnsupportedFileError(f"{path} is a DICOM file of the kind {kind}, not a SEG.")
    segments = {int(item.SegmentNumber): _info(item) for item in dataset.SegmentSequence}
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    frames, orientations, spacings = [], set(), set()
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = _group(group, shared, "PlanePositionSequence").ImagePositionPatient
        orientation = _group(group, shared, "PlaneOrientationSequence").ImageOrientationPatient
        measures = _group(group, shared, "PixelMeasuresSequence")
        number = None
        if dataset.SegmentationType != "LABELMAP":
            number = int(_group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            if number not in segments:
                raise BadInputError(f"The DICOM SEG {path} is broken: a frame belongs to no segment ({number}).")
        x, y, z = (float(value) for value in position)
        frames.append(SegFrame((x, y, z), number))
        orientations.add(tuple(round(float(value), 6) for value in orientation))
        between = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0
        row, column = (float(value) for value in measures.PixelSpacing)
        spacings.add((row, column, float(between)))
    if not frames:
        raise BadInputError(f"The DICOM SEG {path} holds no frame.")
    _check_size(path, dataset, len(frames))
    if len(orientations) > 1 or len(spacings) > 1:
        raise GeometryError(f"The frames of {path} have several orientations or spacings.", "Export it again.")
    grid = _grid(path, frames, orientations.pop(), spacings.pop(), (int(dataset.Rows), int(dataset.Columns)))
    warnings = []
    if dataset.SegmentationType == "FRACTIONAL":
        warnings.append(f"{path.name} holds fractions: a voxel belongs to a segment where it holds half or more.")
    series = [str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or []]
    images = {
        str(image.ReferencedSOPInstanceUID)
        for item in dataset.get("ReferencedSeriesSequence") or []
        for image in item.get("ReferencedInstanceSequence") or []
    }
    return DicomSeg(
        path,
        segments,
        tuple(frames),
        grid,
        str(dataset.get("FrameOfReferenceUID") or ""),
        tuple(series),
        frozenset(images),
        tuple(warnings),
        dataset,
    )


def _check_size(path: Path, dataset: Dataset, frames: int) -> None:
    """Refuse what claims more pixels than it holds, before memory is taken for them."""
    count = int(dataset.Rows) * int(dataset.Columns) * frames
    stored = len(dataset.PixelData)
    enough = _is_encoded(dataset) or stored * 8 >= count * int(dataset.BitsAllocated)
    if not 0 < count <= MOST_VOXELS or not stored or not enough:
        raise BadInputError(f"The DICOM SEG {path} is damaged: it holds fewer pixels than it says.", "Export it again.")


def _is_encoded(dataset: Dataset) -> bool:
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(syntax.is_compressed and not syntax.is_deflated)


def _first(dataset: Dataset, keyword: str) -> Dataset:
    items = dataset.get(keyword) or []
    return items[0] if items else Dataset()


def _group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    for group in (own, shared):
        if items := group.get(keyword):
            found: Dataset = items[0]
            return found
    raise AttributeError(f"{keyword} is missing")


def _info(item: Dataset) -> SegmentInfo:
    kind = _first(item, "SegmentedPropertyTypeCodeSequence")
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
    return SegmentInfo(
        str(item.get("SegmentLabel") or "").strip(),
        str(item.get("TrackingID") or "").strip(),
        str(item.get("SegmentDescription") or "").strip(),
        _code(kind),
        _code(modifiers[0]) if modifiers else None,
    )


def _code(item: Dataset) -> CodedPair | None:
    scheme, value = str(item.get("CodingSchemeDesignator") or ""), str(item.get("CodeValue") or "")
    return (scheme, value) if scheme and value else None


def _grid(
    path: Path,
    frames: Sequence[SegFrame],
    orientation: tuple[float, ...],
    spacing: tuple[float, float, float],
    size: tuple[int, int],
) -> Grid:
    """Return the smallest grid that holds the frames; all must be stacked along their normal."""
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    if abs(along @ down) > _PARALLEL or min(spacing[:2]) <= 0:
        raise GeometryError(f"The frames of {path} have axes or a spacing that cannot be meant.", "Export it again.")
    along, down = along / np.linalg.norm(along), down / np.linalg.norm(down)
    normal = np.cross(along, down)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    first = int(heights.argmin())
    aside = (positions - positions[first]) @ np.column_stack([along, down])
    levels = np.unique(np.round(heights - heights[first], 3))
    step = _step(path, levels, spacing[2])
    slices = round(float(levels[-1]) / step) + 1
    if size[0] * size[1] * slices > MOST_VOXELS:
        raise GeometryError(f"The frames of {path} lie too far apart to be one volume.", "Export it again.")
    if np.abs(aside).max() > _ON_GRID:
        raise GeometryError(f"The frames of {path} are not stacked one above the other.", "Export it again.")
    return Grid(
        (size[1], size[0], slices),
        (spacing[1], spacing[0], step),
        frames[first].position,
        tuple(np.column_stack([along, down, normal]).ravel().tolist()),
    )


def _step(path: Path, levels: NDArray[np.float64], written: float) -> float:
    """Return the distance of the slices: what is written if the positions agree with it, else the smallest."""
    if len(levels) == 1:
        return written if written > 0 else 1.0
    for step in (written, float(np.diff(levels).min())):
        if step <= 0:
            continue
        counts = np.round(levels / step)
        if (np.diff(counts) > 0).all() and counts[-1] < _MOST_SLICES:
            # Over many slices a rounded distance adds up: the positions know it better.
            exact = float(levels[-1] / counts[-1])
            if np.abs(levels - counts * exact).max() <= _ON_GRID:
                return exact
    raise GeometryError(
        f"The frames of {path} do not lie at regular distances.", "Give the CT that was segmented, whose slices do."
    )


def _pixels(dataset: Dataset, frames: int) -> Iterator[NDArray[Any]]:
    """Yield the pixels of each frame; of fractions whether they are half or more."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    half = None
    if dataset.SegmentationType == "FRACTIONAL":
        half = int(dataset.get("MaximumFractionalValue") or 255) / 2
    if _is_encoded(dataset):
        whole = dataset.pixel_array.reshape(-1, rows, columns)
        if len(whole) != frames:
            raise ValueError(f"{len(whole)} frames, {frames} described")
        yield from (image if half is None else image >= half for image in whole)
        return
    stored = np.frombuffer(dataset.PixelData, np.uint8)
    count = rows * columns
    bits = int(dataset.BitsAllocated)
    for frame in range(frames):
        if bits == 1:
            # Frames follow each other without a gap, also within a byte (PS3.5 8.1.1).
            start = frame * count
            part = np.unpackbits(stored[start // 8 : (start + count + 7) // 8], bitorder="little")
            image = part[start % 8 : start % 8 + count]
        else:
            size = bits // 8
            image = stored[frame * count * size : (frame + 1) * count * size].view(np.dtype(f"<u{size}"))
        shaped = image.reshape(rows, columns)
        yield shaped if half is None else shaped >= half
