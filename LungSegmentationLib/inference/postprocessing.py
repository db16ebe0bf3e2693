"""What is mended in a prediction: stray pieces, holes, pieces of a lung on the other side.

The rules are the label set's. Everything happens on the native grid, on pieces and never on single voxels, and each
change is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.errors import LungSegError
from LungSegmentationLib.geometry import Grid, Reorientation
from LungSegmentationLib.inference.pieces import (
    CORNERS,
    FACES,
    FACES_IN_PLANE,
    Pieces,
    Runs,
    find_pieces,
    find_runs,
)
from LungSegmentationLib.inference.sides import find_midline, misplaced
from LungSegmentationLib.labels import LabelSet, Postprocessing, load_label_set
from LungSegmentationLib.structures import StructureMap

__all__ = ["PostprocessingResult", "Rules", "postprocess", "rules_of"]

Rules = Mapping[str, Postprocessing]

_TAKEN = np.uint8(255)
"""Stands for a voxel that was taken from its structure and given to none yet; no exclusive map holds it."""

_MOST = 0.1
"""Part of a pair above which a side is more than a stray piece."""

_SLIVER = 0.0005
"""cm³ below which a volume is told as voxels."""


@dataclass(frozen=True)
class PostprocessingResult:
    """A prediction after it was mended.

    Attributes
    ----------
    structures
        On the same grid; the input itself if nothing was changed.
    changes
        One sentence for each kind of change of each structure.
    """

    structures: StructureMap
    changes: tuple[str, ...]


def rules_of(label_set: LabelSet) -> dict[str, Postprocessing]:
    """Return what a label set says by structure key.

    A set that says nothing at all, as one written before there was such a setting, has the rules of the shipped set
    of its name, if that is the same set.
    """
    own = {one.key: one.postprocessing for one in label_set.structures if one.postprocessing is not None}
    if own:
        return own
    try:
        shipped = load_label_set(label_set.name)
    except LungSegError:
        return {}
    if shipped != label_set:
        return {}
    return {one.key: one.postprocessing for one in shipped.structures if one.postprocessing is not None}


def postprocess(
    structures: StructureMap,
    grid: Grid,
    keys: Iterable[str],
    rules: Rules | None = None,
    *,
    exclusive: bool,
) -> PostprocessingResult:
    """Mend predicted structures: sides, then stray pieces, then holes.

    A piece is a set of voxels that share at least a corner (26 neighbors): thin organs run obliquely through thick
    slices. A hole is a set of voxels outside that share faces (6 neighbors, 4 in a slice) and is enclosed.

    Sides: a piece of a paired organ goes to the mirror partner if it clearly lies in the other half of the patient
    (:mod:`~LungSegmentationLib.inference.sides`); if that would exchange most of both, it is only said, because then
    the CT's orientation is to be doubted and not the network.

    In an exclusive map a piece that is removed becomes what it borders on most (a speck of tumor in a lung becomes
    lung, one beside it background), and only voxels that belong to nothing are filled. Otherwise each structure is
    mended as if it were alone, but for holes of which half belongs to what is painted over it: a tumor in a lung that
    was drawn without it stays no lung.

    Parameters
    ----------
    structures
        The prediction; not changed.
    grid
        Its grid, LPS, in any orientation.
    keys
        Structures that were predicted; no other is touched, and none but these and the background gains a voxel.
    rules
        By structure key. Default: :func:`rules_of` the label set.
    exclusive
        Whether each voxel belongs to one structure at most.

    Returns
    -------
    PostprocessingResult
        The same input gives the same result. Beside the result it takes some ten bytes a voxel of the structures'
        surfaces, and a byte a voxel of the volume where the grid is not axial.

    Raises
    ------
    BadInputError
        If a key is not in the label set.
    """
    label_set = structures.label_set
    if structures.shape != grid.shape:
        raise ValueError(f"structures of shape {structures.shape} do not lie on a grid of shape {grid.shape}")
    rules = rules_of(label_set) if rules is None else rules
    wanted = {label_set[key].key for key in keys}
    wanted = {key for key in label_set.keys if key in wanted and rules.get(key, Postprocessing()) != Postprocessing()}
    if not wanted or not structures.bits.any():
        return PostprocessingResult(structures, ())
    turn = Reorientation.of(grid)
    bits = np.array(turn.apply(structures.bits), order="C", copy=True)
    work = _Work(bits, turn.grid(grid), label_set, rules, wanted, exclusive)
    changes = (*work.exchange_sides(), *work.remove_pieces(), *work.fill_holes())
    if not work.touched:
        return PostprocessingResult(structures, changes)
    return PostprocessingResult(StructureMap(label_set, np.ascontiguousarray(turn.undo(bits))), changes)


class _Work:
    """The bits on their way; slices of ``bits`` are axial."""

    def __init__(
        self,
        bits: NDArray[np.uint8],
        grid: Grid,
        label_set: LabelSet,
        rules: Rules,
        keys: set[str],
        exclusive: bool,
    ) -> None:
        self.bits, self.grid, self.label_set, self.rules = bits, grid, label_set, rules
        self.keys, self.exclusive = keys, exclusive
        self.touched = False
        self.pieces: dict[str, Pieces] = {}
        occupied = np.bitwise_or.reduce(bits, axis=0)
        self.rows, self.columns = _span(occupied.any(1)), _span(occupied.any(0))

    def bit(self, key: str) -> np.uint8:
        return np.uint8(1 << (self.label_set[key].label - 1))

    def name(self, key: str) -> str:
        return self.label_set[key].name

    def told(self, voxels: int) -> str:
        volume = voxels * self.grid.voxel_volume
        if volume < _SLIVER:
            return f"{voxels} voxel{'s' if voxels > 1 else ''}"
        return f"{volume:.1f} cc" if volume >= 1 else f"{volume:.2g} cc"

    def pieces_of(self, key: str) -> Pieces:
        """Return the pieces of a structure as it is now."""
        if key not in self.pieces:
            self.pieces[key] = find_pieces(self.runs_where(self.bit(key)), CORNERS)
        return self.pieces[key]

    def runs_where(self, bit: np.uint8) -> Runs:
        drawn = self.bits[:, self.rows, self.columns]
        images = ((z, image & bit != 0) for z, image in enumerate(drawn))
        return find_runs(self.bits.shape, images, (self.rows.start, self.columns.start))

    def exchange_sides(self) -> Iterator[str]:
        for key in self.label_set.keys:
            partner = self.label_set.mirrored(key).key
            if not {key, partner} <= self.keys or self.rules[key].side != "right" or partner == key:
                continue
            if self.rules[partner].side == "left":
                yield from self._exchange(key, partner)

    def _exchange(self, right: str, left: str) -> Iterator[str]:
        pair = self.pieces_of(right), self.pieces_of(left)
        midline = find_midline(pair, self.grid)
        if midline is None:
            return
        wrong = (
            misplaced(pair[0], self.grid, midline, right=True),
            misplaced(pair[1], self.grid, midline, right=False),
        )
        moved = [int(pieces.sizes[which].sum()) for pieces, which in zip(pair, wrong, strict=True)]
        sizes = [int(pieces.sizes.sum()) for pieces in pair]
        if all(part > max(size / 2, _MOST * sum(sizes)) for part, size in zip(moved, sizes, strict=True)):
            yield (
                f"{self.name(right)} and {self.name(left)}: each lies where the other should, and both were left so; "
                "look at the orientation of the CT."
            )
            return
        taken = [pieces.chosen(which) for pieces, which in zip(pair, wrong, strict=True)]
        for place, (key, partner, half) in enumerate(((right, left, "left"), (left, right, "right"))):
            count = int(wrong[place].sum())
            if count:
                self._give(taken[place], self.bit(key), self.bit(partner))
                yield (
                    f"{self.name(key)}: {_pieces(count)} {self.told(moved[place])} in the patient's {half} half "
                    f"became {self.name(partner)}."
                )

    def _give(self, runs: Runs, taken: np.uint8, given: np.uint8) -> None:
        self.touched = True
        self.pieces.clear()
        voxels = self.bits.reshape(-1)
        for indices in runs.indices():
            voxels[indices] = (voxels[indices] & ~taken) | given

    def remove_pieces(self) -> Iterator[str]:
        removed: dict[str, tuple[int, int]] = {}
        lost: list[tuple[str, Runs]] = []
        for key in self.label_set.keys:
            rule = self.rules[key] if key in self.keys else Postprocessing()
            if rule.most_pieces is None and rule.min_cc <= 0:
                continue
            pieces = self.pieces_of(key)
            gone = pieces.sizes * self.grid.voxel_volume < rule.min_cc * (1 - 1e-9)
            if rule.most_pieces is not None:
                # Of pieces of one size that come first stay: the order is that of their places.
                order = np.argsort(-pieces.sizes, kind="stable")
                gone[order[rule.most_pieces :]] = True
            if gone.any():
                lost.append((key, pieces.chosen(gone)))
                removed[key] = int(gone.sum()), int(pieces.sizes[gone].sum())
        # What stays is told from what goes for all structures first: no stray piece becomes a part of another one.
        for key, runs in lost:
            if self.exclusive:
                self._give(runs, np.uint8(255), _TAKEN)
            else:
                self._give(runs, self.bit(key), np.uint8(0))
        became = self._give_back() if self.exclusive and lost else {}
        for key, (count, voxels) in removed.items():
            yield f"{self.name(key)}: {_pieces(count)} {self.told(voxels)} removed."
        for key, voxels in became.items():
            yield f"{self.name(key)}: {self.told(voxels)} gained where other structures' pieces in it were removed."

    def _give_back(self) -> dict[str, int]:
        """Give the voxels that were taken to what surrounds them; return what each structure gained, in voxels."""
        pieces = find_pieces(self._taken_runs(), CORNERS)
        kinds = self._kinds()
        table = np.full(256, len(kinds), np.int64)
        for kind, bits in enumerate(kinds):
            table[bits] = kind
        counts = pieces.around(lambda z, y, x: table[self.bits[z, y, x]], len(kinds) + 1)
        # The first of several that border on it equally: background, then by label. What else there is gains nothing.
        winners = counts[:, : len(kinds)].argmax(1)
        gained = {}
        for kind, bits in enumerate(kinds):
            runs = pieces.chosen(winners == kind)
            if not len(runs):
                continue
            self._give(runs, np.uint8(255), bits)
            if kind:
                gained[self.label_set.by_label(int(bits).bit_length()).key] = int(runs.lengths.sum())
        return gained

    def _taken_runs(self) -> Runs:
        drawn = self.bits[:, self.rows, self.columns]
        images = ((z, image == _TAKEN) for z, image in enumerate(drawn))
        return find_runs(self.bits.shape, images, (self.rows.start, self.columns.start))

    def _kinds(self) -> list[np.uint8]:
        return [np.uint8(0), *(self.bit(key) for key in self.label_set.keys)]

    def fill_holes(self) -> Iterator[str]:
        # What is painted last lies inside of what is painted first, and takes its own holes before that does.
        for key in reversed(self.label_set.paint_order):
            rule = self.rules[key] if key in self.keys else Postprocessing()
            if rule.fill_holes == "none":
                continue
            # What is enclosed in three dimensions is enclosed in each of its slices too.
            found = self._holes(key, in_plane=rule.fill_holes == "slices")
            if len(found):
                self._give(found.runs, np.uint8(0), self.bit(key))
                count = "1 hole of" if len(found) == 1 else f"{len(found)} holes of together"
                yield f"{self.name(key)}: {count} {self.told(int(found.sizes.sum()))} filled."

    def _holes(self, key: str, *, in_plane: bool) -> Pieces:
        """Return what a structure encloses and, in an exclusive map, belongs to nothing and borders on it."""
        bit, box = self.bit(key), self._box(key)
        if box is None:
            return find_pieces(Runs(self.bits.shape, *np.zeros((2, 0), np.int64)), FACES)
        connectivity = FACES_IN_PLANE if in_plane else FACES
        depth, rows, columns = box
        corner = rows.start, columns.start
        images = ((z, self.bits[z, rows, columns] & bit == 0) for z in range(depth.start, depth.stop))
        outside = find_pieces(find_runs(self.bits.shape, images, corner), connectivity)
        runs = outside.runs
        at_border = (runs.y == rows.start) | (runs.y == rows.stop - 1)
        at_border |= (runs.x == columns.start) | (runs.x + runs.lengths == columns.stop)
        if not in_plane:
            at_border |= (runs.z == depth.start) | (runs.z == depth.stop - 1)
        enclosed = outside.within(outside.totals(at_border.astype(np.int64)) == 0)
        most = self.rules[key].max_hole_cc / self.grid.voxel_volume * (1 + 1e-9)
        voxels = self.bits.reshape(-1)
        if not len(enclosed):
            return enclosed
        if not self.exclusive:
            order = self.label_set.paint_order
            inner = sum(int(self.bit(one)) for one in order[order.index(key) + 1 :])
            counts = enclosed.counts(lambda indices: voxels[indices] & np.uint8(inner) != 0)
            return enclosed.within((enclosed.sizes <= most) & (2 * counts < enclosed.sizes))
        free = np.concatenate([indices[voxels[indices] == 0] for indices in enclosed.runs.indices()])
        empty = find_pieces(Runs.of_indices(self.bits.shape, free), connectivity)
        empty = empty.within(empty.sizes <= most)
        table = (np.arange(256) & bit != 0).astype(np.int64)
        around = empty.around(lambda z, y, x: table[self.bits[z, y, x]], 2, in_plane=in_plane)
        return empty.within(around[:, 1] > 0)

    def _box(self, key: str) -> tuple[slice, slice, slice] | None:
        runs = self.pieces[key].runs if key in self.pieces else self.runs_where(self.bit(key))
        if not len(runs):
            return None
        spans = ((runs.z, runs.z + 1), (runs.y, runs.y + 1), (runs.x, runs.x + runs.lengths))
        z, y, x = (slice(int(low.min()), int(high.max())) for low, high in spans)
        return z, y, x


def _span(values: NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(values)
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)


def _pieces(count: int) -> str:
    return "1 piece of" if count == 1 else f"{count} pieces of together"
