"""``.seg.nrrd`` files, ours and those that 3D Slicer saves: segments in layers, cut to what holds voxels.

The keys are those of Slicer's developer guide, Segmentations, "Segmentation labelmap file format".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.dicom.readers.segment_names import CodedPair, SegmentInfo
from LungSegmentationLib.errors import BadInputError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.volumes import check_compressed, itk_path

__all__ = ["SegNrrd", "SegNrrdSegment", "holds_segments", "read_seg_nrrd"]

_REFERENCE = "Reference image geometry"


@dataclass(frozen=True)
class SegNrrdSegment:
    """A segment: what it is called, and the layer and the value that its voxels have."""

    info: SegmentInfo
    layer: int
    value: int


@dataclass(frozen=True, eq=False)
class SegNrrd:
    """A file in memory.

    Attributes
    ----------
    segments
        In the file's order.
    grid
        Of the voxels in the file: Slicer cuts them to what is not empty.
    reference
        Of the image that was segmented, if the file says.
    layers
        Each an array (z, y, x).
    description, algorithm
        As our files say, empty otherwise.
    """

    segments: tuple[SegNrrdSegment, ...]
    grid: Grid
    reference: Grid | None
    layers: Sequence[NDArray[np.generic]]
    description: str = ""
    algorithm: str = ""


def holds_segments(path: Path) -> bool:
    """Whether an NRRD file describes segments; False for any other file, and for one that cannot be read."""
    if not path.name.lower().endswith(".nrrd"):
        return False
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False  # what reads it as a volume says why
    return any(_number(key) is not None for key in reader.GetMetaDataKeys())


def read_seg_nrrd(path: Path) -> SegNrrd:
    """Read a ``.seg.nrrd`` file.

    Raises
    ------
    BadInputError
        If the file is missing, damaged, or holds no segment.
    UnsupportedFileError
        If it is not three-dimensional, or holds something else than whole numbers.
    """
    if not path.is_file():
        raise BadInputError(f"There is no file {path}.")
    try:
        image = sitk.ReadImage(itk_path(path))
    except RuntimeError as error:
        raise BadInputError(f"{path} cannot be read as a segmentation: it is damaged or of another format.") from error
    check_compressed(path)
    texts = _texts(image)
    if image.GetDimension() != 3:
        raise UnsupportedFileError(
            f"{path} holds {image.GetDimension()} dimensions.", "A segmentation in 3 dimensions is needed."
        )
    if image.GetPixelID() in {sitk.sitkFloat32, sitk.sitkFloat64, sitk.sitkVectorFloat32, sitk.sitkVectorFloat64}:
        raise UnsupportedFileError(f"{path} holds fractions, not segments.", "Save a binary label map.")
    numbers = sorted({number for key in texts if (number := _number(key)) is not None})
    if not numbers:
        raise BadInputError(f"{path} names no segment.", "Save it as a segmentation, or give the label map as .nrrd.")
    array = sitk.GetArrayViewFromImage(image)
    layers = [array] if array.ndim == 3 else [np.ascontiguousarray(array[..., n]) for n in range(array.shape[3])]
    segments = []
    for place, number in enumerate(numbers):
        # Files of Slicer before 4.11 have a layer a segment and say no more.
        layer = _whole(texts.get(f"Segment{number}_Layer"), place if len(layers) > 1 else 0)
        value = _whole(texts.get(f"Segment{number}_LabelValue"), 1)
        if not 0 <= layer < len(layers):
            raise BadInputError(
                f"{path} is damaged: segment {number} lies on layer {layer}, and there are {len(layers)}.",
                "Save the segmentation again.",
            )
        segments.append(SegNrrdSegment(_info(texts, number), layer, value))
    if len(layers) == 1:
        # The view is of the image's memory.
        layers = [layers[0].copy()]
    return SegNrrd(
        tuple(segments),
        Grid.of(image),
        _reference(texts.get("Segmentation_ConversionParameters", "")),
        layers,
        texts.get("LungSegmentation_Description", ""),
        texts.get("LungSegmentation_Algorithm", ""),
    )


def _texts(image: sitk.Image) -> dict[str, str]:
    """Return what an image says of itself; keys of Slicer and ours are ASCII, values may be in any character set."""
    return {
        key: image.GetMetaData(key).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for key in image.GetMetaDataKeys()
        if key.isascii()
    }


def _number(key: str) -> int | None:
    found = re.fullmatch(r"Segment(\d{1,9})_\w+", key, re.ASCII)
    return int(found[1]) if found else None


def _whole(text: str | None, otherwise: int) -> int:
    try:
        return int(text or "")
    except ValueError:
        return otherwise


def _info(texts: dict[str, str], number: int) -> SegmentInfo:
    tags = {
        name.strip(): value.strip()
        for name, colon, value in (tag.partition(":") for tag in texts.get(f"Segment{number}_Tags", "").split("|"))
        if colon
    }
    codes = tags.get("TerminologyEntry", "").split("~")
    kind, modifier = (_code(codes[place]) if len(codes) > place else None for place in (2, 3))
    return SegmentInfo(
        texts.get(f"Segment{number}_Name", "").strip(),
        texts.get(f"Segment{number}_ID", "").strip(),
        tags.get("TG263", ""),
        kind,
        modifier,
    )


def _code(text: str) -> CodedPair | None:
    scheme, _, rest = text.partition("^")
    value = rest.partition("^")[0]
    return (scheme, value) if scheme and value else None


def _reference(parameters: str) -> Grid | None:
    """Return the geometry that Slicer keeps: matrix to RAS and extent, 16 and 6 numbers; None if it is none."""
    for parameter in parameters.split("&"):
        name, _, rest = parameter.partition("|")
        if name != _REFERENCE:
            continue
        try:
            numbers = np.array([float(text) for text in rest.partition("|")[0].strip(";").split(";")])
        except ValueError:
            return None
        if numbers.shape != (22,) or not np.isfinite(numbers).all():
            return None
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ numbers[:16].reshape(4, 4)
        low, high = numbers[16::2], numbers[17::2]
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if (high < low).any() or not spacing.all():
            return None
        size, step = (high - low + 1).astype(int).tolist(), spacing.tolist()
        return Grid(
            (size[0], size[1], size[2]),
            (step[0], step[1], step[2]),
            tuple((matrix[:3, :3] @ low + matrix[:3, 3]).tolist()),
            tuple((matrix[:3, :3] / spacing).ravel().tolist()),
        )
    return None
