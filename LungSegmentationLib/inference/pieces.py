"""Connected pieces of a volume from the runs of its rows: no label volume, so that memory follows the structures.

A run is a stretch of voxels of one row. Its place is counted in a volume with an empty column behind each row and an
empty row behind each slice, so that what lies beside the border of the volume is never a neighbor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["Connectivity", "Pieces", "Runs", "find_pieces", "find_runs"]

Integers = NDArray[np.int64]

_CHUNK = 1 << 20
"""Voxels that are looked at one by one at a time: bounds the memory."""


@dataclass(frozen=True)
class Connectivity:
    """Which voxels are neighbors: steps (slice, row) to later rows, and whether columns may differ by one as well."""

    steps: tuple[tuple[int, int], ...]
    diagonal: bool


FACES = Connectivity(((0, 1), (1, 0)), diagonal=False)
CORNERS = Connectivity(((0, 1), (1, -1), (1, 0), (1, 1)), diagonal=True)
FACES_IN_PLANE = Connectivity(((0, 1),), diagonal=False)


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a volume, in the order of their places.

    Attributes
    ----------
    shape
        Of the volume: slices, rows, columns.
    starts, ends
        Place of the first voxel, and of the one behind the last, int64.
    """

    shape: tuple[int, int, int]
    starts: Integers
    ends: Integers

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def pitch(self) -> int:
        """Places from a row to the next."""
        return self.shape[2] + 1

    @property
    def plane(self) -> int:
        """Places from a slice to the next."""
        return (self.shape[1] + 1) * self.pitch

    @property
    def lengths(self) -> Integers:
        """Voxels of each run."""
        return self.ends - self.starts

    @cached_property
    def z(self) -> Integers:
        """Slice of each run."""
        found: Integers = self.starts // self.plane
        return found

    @cached_property
    def y(self) -> Integers:
        """Row of each run."""
        found: Integers = self.starts % self.plane // self.pitch
        return found

    @cached_property
    def x(self) -> Integers:
        """Column of each run's first voxel."""
        found: Integers = self.starts % self.pitch
        return found

    def chosen(self, which: NDArray[np.bool_]) -> Runs:
        """Return some of the runs."""
        return Runs(self.shape, self.starts[which], self.ends[which])

    def indices(self) -> Iterator[Integers]:
        """Yield the places of all voxels in the volume itself, as its array in C order has them, in parts."""
        _, rows, columns = self.shape
        firsts = (self.z * rows + self.y) * columns + self.x
        for part in _in_chunks(self.lengths):
            yield _stretched(firsts[part], self.lengths[part])

    @classmethod
    def of_indices(cls, shape: tuple[int, int, int], indices: Integers) -> Runs:
        """Make runs of ascending places in the volume's array in C order."""
        _, rows, columns = shape
        row = indices // columns
        places = indices + row + row // rows * (columns + 1)
        if not places.size:
            return cls(shape, places, places)
        edges = np.flatnonzero(np.diff(places) != 1)
        return cls(shape, places[np.r_[0, edges + 1]], places[np.r_[edges, len(places) - 1]] + 1)


def find_runs(
    shape: tuple[int, int, int],
    images: Iterable[tuple[int, NDArray[np.bool_]]],
    corner: tuple[int, int] = (0, 0),
) -> Runs:
    """Find the runs of a volume.

    Parameters
    ----------
    shape
        Of the volume: slices, rows, columns.
    images
        Slices in ascending order, each with its voxels; slices left out are empty.
    corner
        Row and column of the volume where the images' first pixel lies.
    """
    pitch = shape[2] + 1
    plane = (shape[1] + 1) * pitch
    starts, ends = [], []
    for z, image in images:
        rows, columns = image.shape
        padded = np.zeros(rows * (columns + 1) + 1, np.bool_)
        padded[1:].reshape(rows, columns + 1)[:, :columns] = image
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        # From the narrow image's places to those of the volume.
        places = edges + (edges // (columns + 1)) * (pitch - columns - 1) + z * plane + corner[0] * pitch + corner[1]
        starts.append(places[::2])
        ends.append(places[1::2])
    if not starts:
        return Runs(shape, np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Runs(shape, np.concatenate(starts).astype(np.int64), np.concatenate(ends).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Pieces:
    """Runs, and the connected piece that each belongs to.

    Attributes
    ----------
    runs
        All of them.
    numbers
        Piece of each run, from 0 in the order of their first voxels.
    sizes
        Voxels of each piece.
    """

    runs: Runs
    numbers: Integers
    sizes: Integers

    def __len__(self) -> int:
        return len(self.sizes)

    def chosen(self, which: NDArray[np.bool_]) -> Runs:
        """Return the runs of some pieces."""
        return self.runs.chosen(which[self.numbers])

    def totals(self, values: NDArray[np.float64] | Integers) -> NDArray[np.float64]:
        """Sum a value of each run over each piece."""
        found: NDArray[np.float64] = np.bincount(self.numbers, weights=values, minlength=len(self)).astype(np.float64)
        return found

    def within(self, which: NDArray[np.bool_]) -> Pieces:
        """Return some pieces, numbered anew in the same order."""
        order = np.cumsum(which) - 1
        return Pieces(self.chosen(which), order[self.numbers[which[self.numbers]]], self.sizes[which])

    def counts(self, holds: Callable[[Integers], NDArray[np.bool_]]) -> Integers:
        """Count the voxels of each piece for which ``holds`` is true, given their places in the volume's array."""
        found = np.zeros(len(self), np.int64)
        for part, indices in zip(_in_chunks(self.runs.lengths), self.runs.indices(), strict=True):
            own = np.repeat(self.numbers[part], self.runs.lengths[part])
            found += np.bincount(own[holds(indices)], minlength=len(found))
        return found

    def around(
        self, look: Callable[[Integers, Integers, Integers], Integers], kinds: int, *, in_plane: bool = False
    ) -> Integers:
        """Count what borders on each piece, a voxel's face at a time.

        Parameters
        ----------
        look
            Given slices, rows and columns: the kind of each voxel, 0 … ``kinds`` − 1.
        kinds
            How many kinds there are. Voxels of the piece itself are counted too: give them a kind of their own.
        in_plane
            Leave out the slices below and above.

        Returns
        -------
        array of int64, shape (pieces, kinds)
        """
        counts = np.zeros(len(self) * kinds, np.int64)
        depth, rows, columns = self.runs.shape
        for part in _in_chunks(self.runs.lengths):
            lengths = self.runs.lengths[part]
            own = np.repeat(self.numbers[part], lengths)
            z, y = np.repeat(self.runs.z[part], lengths), np.repeat(self.runs.y[part], lengths)
            x = _stretched(self.runs.x[part], lengths)
            for dz, dy, dx in ((0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0)):
                if dz and in_plane:
                    continue
                there = (z + dz >= 0) & (z + dz < depth) & (y + dy >= 0) & (y + dy < rows)
                there &= (x + dx >= 0) & (x + dx < columns)
                kind = look(z[there] + dz, y[there] + dy, x[there] + dx)
                counts += np.bincount(own[there] * kinds + kind, minlength=len(counts))
        return counts.reshape(len(self), kinds)


def find_pieces(runs: Runs, connectivity: Connectivity) -> Pieces:
    """Join runs into connected pieces."""
    if not len(runs):
        return Pieces(runs, np.zeros(0, np.int64), np.zeros(0, np.int64))
    ones, others = [], []
    reach = int(connectivity.diagonal)
    for slices, rows in connectivity.steps:
        step = slices * runs.plane + rows * runs.pitch
        first = np.searchsorted(runs.ends, runs.starts + step - reach, "right")
        last = np.searchsorted(runs.starts, runs.ends + step + reach, "left")
        counts = np.maximum(last - first, 0)
        ones.append(np.repeat(np.arange(len(runs)), counts))
        others.append(_stretched(first, counts))
    rows_, columns = np.concatenate(ones), np.concatenate(others)
    links = coo_array((np.ones(len(rows_), np.int8), (rows_, columns)), shape=(len(runs), len(runs)))
    count, found = connected_components(links, directed=False)
    # Numbered by where they begin, whatever the order in which SciPy meets them.
    beginnings = np.full(count, len(runs))
    np.minimum.at(beginnings, found, np.arange(len(runs)))
    ranks = np.empty(count, np.int64)
    ranks[np.argsort(beginnings)] = np.arange(count)
    pieces = Pieces(runs, ranks[found], np.zeros(count, np.int64))
    return replace(pieces, sizes=pieces.totals(runs.lengths).astype(np.int64))


def _in_chunks(lengths: Integers) -> Iterator[slice]:
    """Yield stretches of runs with about ``_CHUNK`` voxels each."""
    groups = np.cumsum(lengths) // _CHUNK
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(lengths)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def _stretched(firsts: Integers, lengths: Integers) -> Integers:
    """Return first, first + 1 … for each of several stretches, one behind the other."""
    found: Integers = np.repeat(firsts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    return found
