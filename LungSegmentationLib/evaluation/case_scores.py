"""Scores of one case: every structure that the reference holds, and which structure was taken for which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.evaluation.metrics import SURFACE_TOLERANCE
from LungSegmentationLib.evaluation.overlap import Layers, Overlap, count_pairs
from LungSegmentationLib.evaluation.surface import surface_distances
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.structures import Labels, StructureMap

__all__ = ["CaseScores", "Confusion", "Outcome", "Segmentation", "StructureScore", "score_case", "scores_of_case"]

Segmentation: TypeAlias = StructureMap | Labels
"""Every structure as drawn, or one label a voxel, uint8 (z, y, x)."""

Box = tuple[slice, slice, slice]


class Outcome(StrEnum):
    """What there was to compare."""

    COMPARED = "compared"
    MISSED = "missed"
    FALSE_ALARM = "false_alarm"
    BOTH_EMPTY = "both_empty"


@dataclass(frozen=True)
class StructureScore:
    """Scores of one structure of one case; ``None`` where a score is not defined (``Docs/evaluation.md``).

    Attributes
    ----------
    key
        The structure.
    outcome
        Whether both sides hold it.
    dice, iou, sensitivity, precision
        Of the voxels, 0 to 1.
    hd95_mm, mean_distance_mm
        Of the surfaces, mm.
    surface_dice
        Part of both surfaces within 2 mm of the other one, 0 to 1.
    reference_cc, prediction_cc
        Volumes in cm³.
    unjudged_cc
        Volume of the reference that the prediction gives to a structure that nobody drew there, cm³: it counts as
        wrong, and may be right.
    """

    key: str
    outcome: Outcome
    dice: float | None
    iou: float | None
    sensitivity: float | None
    precision: float | None
    hd95_mm: float | None
    mean_distance_mm: float | None
    surface_dice: float | None
    reference_cc: float
    prediction_cc: float
    unjudged_cc: float = 0.0

    @property
    def volume_difference_cc(self) -> float:
        """Predicted minus reference volume, cm³."""
        return self.prediction_cc - self.reference_cc


@dataclass(frozen=True)
class Confusion:
    """Volumes in cm³ that structures of the reference share with structures of the prediction.

    Attributes
    ----------
    rows, columns
        Keys of the reference's structures and of the prediction's; both end with ``""``, which is none of them.
    volumes
        float64 (rows, columns).
    totals
        Volume of each row's structure, float64 (rows); a row sums up to more where predicted structures overlap.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    volumes: NDArray[np.float64]
    totals: NDArray[np.float64]


@dataclass(frozen=True)
class CaseScores:
    """Everything that was measured on one case.

    Attributes
    ----------
    case
        Its name.
    scores
        Of the structures that were annotated, in the order of the labels.
    not_annotated
        Keys of the structures that are left out because nobody drew them.
    exclusive
        Whether label maps were compared (one structure a voxel), or structures as drawn.
    confusion
        Which structure was taken for which.
    confidence
        How sure the network is of each structure that it found, 0–1; empty where nobody said.
    remarks
        What was warned of when the prediction was made.
    """

    case: str
    scores: tuple[StructureScore, ...]
    not_annotated: tuple[str, ...]
    exclusive: bool
    confusion: Confusion
    confidence: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def mean_dice(self) -> float | None:
        """Mean over the structures whose Dice is defined."""
        values = [score.dice for score in self.scores if score.dice is not None]
        return float(np.mean(values)) if values else None

    @property
    def worst(self) -> StructureScore | None:
        """The structure with the lowest Dice."""
        defined = [score for score in self.scores if score.dice is not None]
        return min(defined, key=lambda score: score.dice or 0.0) if defined else None


def score_case(
    prediction: Segmentation,
    reference: Segmentation,
    grid: Grid,
    label_set: LabelSet,
    keys: Iterable[str] | None = None,
    annotated: Iterable[str] | None = None,
    exclusive: bool = True,
) -> tuple[StructureScore, ...]:
    """Score the structures of one case; parameters as :func:`scores_of_case`."""
    options = {"keys": keys, "annotated": annotated}
    return scores_of_case("", prediction, reference, grid, label_set, exclusive=exclusive, **options).scores


def scores_of_case(
    case: str,
    prediction: Segmentation,
    reference: Segmentation,
    grid: Grid,
    label_set: LabelSet,
    *,
    keys: Iterable[str] | None = None,
    annotated: Iterable[str] | None = None,
    exclusive: bool = True,
) -> CaseScores:
    """Compare a prediction with a reference on the same grid.

    Parameters
    ----------
    case
        Name of the case.
    prediction, reference
        Structures as drawn, or label maps.
    grid
        Of both; its spacing and voxel volume give mm and cm³.
    label_set
        Says which label or bit a structure is.
    keys
        Structures that the prediction knows; what else the reference holds is ignored. Default: all of the set.
    annotated
        Structures that were drawn in the reference. Default: those with at least one voxel there, as one that
        nobody drew is unknown, not absent.
    exclusive
        Compare label maps: where a side holds structures as drawn, it is painted first, the reference with the
        structures that both know. Otherwise compare the structures as drawn; both sides must hold them.

    Raises
    ------
    ValueError
        If shapes differ, or ``exclusive`` is false and a side is a label map.
    """
    wanted = _ordered(label_set, label_set.keys if keys is None else keys)
    drawn = wanted if annotated is None else _ordered(label_set, annotated)
    judged = [key for key in wanted if key in drawn]
    ours = _layers(reference, label_set, judged, exclusive)
    theirs = _layers(prediction, label_set, wanted, exclusive)
    for layers in (ours, theirs):
        if layers.values.shape != grid.shape:
            raise ValueError(f"structures of shape {layers.values.shape} do not lie on a grid of shape {grid.shape}")

    pairs = count_pairs(ours.values, theirs.values)
    if annotated is None:
        present = pairs.sum(axis=1) @ ours.members(judged)
        judged = [key for key, count in zip(judged, present, strict=True) if count]
    confusion = _confusion(pairs, ours, theirs, judged, wanted, grid.voxel_volume)
    boxes = [_boxes(layers, judged) for layers in (ours, theirs)]
    members = [layers.members(judged) for layers in (ours, theirs)]
    both = np.einsum("ri,rp,pi->i", members[0], pairs, members[1], optimize=True)
    volumes = pairs.sum(axis=1) @ members[0], pairs.sum(axis=0) @ members[1]
    unknown = [i for i, key in enumerate(wanted) if key not in judged]
    scores = []
    for i, key in enumerate(judged):
        overlap = Overlap(int(volumes[0][i]), int(volumes[1][i]), int(both[i]))
        unjudged = float(confusion.volumes[i, unknown].sum()) if exclusive else 0.0
        scores.append(_score(key, overlap, (ours, theirs), (boxes[0][key], boxes[1][key]), grid, unjudged))
    left_out = tuple(key for key in wanted if key not in judged)
    return CaseScores(case, tuple(scores), left_out, exclusive, confusion)


def _ordered(label_set: LabelSet, keys: Iterable[str]) -> list[str]:
    chosen = {label_set[key].key for key in keys}
    return [key for key in label_set.keys if key in chosen]


def _layers(segmentation: Segmentation, label_set: LabelSet, keys: Sequence[str], exclusive: bool) -> Layers:
    if isinstance(segmentation, StructureMap):
        values = segmentation.label_map(keys) if exclusive else segmentation.bits
        return Layers(label_set, values, exclusive)
    if not exclusive:
        raise ValueError("a label map does not hold structures as drawn: compare it exclusively")
    return Layers(label_set, segmentation, True)


def _confusion(
    pairs: NDArray[np.int64], ours: Layers, theirs: Layers, rows: list[str], columns: list[str], voxel_volume: float
) -> Confusion:
    sides = []
    for layers, keys in ((ours, rows), (theirs, columns)):
        members = layers.members(keys)
        none = ~members.any(axis=1, keepdims=True)
        sides.append(np.hstack([members, none]).astype(np.int64))
    volumes = np.asarray(sides[0].T @ pairs @ sides[1] * voxel_volume, np.float64)
    totals = np.asarray(sides[0].T @ pairs.sum(axis=1) * voxel_volume, np.float64)
    return Confusion((*rows, ""), (*columns, ""), volumes, totals)


def _boxes(layers: Layers, keys: Sequence[str]) -> dict[str, Box | None]:
    """Return the bounding box of each structure, None for an empty one."""
    members = layers.members(keys)
    # What values occur on each plane: all structures' boxes from three looks at the volume.
    found = []
    for axis in range(3):
        planes = np.moveaxis(layers.values, axis, 0) if axis else layers.values
        found.append(np.array([np.bincount(plane.ravel(), minlength=256) > 0 for plane in planes]) @ members)
    boxes: dict[str, Box | None] = {}
    for i, key in enumerate(keys):
        spans = [np.flatnonzero(axis[:, i]) for axis in found]
        boxes[key] = (_span(spans[0]), _span(spans[1]), _span(spans[2])) if all(len(span) for span in spans) else None
    return boxes


def _span(indices: NDArray[np.int64]) -> slice:
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _union(a: Box, b: Box) -> Box:
    z, y, x = (slice(min(i.start, j.start), max(i.stop, j.stop)) for i, j in zip(a, b, strict=True))
    return z, y, x


def _score(
    key: str,
    overlap: Overlap,
    sides: tuple[Layers, Layers],
    boxes: tuple[Box | None, Box | None],
    grid: Grid,
    unjudged_cc: float,
) -> StructureScore:
    hd95 = mean = None
    surface_dice = None if overlap.dice is None else 0.0
    if boxes[0] is not None and boxes[1] is not None:
        box = _union(boxes[0], boxes[1])
        distances = surface_distances(sides[0].mask(key, box), sides[1].mask(key, box), grid.spacing)
        hd95, mean = distances.hausdorff(95.0), distances.mean
        surface_dice = distances.surface_dice(SURFACE_TOLERANCE)
        outcome = Outcome.COMPARED
    elif boxes[0] is not None:
        outcome = Outcome.MISSED
    else:
        outcome = Outcome.FALSE_ALARM if boxes[1] is not None else Outcome.BOTH_EMPTY
    return StructureScore(
        key=key,
        outcome=outcome,
        dice=overlap.dice,
        iou=overlap.iou,
        sensitivity=overlap.sensitivity,
        precision=overlap.precision,
        hd95_mm=hd95,
        mean_distance_mm=mean,
        surface_dice=surface_dice,
        reference_cc=overlap.reference * grid.voxel_volume,
        prediction_cc=overlap.prediction * grid.voxel_volume,
        unjudged_cc=unjudged_cc,
    )
