"""From the positions of single slices to one regular grid, or to a refusal that says which positions do not fit.

The slices are put in order along the normal of their own plane, row × column, so that the third axis of the grid points
along increasing position whatever the orientation of the patient. Nothing is resampled: what cannot be described by one
regular grid without moving a voxel is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.images import Frame
from LungSegmentationLib.errors import GeometryError
from LungSegmentationLib.geometry import Grid

__all__ = ["Arrangement", "arrange", "axes_of", "distances"]

# Two slices closer than this are at one position: headers round positions to 0.01 mm at worst.
SAME_POSITION: Final = 0.02
# Unit vectors of two slices that differ by less are parallel: 0.06°, or 0.25 mm at the edge of a field of 500 mm.
SAME_DIRECTION: Final = 1e-3
# A slice may lie off its place by rounding: this much in mm, or this part of the spacing.
OFF_PLACE: Final = 0.02
OFF_PLACE_PART: Final = 0.02
# How far the first pixels may wander sideways: rounding, and the rounding of the direction over the extent.
SIDEWAYS: Final = 0.1
SIDEWAYS_PART: Final = 5e-4

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Arrangement:
    """Frames in the order of a volume.

    Attributes
    ----------
    slots
        For each slice of the volume the indices of the frames at its position; empty where a slice is missing.
    grid
        The grid of the volume.
    warnings
        What a user should know.
    """

    slots: tuple[tuple[int, ...], ...]
    grid: Grid
    warnings: tuple[str, ...]


def axes_of(orientation: Sequence[float], path: Path) -> tuple[Vector, Vector, Vector]:
    """Return the unit vectors along a row, along a column, and their normal (row × column), LPS.

    Raises
    ------
    GeometryError
        The two vectors are no unit vectors at a right angle.
    """
    row, column = np.asarray(orientation[:3], float), np.asarray(orientation[3:], float)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not all(abs(length - 1) <= 0.01 for length in lengths) or abs(row @ column) > SAME_DIRECTION:
        shown = ", ".join(f"{value:g}" for value in orientation)
        raise GeometryError(
            f"{path}: Image Orientation ({shown}) is not two unit vectors at a right angle.", "Export the series again."
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    # Adding zero turns −0.0 into 0.0, which reads better in a header.
    return row + 0.0, column + 0.0, np.cross(row, column) + 0.0


def distances(frames: Sequence[Frame], path: Path) -> Vector:
    """Return the positions of slices along their common normal in mm; those of one orientation only."""
    normal = axes_of(_given(frames[0].orientation, path, "orientation"), path)[2]
    return np.array([np.asarray(_given(frame.position, path, "position")) @ normal for frame in frames])


def arrange(frames: Sequence[Frame], paths: Sequence[Path], rows: int, columns: int) -> Arrangement:
    """Put slices in order and check that they form one regular grid.

    Parameters
    ----------
    frames
        The slices, in any order.
    paths
        The file of each, for messages.
    rows, columns
        Size of every slice in pixels.

    Raises
    ------
    GeometryError
        A position, orientation or pixel spacing is missing or differs; the slices are sheared (gantry tilt), their
        distances vary, or more than one slice is missing. The message gives the positions.
    """
    folder = paths[0].parent if len(paths) > 1 else paths[0]
    row, column, normal = axes_of(_given(frames[0].orientation, paths[0], "orientation"), paths[0])
    spacing = _given(frames[0].spacing, paths[0], "pixel spacing")
    for index, (frame, path) in enumerate(zip(frames, paths, strict=True)):
        if index == 0 or (frame.orientation, frame.spacing) != (frames[0].orientation, spacing):
            _check_like_first(frame, path, (row, column), spacing, paths[0])
    positions = np.array([_given(frame.position, path, "position") for frame, path in zip(frames, paths, strict=True)])
    if np.abs(positions).max() > 1e5:
        raise GeometryError(f"{folder}: a slice lies more than 100 m from the origin.", "The header is damaged.")
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    groups = _same_place(along, order)
    place = np.array([along[group[0]] for group in groups])
    sideways = np.array([positions[group[0]] @ np.stack([row, column], axis=1) for group in groups])
    _check_shear(positions, along, np.stack([row, column], axis=1), min(spacing), folder)
    warnings = []
    if len(groups) == 1:
        thickness = frames[0].thickness
        step, missing = thickness or 1.0, None
        source = "the slice thickness" if thickness else "1 mm, a guess, because the file gives no thickness"
        warnings.append(f"The series has a single slice; its extent is {source}.")
    else:
        step, missing = _regular_step(place, folder)
        thickness = frames[0].thickness
        if len(groups) < 3:
            warnings.append(f"The series has only {len(groups)} slices, {step:g} mm apart.")
        if thickness and step > 1.5 * thickness:
            warnings.append(
                f"The slices are {thickness:g} mm thick and lie {step:g} mm apart: there are gaps between them."
            )
    slots = [tuple(group) for group in groups]
    if missing is not None:
        slots.insert(missing, ())
        warnings.append(
            f"One slice is missing at {place[0] + missing * step:.2f} mm along the series; it was interpolated "
            "from its two neighbors."
        )
    inside = np.median(sideways, axis=0)
    first = row * inside[0] + column * inside[1] + normal * place[0]
    if len(groups) == 1 or np.abs(sideways - sideways[0]).max() == 0:
        first = positions[groups[0][0]]
    grid = Grid(
        size=(columns, rows, len(slots)),
        spacing=(float(spacing[1]), float(spacing[0]), float(step)),
        origin=(float(first[0]), float(first[1]), float(first[2])),
        direction=tuple(float(value) for value in np.stack([row, column, normal], axis=1).ravel()),
    )
    return Arrangement(tuple(slots), grid, tuple(warnings))


def _given(value: tuple[float, ...] | None, path: Path, name: str) -> tuple[float, ...]:
    if value is None:
        raise GeometryError(
            f"{path}: the slice has no {name}, so its place in the patient is unknown.", "Leave it out."
        )
    return value


def _check_like_first(
    frame: Frame, path: Path, axes: tuple[Vector, Vector], spacing: tuple[float, ...], first: Path
) -> None:
    row, column, _ = axes_of(_given(frame.orientation, path, "orientation"), path)
    if max(np.abs(row - axes[0]).max(), np.abs(column - axes[1]).max()) > SAME_DIRECTION:
        raise GeometryError(
            f"{path}: the slice is oriented otherwise than {first.name}: "
            f"{_shown(frame.orientation or ())} and {_shown([*axes[0], *axes[1]])}.",
            "Leave out slices of another orientation (localizers, reformats).",
        )
    own = _given(frame.spacing, path, "pixel spacing")
    if not all(0.01 <= value <= 100 for value in own):
        raise GeometryError(f"{path}: Pixel Spacing is {_shown(own)} mm.", "The header is damaged.")
    if any(abs(a - b) > 1e-4 * abs(b) for a, b in zip(own, spacing, strict=True)):
        raise GeometryError(
            f"{path}: Pixel Spacing is {_shown(own)} mm, but {_shown(spacing)} mm in {first.name}.",
            "Leave out slices of another size.",
        )


def _same_place(along: Vector, order: NDArray[np.intp]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in order.tolist():
        if groups and along[index] - along[groups[-1][0]] <= SAME_POSITION:
            groups[-1].append(index)
        else:
            groups.append([index])
    for group in groups:
        group.sort()
    return groups


def _check_shear(positions: Vector, along: Vector, plane: NDArray[np.float64], pixel: float, folder: Path) -> None:
    """Refuse slices whose first pixels do not lie on one line along the normal."""
    sideways = positions @ plane
    extent = float(np.ptp(along))
    drift = sideways - sideways[int(np.argmin(along))]
    worst = float(np.linalg.norm(drift, axis=1).max())
    if worst <= min(SIDEWAYS + SIDEWAYS_PART * extent, pixel / 2):
        return
    ends = f"from position {_shown(positions[np.argmin(along)])} to {_shown(positions[np.argmax(along)])} mm"
    if extent > 0:
        lever = along - along.min()
        slope = (lever @ drift) / (lever @ lever)
        if np.linalg.norm(drift - np.outer(lever, slope), axis=1).max() <= SIDEWAYS + SIDEWAYS_PART * extent:
            angle = np.degrees(np.arctan(np.linalg.norm(slope)))
            raise GeometryError(
                f"{folder}: the slices are tilted: they move {np.linalg.norm(slope) * extent:.2f} mm sideways over "
                f"{extent:.2f} mm, a gantry tilt of {angle:.1f}°, {ends}.",
                "Resample the series to upright slices on the scanner or in the planning system.",
            )
    raise GeometryError(
        f"{folder}: the slices do not lie over one another: their positions differ sideways by up to {worst:.2f} mm, "
        f"{ends}.",
        "The series may mix several scans: import them one by one.",
    )


def _regular_step(place: Vector, folder: Path) -> tuple[float, int | None]:
    """Return the distance of slices, and the index of the one missing slice."""
    count = len(place)
    if _off_place(place, np.arange(count)):
        return float(place[-1] - place[0]) / (count - 1), None
    steps = np.diff(place)
    usual = float(np.median(steps))
    wide = np.flatnonzero(steps > 1.5 * usual)
    if count >= 4 and len(wide) == 1:
        index = np.arange(count) + (np.arange(count) > wide[0])
        if _off_place(place, index):
            return float(place[-1] - place[0]) / count, int(wide[0]) + 1
    raise GeometryError(f"{folder}: the distances of the slices vary: {_steps(place)}.", _cure(len(wide)))


def _off_place(place: Vector, index: NDArray[np.int_]) -> bool:
    step = (place[-1] - place[0]) / index[-1]
    off = np.abs(place - place[0] - index * step).max()
    return bool(off <= max(OFF_PLACE, OFF_PLACE_PART * step))


def _cure(wide: int) -> str:
    if wide:
        return "Slices are missing: copy the whole series again."
    return "Reconstruct the series with one slice distance."


def _steps(place: Vector) -> str:
    """Say runs of equal distances with the positions where they begin and end."""
    runs: list[tuple[float, int, int]] = []
    for index, step in enumerate(np.diff(place)):
        if runs and abs(step - runs[-1][0]) <= OFF_PLACE:
            runs[-1] = (runs[-1][0], runs[-1][1], index + 1)
        else:
            runs.append((float(step), index, index + 1))
    texts = [f"{step:.2f} mm from {place[begin]:.2f} to {place[end]:.2f} mm" for step, begin, end in runs]
    return "; ".join(texts[:6]) + (f"; and {len(texts) - 6} more changes" if len(texts) > 6 else "")


def _shown(values: Sequence[float] | Vector) -> str:
    return "(" + ", ".join(f"{float(value):.6g}" for value in values) + ")"
