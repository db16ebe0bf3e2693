"""The organs' boundaries on one slice: each a signed distance, from which CT numbers and contours are both made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LungSegmentationLib.phantom.anatomy import FAR, Anatomy
from LungSegmentationLib.phantom.shapes import Field, smooth_max, smooth_min
from LungSegmentationLib.phantom.view import Patch, View

__all__ = ["Organs", "find_body", "find_organs"]

TARGET_PAD = 24.0


@dataclass
class Organs:
    """Signed distances in mm on the body's rectangle of a slice (whole fields, or patches where small)."""

    view: View
    body: Field
    cavity: Field
    spine: Field
    lung_right: Field
    lung_left: Field
    heart: Patch | None
    arteries: Patch | None
    veins: Patch | None
    airways: Patch | None
    esophagus: Patch | None
    tumors: tuple[Patch | None, ...]


def find_body(anatomy: Anatomy, view: View, margin: int) -> tuple[View, Field] | None:
    """Return the rectangle of a slice around the body, with the distance to the skin; ``None`` if it is all air."""
    body = anatomy.body(view.points)
    for shapes in (anatomy.arms, anatomy.breasts):
        patch = view.union(shapes, 20.0)
        if patch is not None:
            part = body[patch.window]
            part[...] = smooth_min(part, patch.values, 12)
    inside = body < 1.0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if rows.size == 0:
        return None
    window = (
        slice(max(int(rows[0]) - margin, 0), min(int(rows[-1]) + margin + 1, body.shape[0])),
        slice(max(int(columns[0]) - margin, 0), min(int(columns[-1]) + margin + 1, body.shape[1])),
    )
    return view.part(window), body[window]


def find_organs(anatomy: Anatomy, view: View, body: Field) -> Organs:
    """Evaluate every organ on a slice."""
    points = view.points
    cavity = anatomy.cavity(points)
    spine = np.minimum(anatomy.vertebra(points), anatomy.arches(points))
    wall = np.maximum(np.abs(points.x) - 17, anatomy.spine_center(points) - points.y)

    heart = view.union(anatomy.chambers[:1], 14.0)
    atria = view.union(anatomy.chambers[1:], 14.0)
    heart = _join(heart, atria, 10.0)
    arteries = view.union(anatomy.arteries)
    veins = view.union(anatomy.veins)
    airways = view.union(anatomy.airways)
    esophagus = view.union(anatomy.esophagus)

    solid = np.minimum(anatomy.mediastinum(points), np.minimum(np.minimum(spine, wall) - 2.5, FAR))
    for patch, margin, fillet in (
        (heart, 2.5, 12),
        (arteries, 1.5, 10),
        (veins, 1.2, 8),
        (airways, 2.0, 5),
        (esophagus, 2.0, 8),
    ):
        if patch is not None:
            part = solid[patch.window]
            part[...] = smooth_min(part, patch.values - margin, fillet)
    right = anatomy.lung(points, cavity, solid, left=False)
    left = anatomy.lung(points, cavity, solid, left=True)

    tumors = []
    for blob in anatomy.tumors:
        patch = view.union((blob,), TARGET_PAD)
        if patch is not None:
            window, values = patch.window, patch.values
            values = smooth_max(values, cavity[window] - 3.0, 2)
            for other, room in ((spine, 1.0), *((p, 1.5) for p in (heart, arteries, veins, airways, esophagus))):
                values = np.maximum(values, room - _on(other, patch))
            patch = Patch(window, values)
        tumors.append(patch)
    return Organs(view, body, cavity, spine, right, left, heart, arteries, veins, airways, esophagus, tuple(tumors))


def _join(first: Patch | None, second: Patch | None, width: float) -> Patch | None:
    if first is None or second is None:
        return first or second
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first.window, second.window, strict=True)
    )
    frame = Patch((rows, columns), np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32))
    return Patch(frame.window, smooth_min(_on(first, frame), _on(second, frame), width))


def _on(field: Field | Patch | None, frame: Patch) -> Field:
    """Bring a field onto the rectangle of another; what lies beyond its own rectangle is far away."""
    if field is None:
        return np.full(frame.values.shape, FAR, np.float32)
    if not isinstance(field, Patch):
        return field[frame.window]
    result = np.full(frame.values.shape, FAR, np.float32)
    starts = [max(a.start, b.start) for a, b in zip(field.window, frame.window, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(field.window, frame.window, strict=True)]
    if all(stop > start for start, stop in zip(starts, stops, strict=True)):
        source, target = (
            tuple(
                slice(start - w.start, stop - w.start)
                for start, stop, w in zip(starts, stops, patch.window, strict=True)
            )
            for patch in (field, frame)
        )
        result[target] = field.values[source]
    return result
