"""Where the tumors of a synthetic patient sit, and how irregular they are."""

from __future__ import annotations

import dataclasses

import numpy as np

from LungSegmentationLib.phantom.anatomy import Anatomy
from LungSegmentationLib.phantom.shapes import Blob, Points

__all__ = ["grow_tumors"]

ATTEMPTS = 60
PROBES = 160


def grow_tumors(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Return the anatomy with one to three tumors, 2–6 cm wide.

    The first lies in a lung, near the hilum or in the periphery; a further one may be a node of the hilum.
    """
    count = int(rng.choice([1, 2, 3], p=[0.68, 0.25, 0.07]))
    kinds = ["central" if rng.random() < 0.4 else "peripheral"]
    kinds += [str(rng.choice(["node", "central", "peripheral"], p=[0.5, 0.2, 0.3])) for _ in range(count - 1)]
    return dataclasses.replace(anatomy, tumors=tuple(_place(anatomy, kind, rng) for kind in kinds))


def _place(anatomy: Anatomy, kind: str, rng: np.random.Generator) -> Blob:
    """Try places until enough of the tumor lies in the lung; else take the best."""
    wanted = {"node": 0.3, "central": 0.6, "peripheral": 0.8}[kind]
    probes = rng.normal(0, 1, (PROBES, 3))
    probes *= (rng.random(PROBES) ** (1 / 3) / np.linalg.norm(probes, axis=1))[:, None]
    best, most = None, -1.0
    for _ in range(ATTEMPTS):
        blob = _draw(kind, rng)
        points = Points.of(np.asarray(blob.center) + probes * blob.radius * np.asarray(blob.stretch))
        share = float(np.mean(anatomy.lung_at(points, blob.center[0] > 0) < 0))
        if share > most:
            best, most = blob, share
        if share >= wanted:
            break
    assert best is not None
    return best


def _draw(kind: str, rng: np.random.Generator) -> Blob:
    side = 1.0 if rng.random() < 0.45 else -1.0
    if kind == "node":
        center = (side * rng.uniform(34, 50), rng.uniform(0, 30), rng.uniform(-28, 14))
        radius = rng.uniform(10, 15)
    elif kind == "central":
        center = (side * rng.uniform(46, 70), rng.uniform(-20, 45), rng.uniform(-45, 50))
        radius = rng.uniform(15, 29)
    else:
        center = (side * rng.uniform(45, 100), rng.uniform(-50, 65), rng.uniform(-75, 75))
        radius = rng.uniform(11, 24)
    x, y, z = (float(value) for value in center)
    waves = []
    for _ in range(5):
        wx, wy, wz = (float(value) for value in rng.normal(0, 1.6, 3))
        waves.append(((wx, wy, wz), float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.04, 0.11))))
    a, b, c = (float(value) for value in rng.uniform(0.85, 1.2, 3))
    return Blob((x, y, z), float(radius), (a, b, c), tuple(waves))
