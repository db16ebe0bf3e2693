"""The pictures of the preparation: HU to network input, a batch as it is learned, what the cohort holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from LungSegmentationLib.cohort.cache import CachedCase, open_case, read_cache_record
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.records import CohortRecord, read_record
from LungSegmentationLib.cohort.splits import PARTS, read_splits
from LungSegmentationLib.cohort.statistics import cohort_statistics
from LungSegmentationLib.cohort.weights import BACKGROUND, read_class_weights
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.figures.style import (
    colored,
    new_figure,
    overlaid,
    save,
    show_slice,
    structure_legend,
)
from LungSegmentationLib.labels import LabelSet, label_set_from_dict
from LungSegmentationLib.structures import label_table
from LungSegmentationLib.volumes import read_volume

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from LungSegmentationLib.cohort.cache import CacheRecord
    from LungSegmentationLib.cohort.statistics import CohortStatistics
    from LungSegmentationLib.cohort.weights import ClassWeights

__all__ = ["preparation_figures"]

PHASE_3 = "phase3_normalization.png"
PHASE_4 = "phase4_dataset_pytorch.png"
STATISTICS = "dataset_statistics.png"

SHOWN_SLICES = 5
PART_NAMES = {"train": "training", "val": "validation", "test": "test"}
PART_SHADES = {"train": "0.25", "val": "0.55", "test": "0.8"}
EPSILON = 1e-8
WIDE = (-1024.0, 1500.0)
NORMALIZED = (-2.5, 2.5)


def preparation_figures(cohort: Path, case: str | None = None) -> list[Path]:
    """Make the pictures of phases 3 and 4 in the cohort's ``figures``; none where the cohort is not prepared.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    case
        The case whose intensities are shown; by default the one with most annotated structures.

    Raises
    ------
    BadInputError
        If the cohort has no such case in its cache, or a damaged cache.
    """
    paths = CohortPaths(cohort)
    paths.require()
    names = paths.cached_names()
    if not names or read_splits(paths) is None:
        return []
    if case is not None and case not in names:
        raise BadInputError(f"{paths.root} has no prepared case “{case}”.", f"It has {', '.join(names[:8])}.")
    label_set = label_set_from_dict(read_record(CohortRecord, paths.cohort).label_set, paths.cohort)
    fullest = max((read_cache_record(paths, name) for name in names), key=lambda record: len(record.annotated))
    made = [
        _normalization(open_case(paths, case or fullest.case), paths),
        _batch(paths, label_set, fullest.case),
    ]
    statistics = cohort_statistics(paths)
    made.append(_statistics(statistics, read_class_weights(paths), paths.figures / STATISTICS))
    return made


def _richest(record: CacheRecord, count: int = 1) -> list[int]:
    """Return slices with many structures, spread over the case: the best one of each of ``count`` equal parts."""
    drawn = np.array(record.structure_counts)
    score = (drawn > 0).sum(axis=1) + drawn.sum(axis=1) / (drawn.sum() + 1.0)
    parts = np.array_split(np.arange(record.slices), min(count, record.slices))
    return [int(part[score[part].argmax()]) for part in parts]


def _normalized(hu: NDArray[Any], record: CacheRecord) -> NDArray[np.float64]:
    low, high = record.window
    result: NDArray[np.float64] = (np.clip(hu.astype(np.float64), low, high) - record.mean) / (record.std + EPSILON)
    return result


def _normalization(case: CachedCase, paths: CohortPaths) -> Path:
    record = case.record
    z = _richest(record)[0]
    low, high = record.window
    mapping = record.mapping
    native = mapping.reorientation.apply(sitk.GetArrayFromImage(read_volume(paths.case(case.name).ct)))[z]
    axial, clipped = mapping.axial, np.clip(case.ct[z], low, high)

    figure = new_figure(13, 8)
    images, curves = figure.subplots(2, 3, height_ratios=(1.35, 1))
    size, side = f"{native.shape[1]} × {native.shape[0]}", record.slice_size
    panels: list[tuple[Any, float, str, tuple[float, float], str]] = [
        (native, axial.spacing[1] / axial.spacing[0], f"CT, {size} at {axial.spacing[0]:.3g} mm", WIDE, "HU"),
        (clipped, 1.0, f"Resized to {side} × {side}, window {_signed(low)} … {_signed(high)} HU", (low, high), "HU"),
        (_normalized(case.ct[z], record), 1.0, "Network input: (HU − μ) / σ", NORMALIZED, "standard deviations"),
    ]
    for panel, (image, aspect, title, (dark, bright), unit) in zip(images, panels, strict=True):
        shown = show_slice(panel, image, aspect, title, cmap="gray", vmin=dark, vmax=bright)
        figure.colorbar(shown, ax=panel, shrink=0.8, label=unit, location="bottom", pad=0.02)

    values = np.asarray(case.ct)
    counts = np.bincount(np.clip(values, WIDE[0], WIDE[1]).astype(np.intp).ravel() - int(WIDE[0]))
    levels = np.arange(len(counts)) + WIDE[0]
    inside = np.clip(levels, low, high)
    _histogram(curves[0], levels, counts, "All voxels of the cached slices", f"HU ({WIDE[1]:g} stands for all above)")
    curves[0].axvspan(
        low, high, color="tab:blue", alpha=0.15, lw=0, zorder=0, label=f"window {_signed(low)} … {_signed(high)} HU"
    )
    curves[0].legend(loc="upper right")
    _histogram(curves[1], inside, counts, "Clipped to the window", "HU")
    _moments(curves[1], record.mean, record.std, f"μ = {_signed(round(record.mean))} HU, σ = {record.std:.0f} HU")
    scores = (inside - record.mean) / (record.std + EPSILON)
    _histogram(curves[2], scores, counts, "Normalized", "standard deviations")
    _moments(curves[2], 0.0, 1.0, "mean 0, standard deviation 1")
    view = "whole image" if record.field_of_view == "full" else "cropped to the body"
    figure.suptitle(f"{record.case}: from HU to network input   slice {z + 1} of {record.slices}, {view}")
    return save(figure, paths.figures / PHASE_3)


def _histogram(panel: Axes, values: NDArray[Any], counts: NDArray[np.intp], title: str, unit: str) -> None:
    share, edges = np.histogram(values, bins=100, weights=counts / counts.sum() * 100)
    panel.stairs(share, edges, fill=True, color="0.35")
    panel.set_yscale("log")
    panel.set_title(title)
    panel.set_xlabel(unit)
    panel.set_ylabel("% of voxels")
    panel.spines[["top", "right"]].set_visible(False)


def _moments(panel: Axes, mean: float, std: float, text: str) -> None:
    panel.axvspan(mean - std, mean + std, color="tab:orange", alpha=0.18, lw=0, zorder=0)
    panel.axvline(mean, color="tab:orange", lw=2, label=text)
    panel.legend(loc="upper right")


def _batch(paths: CohortPaths, label_set: LabelSet, fullest: str) -> Path:
    """Draw slices as they are learned: of several cases of the training part, or of one where there is no other."""
    split = read_splits(paths)
    known = set(paths.cached_names())
    names = [name for name in (split.train if split else ()) if name in known] or [fullest]
    records = sorted(
        (read_cache_record(paths, name) for name in names), key=lambda one: (-len(one.annotated), one.case)
    )
    chosen = records[:SHOWN_SLICES]
    picks = [(chosen[index % len(chosen)], index // len(chosen)) for index in range(SHOWN_SLICES)]
    per_case = -(-SHOWN_SLICES // len(chosen))
    figure = new_figure(14, 9)
    panels = figure.subplots(3, SHOWN_SLICES)
    table = label_table(label_set)
    for column, (record, turn) in enumerate(sorted(picks, key=lambda pick: (pick[0].case, pick[1]))):
        case = open_case(paths, record.case)
        slices = _richest(record, per_case)
        z = slices[min(turn, len(slices) - 1)]
        hu, labels = np.asarray(case.ct[z]), table[np.asarray(case.structures[z])]
        show_slice(
            panels[0, column],
            _normalized(hu, record),
            1.0,
            f"{_short(record.case)}\nslice {z + 1} of {record.slices}",
            cmap="gray",
            vmin=NORMALIZED[0],
            vmax=NORMALIZED[1],
        )
        show_slice(panels[1, column], colored(labels, label_set), 1.0, "")
        show_slice(panels[2, column], overlaid(hu, labels, label_set), 1.0, "")
    for row, text in enumerate(("input, normalized", "label map", "overlay")):
        panels[row, 0].set_axis_on()
        panels[row, 0].set(xticks=[], yticks=[], ylabel=text)
        panels[row, 0].spines[:].set_visible(False)
    figure.legend(
        handles=structure_legend(label_set, label_set.keys),
        loc="outside lower center",
        ncols=len(label_set),
        frameon=False,
    )
    side = records[0].slice_size
    figure.suptitle(
        f"Training slices as tensors: image float32 [batch, 1, {side}, {side}], labels uint8 [batch, {side}, {side}]"
    )
    return save(figure, paths.figures / PHASE_4)


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _short(name: str, longest: int = 22) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _statistics(statistics: CohortStatistics, weights: ClassWeights, path: Path) -> Path:
    label_set, parts = statistics.label_set, statistics.parts
    figure = new_figure(15, 8.6)
    (patients, slices, per_case), (drawn, frequency, weighting) = figure.subplots(2, 3)
    names = [PART_NAMES[part] for part in PARTS]

    shades = [PART_SHADES[part] for part in PARTS]
    bars = patients.bar(names, [parts[part].patients for part in PARTS], color=shades, edgecolor="0.2")
    _headed(patients, f"{statistics.patients} patients", "patients")
    patients.bar_label(bars, padding=2)
    patients.margins(y=0.15)

    shown = [parts[part].slices - parts[part].empty_slices for part in PARTS]
    empty = [parts[part].empty_slices for part in PARTS]
    slices.bar(names, shown, color=shades, edgecolor="0.2")
    bars = slices.bar(names, empty, bottom=shown, color="white", edgecolor="0.2", hatch="//")
    slices.bar_label(bars, [f"{parts[part].slices}" for part in PARTS], padding=2)
    slices.margins(y=0.15)
    _headed(slices, f"{statistics.slices} slices", "slices")

    most = len(label_set)
    bottom = np.zeros(most + 1)
    for part in PARTS:
        counts = np.bincount(parts[part].structures_per_case, minlength=most + 1).astype(float)
        per_case.bar(range(most + 1), counts, bottom=bottom, color=PART_SHADES[part], edgecolor="0.2")
        bottom += counts
    per_case.set_xticks(range(most + 1))
    per_case.set_xlabel("annotated structures")
    _headed(per_case, "Structures per case", "cases")

    keys = label_set.keys
    places = np.arange(len(keys))
    colors = ["#{:02x}{:02x}{:02x}".format(*structure.color) for structure in label_set.structures]
    left = np.zeros(len(keys))
    for part in PARTS:
        width = np.array([parts[part].cases_with[key] for key in keys], float)
        drawn.barh(places, width, left=left, color=PART_SHADES[part], edgecolor="0.2")
        left += width
    drawn.set_yticks(places, [structure.name for structure in label_set.structures])
    for place, count in zip(places, left, strict=True):
        drawn.annotate(f"{count:.0f}", (count, place), xytext=(4, 0), textcoords="offset points", va="center")
    drawn.invert_yaxis()
    drawn.set_xlim(0, max(1, statistics.cases) * 1.12)
    _headed(drawn, f"Drawn in so many of {statistics.cases} cases", "")
    drawn.set_xlabel("cases")
    drawn.xaxis.set_major_locator(MaxNLocator(integer=True))

    voxels = np.sum([parts[part].label_voxels for part in PARTS], axis=0)
    share = voxels / max(1, voxels.sum()) * 100
    rows = ["background", *(structure.name for structure in label_set.structures)]
    fills = ["0.3", *colors]
    frequency.barh(range(len(rows)), np.where(share > 0, share, np.nan), color=fills, edgecolor="0.2")
    frequency.set_xscale("log")
    frequency.set_yticks(range(len(rows)), rows)
    frequency.invert_yaxis()
    frequency.set_xlim(left=min(0.01, share[share > 0].min() / 3) if (share > 0).any() else 0.01, right=1000)
    for row, value in enumerate(share):
        text = f"{value:.3g} %" if value else "none"
        at = value or frequency.get_xlim()[0]
        frequency.annotate(text, (at, row), xytext=(4, 0), textcoords="offset points", va="center")
    frequency.xaxis.set_major_locator(FixedLocator([10.0**power for power in range(-8, 3)]))
    frequency.xaxis.set_minor_locator(NullLocator())
    _headed(frequency, "Label frequencies, all parts", "")
    frequency.set_xlabel("% of pixels (logarithmic)")

    values = [weights.weights.get(key, np.nan) for key in (BACKGROUND, *keys)]
    bars = weighting.barh(range(len(rows)), values, color=fills, edgecolor="0.2")
    weighting.bar_label(bars, [f"{value:.2f}" for value in values], padding=4)
    weighting.set_yticks(range(len(rows)), rows)
    weighting.invert_yaxis()
    weighting.margins(x=0.15)
    _headed(weighting, "Class weights of the training part", "")
    weighting.set_xlabel("weight in the loss (mean 1)")
    figure.legend(
        handles=[
            *(_swatch(PART_SHADES[part], PART_NAMES[part]) for part in PARTS),
            _swatch("white", "slices without structures", hatch="//"),
        ],
        loc="outside lower center",
        ncols=len(PARTS) + 1,
        frameon=False,
    )
    return save(figure, path)


def _headed(panel: Axes, title: str, ylabel: str) -> None:
    panel.set_title(title)
    panel.set_ylabel(ylabel)
    panel.spines[["top", "right"]].set_visible(False)
    if ylabel:
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))


def _swatch(color: str, label: str, hatch: str = "") -> Any:
    return Patch(facecolor=color, edgecolor="0.2", hatch=hatch, label=label)
