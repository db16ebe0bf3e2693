"""Which half of the patient each piece of a paired organ lies in, told from where the pair as a whole lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.pieces import Integers, Pieces

__all__ = ["Midline", "find_midline", "misplaced"]

SMOOTHING = 10.0
"""Width in mm over which the profile is smoothed: bronchi and vessels leave no valley."""

DEEPEST = 0.5
"""Part of the lower of both summits that the profile between them may have at most; one organ alone has no valley."""

SMALLEST_PIECE = 0.02
"""Part of the whole that a piece has at least to count for the midline: stray pieces do not move it."""

SMALLEST_SIDE = 0.1
"""Part of the whole that each side holds at least."""

CLEARLY = 0.95
"""Part of a piece that lies on the other side if it is to be moved."""

MARGIN = 10.0
"""Distance in mm of a piece's center from the midline if it is to be moved."""


@dataclass(frozen=True)
class Midline:
    """Plane of constant x (LPS) between two organs, in columns of a grid whose columns run to the patient's left.

    Attributes
    ----------
    column
        The first column that lies left of it, sheared as the grid is.
    spacing
        Millimeters from a column to the next, along x.
    """

    column: int
    spacing: float


def find_midline(pair: tuple[Pieces, Pieces], grid: Grid) -> Midline | None:
    """Find the plane between two paired organs, whichever piece is called what.

    The profile of their large pieces along x (voxels a column) has two summits and a valley between them; the plane
    lies in the middle of the valley, so that a mediastinum that is shifted to one side takes it along. Where there is
    no clear valley, for example after a pneumonectomy, there is no such plane.

    Parameters
    ----------
    pair
        Pieces of the one and of the other organ.
    grid
        Of the volume, as near to LPS axial as it can be turned.
    """
    whole = sum(int(pieces.sizes.sum()) for pieces in pair)
    large = [pieces.within(pieces.sizes >= SMALLEST_PIECE * whole) for pieces in pair]
    starts = np.concatenate([_columns(pieces, grid) for pieces in large])
    ends = starts + np.concatenate([pieces.runs.lengths for pieces in large])
    if not starts.size:
        return None
    first = int(starts.min())
    count = int(ends.max()) - first + 1
    profile = np.cumsum(np.bincount(starts - first, minlength=count) - np.bincount(ends - first, minlength=count))
    spacing = float(grid.axes[0, 0] * grid.spacing[0])
    width = max(1, round(SMOOTHING / spacing))
    smooth = np.convolve(profile, np.full(width, 1 / width), mode="same")
    summit = np.minimum(np.maximum.accumulate(smooth), np.maximum.accumulate(smooth[::-1])[::-1])
    depth = summit - smooth
    # Where nothing lies between both, the valley is as wide as the gap: its middle counts.
    deepest = np.flatnonzero(depth >= depth.max() * (1 - 1e-9))
    place = int(deepest[len(deepest) // 2])
    sides = profile[:place].sum(), profile[place:].sum()
    if smooth[place] > DEEPEST * summit[place] or min(sides) < SMALLEST_SIDE * sum(sides):
        return None
    return Midline(place + first, spacing)


def misplaced(pieces: Pieces, grid: Grid, midline: Midline, *, right: bool) -> NDArray[np.bool_]:
    """Tell the pieces that clearly lie in the other half of the patient than they should.

    Parameters
    ----------
    pieces
        Of one organ.
    grid, midline
        As for :func:`find_midline`, and its result.
    right
        Whether the organ belongs into the patient's right half.
    """
    starts, lengths = _columns(pieces, grid), pieces.runs.lengths
    on_the_right = pieces.totals(np.clip(midline.column - starts, 0, lengths))
    center = pieces.totals(lengths * (starts + (lengths - 1) / 2)) / np.maximum(pieces.sizes, 1)
    beyond = (center + 0.5 - midline.column) * midline.spacing
    elsewhere = pieces.sizes - on_the_right
    if not right:
        beyond, elsewhere = -beyond, on_the_right
    wrong: NDArray[np.bool_] = (elsewhere >= CLEARLY * pieces.sizes) & (beyond >= MARGIN)
    return wrong


def _columns(pieces: Pieces, grid: Grid) -> Integers:
    """Return the first column of each run, moved by what x changes from row to row and from slice to slice."""
    runs = pieces.runs
    along = grid.axes[0] * np.asarray(grid.spacing)
    moved: Integers = runs.x + np.round((along[1] * runs.y + along[2] * runs.z) / along[0]).astype(np.int64)
    return moved
