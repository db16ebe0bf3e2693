"""Contours in mm become voxels of a grid: exact even-odd at pixel centers, matched to the slices by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.dicom.contour_rules import Outline, combine, exclusive, likeness, union
from LungSegmentationLib.dicom.rtstruct import Contour, ContourType
from LungSegmentationLib.dicom.scanline import REACH, Patch, fill
from LungSegmentationLib.errors import GeometryError
from LungSegmentationLib.geometry import Grid

__all__ = ["ContourReport", "RoiMask", "rasterize"]

MAX_TILT = 0.5
"""Depth in slice spacings that one contour may span and still lie on one slice."""

SAME_PLANE = 0.1
"""Distance in mm (and in slice spacings) up to which contours on one slice lie in one plane."""

TIE = 1e-3
"""Slice spacings by which a plane midway between two slices may be off and still go to the upper one."""

OFF_SLICE = 0.5
"""Distance in mm (or tenth of the slice spacing, if that is more) up to which a plane lies on a slice."""

SHORT_GAP = 3
"""Slices that may be missing between two outlines that overlap at all and still be a hole in one stack."""

ALIKE = 0.5
"""Part of their union that two outlines share if they are of one stack, however many slices are missing between."""

BATCH_PIXELS = 1 << 26
"""Pixels of contours' bounding boxes that are filled at once: bounds the memory."""

MAX_SLICE_PIXELS = 1 << 28

Floats = NDArray[np.float64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class ContourReport:
    """What became of an ROI's contours.

    ``contours`` is the sum of ``used`` and of the reasons from ``too_few_points`` to ``without_voxels``.

    Attributes
    ----------
    contours, used
        How many there were, how many shaped the mask (as area or as hole).
    too_few_points
        ``POINT`` contours and contours of one or two points.
    open
        ``OPEN_PLANAR`` and ``OPEN_NONPLANAR``: lines, which enclose nothing.
    unreadable
        With coordinates that are no numbers or far beyond any patient.
    outside
        More than half a slice above or below the volume, or beside it.
    not_parallel
        Spanning more than half a slice spacing in depth.
    other_plane
        On a slice that has contours in a plane nearer to it.
    duplicates
        Covering the same area as another one.
    without_voxels
        Too small or too thin to hold a pixel center.
    cut_off
        Used, but reaching beyond the border of the volume.
    unknown_type
        Used as closed contours though the file gives no known type.
    holes, overlaps
        Areas cut out of others; pairs of areas that overlap in part and were united.
    off_slice
        Used, but in a plane more than ``OFF_SLICE`` from its slice.
    slices_with_gaps
        Slices without a contour inside one stack of contours: the outlines next below and above overlap and at most
        ``SHORT_GAP`` slices are missing, or the outlines share ``ALIKE`` of their union. What lies between separate
        stacks, as of several tumors in one ROI, is no gap.
    farthest
        Largest distance in mm between a used contour's plane and its slice.
    """

    contours: int
    used: int = 0
    too_few_points: int = 0
    open: int = 0
    unreadable: int = 0
    outside: int = 0
    not_parallel: int = 0
    other_plane: int = 0
    duplicates: int = 0
    without_voxels: int = 0
    cut_off: int = 0
    unknown_type: int = 0
    holes: int = 0
    overlaps: int = 0
    off_slice: int = 0
    slices_with_gaps: tuple[int, ...] = ()
    farthest: float = 0.0

    def warnings(self, roi_name: str) -> list[str]:
        """Return a plain sentence for all that a user should look at."""
        sentences = []
        for name, (one, many) in _FACTS.items():
            count = getattr(self, name)
            if count:
                noun = "contour" if self.contours == 1 else "contours"
                sentences.append(f"{count} of {self.contours} {noun} {one if count == 1 else many}")
        if self.overlaps:
            times = "once" if self.overlaps == 1 else f"{self.overlaps} times"
            sentences.append(f"areas of one slice overlap in part ({times}) and were united")
        if self.off_slice:
            lies = "contour lies" if self.off_slice == 1 else f"of {self.contours} contours lie"
            slices = "slice it was" if self.off_slice == 1 else "slices they were"
            sentences.append(f"{self.off_slice} {lies} up to {self.farthest:.2g} mm from the {slices} put on")
        if self.slices_with_gaps:
            count = len(self.slices_with_gaps)
            sentences.append(
                f"{count} {'slice has' if count == 1 else 'slices have'} no contour between contours of one stack"
            )
        if self.contours and not self.used:
            sentences.append("none of its contours could be used")
        return [f"ROI “{roi_name}”: {sentence}." for sentence in sentences]


# What happened to one contour, and to several.
_FACTS = {
    "too_few_points": ("has one or two points and encloses nothing", "have one or two points and enclose nothing"),
    "open": ("is an open line and encloses nothing", "are open lines and enclose nothing"),
    "unreadable": (
        "has coordinates that cannot be meant and was left out",
        "have coordinates that cannot be meant and were left out",
    ),
    "outside": ("lies outside the volume", "lie outside the volume"),
    "not_parallel": (
        "is not parallel to the slices and was left out",
        "are not parallel to the slices and were left out",
    ),
    "other_plane": (
        "was left out, because another plane is nearer to its slice",
        "were left out, because another plane is nearer to their slice",
    ),
    "duplicates": (
        "covers the same area as another one and counts once",
        "cover the same area as another one and count once",
    ),
    "without_voxels": ("is too small to hold the center of a pixel", "are too small to hold the center of a pixel"),
    "cut_off": (
        "reaches beyond the volume and was cut off at its border",
        "reach beyond the volume and were cut off at its border",
    ),
    "unknown_type": ("has no known type and was taken as closed", "have no known type and were taken as closed"),
}


@dataclass(frozen=True, eq=False)
class RoiMask:
    """Voxels of one ROI.

    Attributes
    ----------
    box
        Part of the grid (z, y, x) that holds all voxels; empty slices if there are none.
    voxels
        bool, of the box's shape.
    report
        What became of the contours.
    """

    box: Box
    voxels: NDArray[np.bool_]
    report: ContourReport

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.voxels))

    def full(self, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Return the mask on a whole grid of this shape (z, y, x)."""
        mask = np.zeros(shape, bool)
        mask[self.box] = self.voxels
        return mask


@dataclass(frozen=True, eq=False)
class _Placed:
    """A contour on its slice: points (n, 3) as continuous indices x, y, z, and their smallest and largest."""

    points: Floats
    low: Floats
    high: Floats
    type: ContourType
    slice: int
    depth: float
    cut: bool


def rasterize(contours: Sequence[Contour], grid: Grid) -> RoiMask:
    """Find the voxels whose centers lie inside an ROI.

    Contours are closed polygons with sub-pixel vertices in any orientation of the grid. Each goes to the slice that is
    nearest to its plane; where planes of a finer CT meet on one slice, the nearest plane counts. What the contours of
    a slice mean together is told in :func:`~LungSegmentationLib.dicom.contour_rules.combine`.

    Parameters
    ----------
    contours
        Of one ROI: points in LPS, mm, in the frame of reference of the grid.
    grid
        The voxels.

    Raises
    ------
    GeometryError
        If one slice holds so many large contours that they cannot be meant.
    """
    counts: Counter[str] = Counter()
    placed = _on_nearest_plane(_placed(contours, grid, counts), grid, counts)
    by_slice: dict[int, list[_Placed]] = {}
    for contour in placed:
        by_slice.setdefault(contour.slice, []).append(contour)
    joined: list[tuple[int, Patch]] = []
    for batch in _batches(by_slice, grid):
        polygons = [one.points[:, :2] for index in batch for one in by_slice[index]]
        patches = iter(fill(polygons, grid.size[1], grid.size[0]))
        for index in batch:
            patch = _joined([(one, next(patches)) for one in by_slice[index]], grid, counts)
            if patch is not None:
                joined.append((index, patch))
    distances = [abs(one.depth - one.slice) * grid.spacing[2] for one in placed]
    report = ContourReport(
        len(contours),
        **counts,
        off_slice=sum(distance > max(OFF_SLICE, 0.1 * grid.spacing[2]) for distance in distances),
        slices_with_gaps=_gaps(joined, by_slice),
        farthest=round(max(distances, default=0.0), 6),
    )
    return _mask(joined, report)


def _placed(contours: Sequence[Contour], grid: Grid, counts: Counter[str]) -> list[_Placed]:
    """Bring closed contours to index space and to the slice nearest to their plane."""
    closed = []
    for contour in contours:
        if contour.type in {ContourType.OPEN_PLANAR, ContourType.OPEN_NONPLANAR}:
            counts["open"] += 1
        elif contour.type is ContourType.POINT or len(contour.points) < 3:
            counts["too_few_points"] += 1
        else:
            closed.append(contour)
    if not closed:
        return []
    sizes = [len(contour.points) for contour in closed]
    starts = np.cumsum([0, *sizes[:-1]])
    points = np.concatenate([contour.points for contour in closed])
    points = grid.to_index(np.where(np.isfinite(points), points, np.nan))
    points[~(np.abs(points) <= REACH).all(1)] = np.nan
    # A minimum is NaN where any value is.
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    depths = (low[:, 2] + high[:, 2]) / 2
    size = np.asarray(grid.size)
    result = []
    for contour, start, length, lowest, highest, depth in zip(
        closed, starts.tolist(), sizes, low, high, depths.tolist(), strict=True
    ):
        if not np.isfinite(depth) or not np.isfinite(lowest[0]):
            counts["unreadable"] += 1
        elif highest[2] - lowest[2] > MAX_TILT:
            counts["not_parallel"] += 1
        elif (
            not -0.5 - TIE <= depth <= size[2] - 0.5 + TIE
            or (highest[:2] < -0.5).any()
            or (lowest[:2] > size[:2] - 0.5).any()
        ):
            counts["outside"] += 1
        else:
            cut = bool((lowest[:2] < -0.5).any() or (highest[:2] > size[:2] - 0.5).any())
            index = min(max(int(np.floor(depth + 0.5 + TIE)), 0), grid.size[2] - 1)
            result.append(_Placed(points[start : start + length], lowest, highest, contour.type, index, depth, cut))
    return result


def _on_nearest_plane(placed: list[_Placed], grid: Grid, counts: Counter[str]) -> list[_Placed]:
    """Keep on each slice the contours of the plane that is nearest to it."""
    if not placed:
        return []
    planes = _planes(placed)
    tolerance = min(SAME_PLANE / grid.spacing[2], SAME_PLANE)
    nearest: dict[int, tuple[float, float]] = {}
    for contour, plane in zip(placed, planes, strict=True):
        candidate = (abs(contour.depth - contour.slice), plane)
        nearest[contour.slice] = min(nearest.get(contour.slice, candidate), candidate)
    kept = [
        contour
        for contour, plane in zip(placed, planes, strict=True)
        if abs(plane - nearest[contour.slice][1]) <= tolerance
    ]
    counts["other_plane"] += len(placed) - len(kept)
    return kept


def _planes(placed: list[_Placed]) -> list[float]:
    """Return where each contour's plane passes the middle of the ROI, in slices.

    Where contours are slightly tilted against the slices, those of one plane differ in depth, the more the farther
    apart they lie. The common tilt is found by least squares over all contours and taken out.
    """
    if all(contour.high[2] - contour.low[2] < TIE for contour in placed):
        return [contour.depth for contour in placed]
    means = np.array([contour.points.mean(0) for contour in placed])
    offsets = np.concatenate([contour.points - mean for contour, mean in zip(placed, means, strict=True)])
    slope = np.linalg.lstsq(offsets[:, :2], offsets[:, 2], rcond=None)[0]
    planes: list[float] = (means[:, 2] - (means[:, :2] - means[:, :2].mean(0)) @ slope).tolist()
    return planes


def _batches(by_slice: dict[int, list[_Placed]], grid: Grid) -> Iterator[list[int]]:
    """Yield slices in lots whose contours' bounding boxes fit into memory together."""
    lot: list[int] = []
    filled = 0
    for index, contours in by_slice.items():
        limit = np.array(grid.size[:2], float)
        low, high = (np.array([getattr(one, end)[:2] for one in contours]).clip(-1, limit) for end in ("low", "high"))
        pixels = int(np.prod(high - low + 2, axis=1).sum())
        if pixels > MAX_SLICE_PIXELS:
            raise GeometryError(
                f"A slice has {len(contours)} contours of one ROI that cover {pixels:.1e} pixels: this cannot be meant."
            )
        if lot and filled + pixels > BATCH_PIXELS:
            yield lot
            lot, filled = [], 0
        lot.append(index)
        filled += pixels
    if lot:
        yield lot


def _joined(contours: list[tuple[_Placed, Patch]], grid: Grid, counts: Counter[str]) -> Patch | None:
    """Join the contours of a slice; ``None`` if they hold no voxel."""
    filled = [(contour, patch) for contour, patch in contours if patch.pixels.any()]
    counts["without_voxels"] += len(contours) - len(filled)
    if not filled:
        return None
    spacing = np.asarray(grid.spacing[:2])
    counts["cut_off"] += sum(contour.cut for contour, _ in filled)
    counts["unknown_type"] += sum(contour.type is ContourType.UNKNOWN for contour, _ in filled)
    outlines = [
        Outline(contour.points[:, :2] * spacing, patch)
        for contour, patch in filled
        if contour.type is not ContourType.CLOSEDPLANAR_XOR
    ]
    toggled = [patch for contour, patch in filled if contour.type is ContourType.CLOSEDPLANAR_XOR]
    parts = [exclusive(toggled)] if toggled else []
    counts["used"] += len(filled)
    if outlines:
        closed = combine(outlines, float(spacing.min()))
        counts.update({"duplicates": closed.duplicates, "holes": closed.holes, "overlaps": closed.overlaps})
        counts["used"] -= closed.duplicates
        parts.append(closed.patch)
    return union(parts)


def _gaps(joined: Sequence[tuple[int, Patch]], drawn: Collection[int]) -> tuple[int, ...]:
    """Return the slices without a contour that lie inside one stack of contours."""
    gaps: list[int] = []
    for (low, below), (high, above) in pairwise(sorted(joined, key=lambda one: one[0])):
        missing = [index for index in range(low + 1, high) if index not in drawn]
        if missing and likeness(below, above) > (0 if len(missing) <= SHORT_GAP else ALIKE):
            gaps += missing
    return tuple(gaps)


def _mask(joined: list[tuple[int, Patch]], report: ContourReport) -> RoiMask:
    joined = [(index, patch) for index, patch in joined if patch.pixels.any()]
    if not joined:
        return RoiMask((slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), bool), report)
    low = np.min([(index, patch.row, patch.column) for index, patch in joined], axis=0)
    high = np.max([(index + 1, *patch.end) for index, patch in joined], axis=0)
    voxels = np.zeros(high - low, bool)
    for index, patch in joined:
        top, left = patch.row - low[1], patch.column - low[2]
        rows, columns = patch.pixels.shape
        voxels[index - low[0], top : top + rows, left : left + columns] = patch.pixels
    z, y, x = (slice(int(begin), int(end)) for begin, end in zip(low, high, strict=True))
    return RoiMask((z, y, x), voxels, report)
