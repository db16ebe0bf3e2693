"""A CT series as one volume of HU on its native grid, or a refusal that says why it is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.header_reader import DICOMDIR, FileStart, fetch, quiet_parser, read_header
from LungSegmentationLib.dicom.images import CT_CLASSES, MOST_VOXELS, ImageInfo, image_info
from LungSegmentationLib.dicom.pixels import AIR, ScaleNotes, check_pixels, stored_frames, to_hu
from LungSegmentationLib.dicom.slices import Arrangement, arrange
from LungSegmentationLib.errors import BadInputError, GeometryError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

    from LungSegmentationLib.dicom.scan import CTSeries

__all__ = ["CTVolume", "read_ct", "read_grid"]

# One volume and its files' headers; threads overlap the disk with the arithmetic, which releases the interpreter.
THREADS = 4


@dataclass(frozen=True)
class CTVolume:
    """A CT series in HU.

    Attributes
    ----------
    array
        int16 HU (z, y, x), −1024 … 32767, on the native grid.
    grid
        The grid of ``array``: axes along a row, along a column, along the slice normal (row × column); LPS, mm.
    series_uid, study_uid, patient_id, frame_of_reference_uid, description
        As in the files.
    sop_instance_uids
        One a slice, None where a slice was interpolated; the same UID for all frames of a multi-frame file.
    interpolated_slices
        Indices of the slices that no file holds.
    warnings
        What a user should know, in sentences.
    """

    array: NDArray[np.int16]
    grid: Grid
    series_uid: str
    study_uid: str
    patient_id: str
    frame_of_reference_uid: str
    description: str
    sop_instance_uids: tuple[str | None, ...]
    interpolated_slices: tuple[int, ...]
    warnings: tuple[str, ...]

    @cached_property
    def image(self) -> sitk.Image:
        """The volume as an image, a copy that is made when it is first asked for."""
        return self.grid.image(self.array)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a frame of a file goes."""

    file: int
    frame: int


def read_ct(files: CTSeries | Sequence[Path], *, threads: int = THREADS) -> CTVolume:
    """Read the slices of one CT series into a volume.

    Parameters
    ----------
    files
        A series of :func:`~LungSegmentationLib.dicom.scan.scan`, or the files of one, in any order.
    threads
        Files read at the same time.

    Returns
    -------
    CTVolume
        Nothing is resampled; one missing slice is interpolated and named.

    Raises
    ------
    GeometryError
        The slices do not form one regular grid: tilted, distances that vary, several at one position with different
        content, mixed orientations or sizes. The message gives the positions.
    UnsupportedFileError
        A file is no CT slice.
    BadInputError
        A file is damaged, or claims what it does not hold; slope or intercept are missing in a part of the slices.
    StorageError
        A file cannot be read.
    """
    paths = [Path(path) for path in (files if isinstance(files, Sequence) else files.files)]
    if not paths:
        raise BadInputError("There are no files to read a CT from.")
    with quiet_parser(), ThreadPoolExecutor(max(1, threads)) as pool:
        infos = [_read_info(start) for start in pool.map(fetch, paths)]
        _check_one_series(infos)
        _check_scales(infos)
        places = [_Place(f, n) for f, info in enumerate(infos) for n in range(len(info.frames))]
        frames = [infos[place.file].frames[place.frame] for place in places]
        rows, columns = infos[0].rows, infos[0].columns
        if len(places) * rows * columns > MOST_VOXELS:
            raise BadInputError(
                f"{paths[0].parent}: {len(places)} slices of {columns} × {rows} pixels are no CT volume."
            )
        arrangement = arrange(frames, [paths[place.file] for place in places], rows, columns)
        volume = np.empty(arrangement.grid.shape, np.int16)
        slot_of = {places[group[0]]: slot for slot, group in enumerate(arrangement.slots) if group}
        notes = ScaleNotes()
        wanted = sorted({place.file for place in slot_of})
        for each in pool.map(lambda file: _fill(infos[file], file, slot_of, volume), wanted):
            _add(notes, each)
    doubles = _drop_doubles(infos, places, arrangement, volume)
    missing = tuple(slot for slot, group in enumerate(arrangement.slots) if not group)
    for slot in missing:
        volume[slot] = np.rint((volume[slot - 1].astype(np.float32) + volume[slot + 1]) / 2)
    first = infos[0]
    return CTVolume(
        array=volume,
        grid=arrangement.grid,
        series_uid=first.series_uid,
        study_uid=first.study_uid,
        patient_id=first.patient_id,
        frame_of_reference_uid=first.frame_of_reference_uid,
        description=first.description,
        sop_instance_uids=tuple(
            infos[places[group[0]].file].sop_instance_uid if group else None for group in arrangement.slots
        ),
        interpolated_slices=missing,
        warnings=(*arrangement.warnings, *doubles, *_header_warnings(infos), *_scale_warnings(notes)),
    )


def read_grid(files: CTSeries | Sequence[Path], *, threads: int = THREADS) -> Grid:
    """Return the grid that :func:`read_ct` would give, from the headers alone.

    Raises
    ------
    GeometryError, UnsupportedFileError, BadInputError, StorageError
        Where the headers alone already say why :func:`read_ct` would refuse the series.
    """
    paths = [Path(path) for path in (files if isinstance(files, Sequence) else files.files)]
    if not paths:
        raise BadInputError("There are no files to read a CT from.")
    with quiet_parser(), ThreadPoolExecutor(max(1, threads)) as pool:
        infos = [_read_info(start) for start in pool.map(fetch, paths)]
    _check_one_series(infos)
    _check_scales(infos)
    frames = [(frame, info.path) for info in infos for frame in info.frames]
    return arrange([f for f, _ in frames], [path for _, path in frames], infos[0].rows, infos[0].columns).grid


def _read_info(start: FileStart) -> ImageInfo:
    path, header = start.path, read_header(start)
    modality, sop_class = header.text("Modality"), header.sop_class
    if (modality and modality != "CT") or (sop_class in _NOT_CT):
        raise UnsupportedFileError(f"{path}: this is no CT slice ({modality or 'no modality'}).", "Leave it out.")
    info = image_info(header)
    if info.is_localizer:
        raise UnsupportedFileError(f"{path}: this is a localizer, not a slice.", "Leave it out.")
    check_pixels(info)
    return info


_NOT_CT = {
    DICOMDIR: "DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.481.1": "RT image",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
}


def _check_one_series(infos: Sequence[ImageInfo]) -> None:
    first = infos[0]
    for info in infos:
        for name, own, others in (
            ("series", info.series_uid, first.series_uid),
            ("patient", info.patient_id, first.patient_id),
            ("frame of reference", info.frame_of_reference_uid, first.frame_of_reference_uid),
        ):
            if own != others:
                raise GeometryError(
                    f"{info.path}: this slice is of another {name} than {first.path.name}.",
                    "Read one series at a time.",
                )
        if (info.rows, info.columns) != (first.rows, first.columns):
            raise GeometryError(
                f"{info.path}: this slice is {info.columns} × {info.rows} pixels, but {first.path.name} is "
                f"{first.columns} × {first.rows}.",
                "Leave out slices of another size.",
            )


def _check_scales(infos: Sequence[ImageInfo]) -> None:
    """Refuse a series where a part of the slices does not say how to get HU: a thousand HU too high looks like bone.

    Where no slice says it, the values may be HU already; where the others say 1 and 0, it makes no difference.
    """
    frames = [frame for info in infos for frame in info.frames]
    for name, neutral, values in (
        ("slope", 1.0, [frame.slope for frame in frames]),
        ("intercept", 0.0, [frame.intercept for frame in frames]),
    ):
        given = sorted({value for value in values if value is not None})
        missing = values.count(None)
        if missing and given and given != [neutral]:
            shown = ", ".join(f"{value:g}" for value in given[:4]) + (", …" if len(given) > 4 else "")
            raise BadInputError(
                f"{infos[0].path.parent}: the rescale {name} is missing in {missing} of {len(values)} slices and "
                f"{shown} in the others, so the HU of these slices are unknown.",
                "Export the series again.",
            )


def _fill(info: ImageInfo, file: int, slot_of: dict[_Place, int], volume: NDArray[np.int16]) -> ScaleNotes:
    notes = ScaleNotes()
    for number, stored in enumerate(stored_frames(info)):
        slot = slot_of.get(_Place(file, number))
        if slot is not None:
            to_hu(stored, info, info.frames[number], volume[slot], notes)
    return notes


def _add(total: ScaleNotes, part: ScaleNotes) -> None:
    total.no_slope += part.no_slope
    total.no_intercept += part.no_intercept
    total.too_high += part.too_high
    total.beyond_bits += part.beyond_bits
    total.fine_slope += part.fine_slope
    total.padding_in_tissue = total.padding_in_tissue or part.padding_in_tissue


def _drop_doubles(
    infos: Sequence[ImageInfo], places: Sequence[_Place], arrangement: Arrangement, volume: NDArray[np.int16]
) -> tuple[str, ...]:
    """Compare further slices at a position with the one that was taken; refuse where they differ."""
    dropped = 0
    for slot, group in enumerate(arrangement.slots):
        for index in group[1:]:
            place = places[index]
            info = infos[place.file]
            hu = np.empty(volume.shape[1:], np.int16)
            for number, stored in enumerate(stored_frames(info)):
                if number == place.frame:
                    to_hu(stored, info, info.frames[number], hu, ScaleNotes())
            if not np.array_equal(hu, volume[slot]):
                raise GeometryError(
                    _crowded(infos, places, arrangement), "The series mixes several scans: import them one by one."
                )
            dropped += 1
    return (f"{dropped} slice(s) are there twice with the same content; each was taken once.",) if dropped else ()


def _crowded(infos: Sequence[ImageInfo], places: Sequence[_Place], arrangement: Arrangement) -> str:
    crowded = [group for group in arrangement.slots if len(group) > 1]
    shown = []
    for group in crowded[:3]:
        place = places[group[0]]
        position = infos[place.file].frames[place.frame].position or ()
        shown.append(f"{len(group)} at ({', '.join(f'{value:.6g}' for value in position)}) mm")
    more = f" and at {len(crowded) - 3} more positions" if len(crowded) > 3 else ""
    folder = infos[places[crowded[0][0]].file].path.parent
    return f"{folder}: several slices with different content lie at one position: {', '.join(shown)}{more}."


def _header_warnings(infos: Sequence[ImageInfo]) -> Iterator[str]:
    first = infos[0]
    if not first.modality:
        basis = "their SOP class" if first.sop_class in CT_CLASSES else "what they hold"
        yield f"The files do not give a modality; they were taken for CT by {basis}."
    if any(info.photometric == "MONOCHROME1" for info in infos):
        yield "The files are MONOCHROME1 (dark is dense on screen); HU are not changed by that."
    if any(info.study_uid != first.study_uid for info in infos):
        yield "The files of the series name more than one study; the first one was taken."
    units = {info.rescale_type for info in infos} - {"", "HU"}
    if units:
        yield f"The files give their values as “{', '.join(sorted(units))}”, not as HU; they were taken as HU."
    derived = {"\\".join(info.image_type) for info in infos if _is_map(info)}
    if derived:
        yield f"The images are a derived map ({', '.join(sorted(derived))}): the values may not be HU."


def _is_map(info: ImageInfo) -> bool:
    return any(word.upper() in {"PERFUSION", "SUBTRACTION", "ENERGY_PROP_WT"} for word in info.image_type)


def _scale_warnings(notes: ScaleNotes) -> Iterator[str]:
    if notes.no_slope or notes.no_intercept:
        parts = [
            f"{name} is missing in {count} slice(s) and was taken as {value}"
            for name, count, value in (("the slope", notes.no_slope, 1), ("the intercept", notes.no_intercept, 0))
            if count
        ]
        yield f"For HU {', '.join(parts)}."
    if notes.too_high:
        yield f"{notes.too_high} voxel(s) lie above 32767 HU and were clipped."
    if notes.beyond_bits:
        yield f"{notes.beyond_bits} stored value(s) use more bits than the header says; the bits beyond were ignored."
    if notes.fine_slope:
        yield f"{notes.fine_slope} slice(s) have values finer than 1 HU; they were rounded."
    if notes.padding_in_tissue:
        yield (
            f"The padding value is {notes.padding_in_tissue} HU, which tissue has as well; it was left as it is "
            f"and not set to {AIR} HU."
        )
