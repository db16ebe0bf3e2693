"""The pictures of an evaluation: spread of the scores, ranking, volumes against each other, and slices of a case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from LungSegmentationLib.figures.style import WINDOW, new_figure, overlaid, save, show_slice, structure_legend
from LungSegmentationLib.geometry import Grid, Reorientation
from LungSegmentationLib.structures import Labels, Mask, StructureMap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from LungSegmentationLib.labels import LabelSet

__all__ = ["CasePicture", "Panel", "Ranked", "bland_altman", "case_slices", "metrics_distribution", "structure_ranking"]

_EXPECTED = Patch(facecolor="0.75", edgecolor="none", alpha=0.5, label="expected")
_QUARTILES = Patch(facecolor="0.85", edgecolor="0.25", label="quartiles and median")
_FILL = 0.55
_MARGIN_MM = 20.0
_SPECK_MM2 = 25.0


@dataclass(frozen=True)
class Panel:
    """One metric in the picture of distributions.

    Attributes
    ----------
    title
        With its unit.
    values
        Structure key → values, one a case.
    limits
        Fixed ends of the axis, None to fit the values.
    expected
        Structure key → expected range.
    """

    title: str
    values: Mapping[str, Sequence[float]]
    limits: tuple[float, float] | None
    expected: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Ranked:
    """A bar of the ranking: mean and standard deviation of the Dice over ``count`` cases."""

    key: str
    mean: float
    std: float | None
    count: int


def metrics_distribution(panels: Sequence[Panel], label_set: LabelSet, path: Path) -> Path:
    """Draw, for each metric, a box and the single cases of each structure."""
    columns = 2
    rows = -(-len(panels) // columns)
    keys = [key for key in label_set.keys if any(panel.values.get(key) for panel in panels)]
    figure = new_figure(12, 1.3 + rows * (1.3 + 0.42 * max(len(keys), 3)))
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel, axis in zip(panels, axes.flat, strict=False):
        _distribution(axis, panel, keys, label_set)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    handles = [
        Line2D([], [], marker="o", linestyle="", color="0.25", markersize=4, label="one case"),
        *([_QUARTILES] if any(len(values) > 2 for panel in panels for values in panel.values.values()) else []),
        *([_EXPECTED] if any(panel.expected for panel in panels) else []),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return save(figure, path)


def _distribution(axis: Axes, panel: Panel, keys: Sequence[str], label_set: LabelSet) -> None:
    jitter = np.random.default_rng(0)
    for place, key in enumerate(keys):
        values = np.asarray(panel.values.get(key, ()), float)
        if key in panel.expected:
            low, high = panel.expected[key]
            axis.barh(place, high - low, left=low, height=0.8, color="0.75", alpha=0.5, zorder=0)
        if not len(values):
            continue
        if len(values) > 2:
            box = axis.boxplot(
                [values], positions=[place], orientation="horizontal", widths=0.5, showfliers=False, patch_artist=True
            )
            box["boxes"][0].set(facecolor=(*_unit(label_set, key), 0.55), edgecolor="0.25")
            box["medians"][0].set(color="black", linewidth=1.6)
        spots = place + jitter.uniform(-0.16, 0.16, len(values)) * (len(values) > 1)
        axis.scatter(values, spots, s=14, color=[_unit(label_set, key)], edgecolor="0.25", linewidth=0.6, zorder=3)
    axis.set_yticks(range(len(keys)), [label_set[key].name for key in keys])
    axis.set_ylim(len(keys) - 0.4, -0.6)
    axis.set_title(panel.title, loc="left", pad=10)
    if panel.limits:
        margin = 0.02 * (panel.limits[1] - panel.limits[0])
        axis.set_xlim(panel.limits[0] - margin, panel.limits[1] + margin)
    else:
        axis.set_xlim(left=0)
    _plain(axis)


def structure_ranking(
    ranked: Sequence[Ranked], expected: Mapping[str, tuple[float, float]], label_set: LabelSet, path: Path
) -> Path:
    """Draw the structures from the best mean Dice to the worst, with what is expected of each."""
    ordered = sorted(ranked, key=lambda one: -one.mean)
    figure = new_figure(9, 1.5 + 0.5 * max(len(ordered), 2))
    axis = figure.subplots()
    for place, one in enumerate(ordered):
        if one.key in expected:
            low, high = expected[one.key]
            axis.barh(place, high - low, left=low, height=0.9, color="0.75", alpha=0.5, zorder=0)
        axis.barh(place, one.mean, height=0.55, color=_unit(label_set, one.key), edgecolor="0.25", alpha=0.8)
        spread = f" ± {one.std:.3f}" if one.std is not None else ""
        if one.std is not None:
            axis.errorbar(one.mean, place, xerr=one.std, color="0.15", capsize=3, linewidth=1.2)
        cases = "1 case" if one.count == 1 else f"{one.count} cases"
        axis.text(1.02, place, f"{one.mean:.3f}{spread}   ({cases})", va="center", transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(ordered)), [label_set[one.key].name for one in ordered])
    axis.set_ylim(max(len(ordered), 1) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.set_title("Mean Dice, best structure first", loc="left")
    deviation = any(one.std is not None for one in ordered)
    handles: list[Any] = [
        *([Line2D([], [], color="0.15", label="standard deviation")] if deviation else []),
        *([_EXPECTED] if expected else []),
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    _plain(axis)
    return save(figure, path)


def bland_altman(volumes: Mapping[str, Sequence[tuple[float, float]]], label_set: LabelSet, path: Path) -> Path:
    """Draw the difference of volumes over their mean, one panel a structure.

    Parameters
    ----------
    volumes
        Structure key → (reference, prediction) in cm³, one a case.
    label_set
        Names and colors.
    path
        PNG.
    """
    keys = [key for key in label_set.keys if volumes.get(key)]
    columns = min(max(len(keys), 1), 4)
    rows = max(-(-len(keys) // columns), 1)
    figure = new_figure(max(3.1 * columns, 6), 0.9 + 2.6 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for key, axis in zip(keys, axes.flat, strict=False):
        pairs = np.asarray(volumes[key], float)
        means, differences = pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0]
        axis.axhline(0, color="0.6", linewidth=0.8)
        bias = float(differences.mean())
        axis.axhline(bias, color="black", linewidth=1.2)
        mean = f"{bias:+.1f}".replace("-", "\N{MINUS SIGN}")
        title = f"{label_set[key].name}: {mean}"
        reach = [np.abs(differences).max()]
        if len(differences) > 2:
            spread = 1.96 * float(differences.std(ddof=1))
            for limit in (bias - spread, bias + spread):
                axis.axhline(limit, color="black", linewidth=1, linestyle="--")
                reach.append(abs(limit))
            title += f" ± {spread:.1f} cc"
        else:
            title += " cc"
        axis.scatter(means, differences, s=22, color=[_unit(label_set, key)], edgecolor="0.25", linewidth=0.6, zorder=3)
        # Never so close that a difference of a few voxels looks like a fault.
        half = 1.15 * max(*reach, 0.02 * float(means.max()), 0.1)
        axis.set_ylim(-half, half)
        axis.margins(x=0.15)
        axis.set_title(title, fontsize=10)
        _plain(axis)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    figure.supxlabel("mean of reference and prediction, cc", fontsize=10)
    figure.supylabel("prediction − reference, cc", fontsize=10)
    return save(figure, path)


@dataclass(frozen=True)
class CasePicture:
    """What the picture of a case shows.

    Attributes
    ----------
    case
        Its name.
    reference, prediction
        Structures as drawn or label maps, uint8 (z, y, x).
    grid
        Of both.
    ct
        HU (z, y, x); None draws on black.
    keys
        Structures that were scored.
    """

    case: str
    reference: StructureMap | Labels
    prediction: StructureMap | Labels
    grid: Grid
    ct: NDArray[np.int16] | None
    keys: tuple[str, ...]


def case_slices(picture: CasePicture, label_set: LabelSet, path: Path) -> Path:
    """Draw CT, reference, prediction and both outlines on the best, the median and the worst slice.

    A slice's score is the mean Dice of the scored structures on it; what is below 25 mm² on both sides does not count
    there. Best and median are taken from the slices with at least half as many structures as the fullest one. Volumes
    of any orientation are shown in the axial view, the patient's right on the left.
    """
    turn = Reorientation.of(picture.grid)
    grid = turn.grid(picture.grid)
    sides = [_Side.of(side, label_set, turn, picture.keys) for side in (picture.reference, picture.prediction)]
    ct = np.full(grid.shape, WINDOW[0], np.int16) if picture.ct is None else turn.apply(picture.ct)
    chosen = _chosen_slices(sides[0], sides[1], grid)
    window = _window(sides, grid)
    aspect = grid.spacing[1] / grid.spacing[0]
    height = (window[0].stop - window[0].start) * aspect / (window[1].stop - window[1].start)
    figure = new_figure(14, 1.2 + max(len(chosen), 1) * (14 / 4 * height + 0.3))
    axes = figure.subplots(max(len(chosen), 1), 4, squeeze=False)
    for row, (word, z, score) in zip(axes, chosen, strict=False):
        image = ct[z][window]
        said = f"{word} slice, {z + 1} of {grid.shape[0]}" + (f": mean Dice {score:.3f}" if score is not None else "")
        show_slice(row[0], image, aspect, "", cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        row[0].set_title(said, loc="left", fontsize=10)
        for axis, side, title in ((row[1], sides[0], "reference"), (row[2], sides[1], "prediction")):
            show_slice(axis, overlaid(image, side.labels[z][window], label_set, _FILL), aspect, title)
        show_slice(row[3], image, aspect, "outlines", cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        for side, style in ((sides[0], "solid"), (sides[1], (0, (2, 1.5)))):
            _outlines(row[3], side, z, window, picture.keys, label_set, style)
    handles: list[Any] = [
        *structure_legend(label_set, picture.keys),
        Line2D([], [], color="0.2", label="reference"),
        Line2D([], [], color="0.2", linestyle=(0, (2, 1.5)), label="prediction"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 9), frameon=False)
    without = "" if picture.ct is not None else "   (no CT given)"
    figure.suptitle(f"{picture.case}{without}", parse_math=False)
    return save(figure, path)


@dataclass(frozen=True)
class _Side:
    """One side, turned to the axial view: labels for surfaces, masks for outlines."""

    labels: Labels
    values: Labels
    levels: dict[str, tuple[int, bool]]

    @classmethod
    def of(cls, side: StructureMap | Labels, label_set: LabelSet, turn: Reorientation, keys: Sequence[str]) -> _Side:
        drawn = isinstance(side, StructureMap)
        values = side.bits if isinstance(side, StructureMap) else side
        labels = side.label_map(keys) if isinstance(side, StructureMap) else _only(side, label_set, keys)
        levels = {key: (label_set[key].label, drawn) for key in keys}
        return cls(turn.apply(labels), turn.apply(values), levels)

    def mask(self, key: str, z: int) -> Mask:
        label, drawn = self.levels[key]
        plane = self.values[z]
        mask: Mask = (plane >> (label - 1) & 1) == 1 if drawn else plane == label
        return mask


def _only(labels: Labels, label_set: LabelSet, keys: Sequence[str]) -> Labels:
    table = np.zeros(256, np.uint8)
    for key in keys:
        table[label_set[key].label] = label_set[key].label
    kept: Labels = table[labels]
    return kept


def _chosen_slices(ours: _Side, theirs: _Side, grid: Grid) -> list[tuple[str, int, float | None]]:
    """Return word, index and score of the slices to show."""
    pixel = grid.spacing[0] * grid.spacing[1]
    scores = []
    for z in range(grid.shape[0]):
        if not (ours.labels[z].any() or theirs.labels[z].any()):
            continue
        dice = []
        for key in ours.levels:
            a, b = ours.mask(key, z), theirs.mask(key, z)
            areas = int(a.sum()), int(b.sum())
            if max(areas) * pixel >= _SPECK_MM2:
                dice.append(2 * np.count_nonzero(a & b) / sum(areas))
        if dice:
            scores.append((float(np.mean(dice)), len(dice), z))
    if not scores:
        return [("middle", grid.shape[0] // 2, None)]
    # Among equals the slice with most structures tells most; one with a few of them says little about the case.
    worst = min(scores, key=lambda item: (item[0], -item[1]))
    most = max(count for _, count, _ in scores)
    telling = sorted(item for item in scores if 2 * item[1] >= most)
    best = max(telling, key=lambda item: (item[0], item[1]))
    median = telling[len(telling) // 2]
    return [("best", best[2], best[0]), ("median", median[2], median[0]), ("worst", worst[2], worst[0])]


def _window(sides: Sequence[_Side], grid: Grid) -> tuple[slice, slice]:
    """Return rows and columns around all structures, with a margin."""
    seen = np.zeros(grid.shape[1:], bool)
    for side in sides:
        for plane in side.labels:
            seen |= plane > 0
    spans = []
    for axis, step in ((1, grid.spacing[1]), (0, grid.spacing[0])):
        found = np.flatnonzero(seen.any(axis=axis))
        size = seen.shape[1 - axis]
        margin = round(_MARGIN_MM / step)
        spans.append(
            slice(max(found[0] - margin, 0), min(found[-1] + 1 + margin, size)) if len(found) else slice(0, size)
        )
    return spans[0], spans[1]


def _outlines(
    axis: Axes, side: _Side, z: int, window: tuple[slice, slice], keys: Sequence[str], label_set: LabelSet, style: Any
) -> None:
    for key in keys:
        mask = side.mask(key, z)[window]
        if mask.any():
            # A frame of zeros closes outlines at the edge of the picture.
            framed = np.pad(mask, 1).astype(np.uint8)
            rows, columns = np.arange(framed.shape[0]) - 1, np.arange(framed.shape[1]) - 1
            axis.contour(
                columns, rows, framed, [0.5], colors=[_unit(label_set, key)], linewidths=1.3, linestyles=[style]
            )
    axis.set_xlim(-0.5, window[1].stop - window[1].start - 0.5)
    axis.set_ylim(window[0].stop - window[0].start - 0.5, -0.5)


def _unit(label_set: LabelSet, key: str) -> tuple[float, float, float]:
    red, green, blue = label_set[key].color
    return red / 255, green / 255, blue / 255


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="both", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
