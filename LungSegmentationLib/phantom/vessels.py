"""The branching vessels of the lungs: grown as trees, then spread over the voxels that they fill."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.phantom.anatomy import Anatomy, Placement
from LungSegmentationLib.phantom.shapes import Points

__all__ = ["grow_vessels", "spread_vessels"]

HILA = ((-40.0, 18.0, -18.0), (44.0, 22.0, -16.0))
TWIGS = 190
TWIG_RADIUS = 0.8
STEP = 1.0


def grow_vessels(anatomy: Anatomy, rng: np.random.Generator) -> NDArray[np.float64]:
    """Grow two trees, artery and vein, in each lung.

    Returns
    -------
    array of float64, shape (n, 4)
        Points about 1 mm apart along the vessels in the standard patient: x, y, z, radius (mm). Radii follow Murray's
        law: the cube of a stem's radius is the sum of the cubes of its branches.
    """
    pieces = []
    for number, hilum in enumerate(HILA):
        for _ in range(2):
            root = np.asarray(hilum) + rng.normal(0, 3, 3)
            ends = _targets(anatomy, rng, left=number == 1, root=root)
            pieces.append(_tree(root, ends, rng))
    return np.concatenate(pieces)


def _targets(
    anatomy: Anatomy, rng: np.random.Generator, *, left: bool, root: NDArray[np.float64]
) -> NDArray[np.float64]:
    side = 1.0 if left else -1.0
    spots = rng.uniform((5, -95, -150), (135, 95, 105), (TWIGS * 6, 3)) * (side, 1, 1)
    inside = anatomy.lung_at(Points.of(spots), left)[:, 0] < -3.0
    chosen = spots[inside][:TWIGS]
    return chosen[np.argsort(np.linalg.norm(chosen - root, axis=1), kind="stable")]


def _tree(root: NDArray[np.float64], ends: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    nodes = np.vstack([root, ends])
    parents = np.zeros(len(nodes), np.intp)
    paths = np.zeros(len(nodes))
    for number in range(1, len(nodes)):
        reach = np.linalg.norm(nodes[:number] - nodes[number], axis=1)
        parents[number] = int(np.argmin(reach + 0.35 * paths[:number]))
        paths[number] = paths[parents[number]] + reach[parents[number]]
    cubes = np.full(len(nodes), TWIG_RADIUS**3)
    for number in range(len(nodes) - 1, 0, -1):
        cubes[parents[number]] += cubes[number]
    radii = np.minimum(np.cbrt(cubes), 4.5)
    pieces = []
    for number in range(1, len(nodes)):
        start, end = nodes[parents[number]], nodes[number]
        length = float(np.linalg.norm(end - start))
        share = np.linspace(0, 1, max(int(length / STEP), 2))[:, None]
        bow = rng.normal(0, 0.06 * length, 3) * np.sin(np.pi * share)
        radius = radii[number] * (1 + 0.25 * (1 - share)) * (1 - 0.25 * share)
        pieces.append(np.hstack([start + (end - start) * share + bow, radius]))
    return np.concatenate(pieces)


def spread_vessels(vessels: NDArray[np.float64], grid: Grid, placement: Placement) -> NDArray[np.uint8]:
    """Return how much of each voxel the vessels fill.

    Parameters
    ----------
    vessels
        From :func:`grow_vessels`.

    Returns
    -------
    array of uint8, shape (z, y, x)
        0 is nothing, 255 all of the voxel.
    """
    filled = np.zeros(grid.shape, np.uint8)
    flat = filled.reshape(-1)
    spacing = np.asarray(grid.spacing)
    indices = grid.to_index(placement.to_patient(vessels[:, :3]))
    radii = vessels[:, 3] * placement.mean_scale
    edge = float(np.sort(spacing)[1])
    for low, high in ((0.0, 0.9), (0.9, 1.3), (1.3, 2.0), (2.0, 3.0), (3.0, 10.0)):
        chosen = (radii >= low) & (radii < high)
        if not chosen.any():
            continue
        spots, radius = indices[chosen], radii[chosen].astype(np.float32)
        reach = np.ceil((float(radius.max()) + edge) / spacing).astype(int)
        base = np.round(spots).astype(np.intp)
        for dz in range(-reach[2], reach[2] + 1):
            for dy in range(-reach[1], reach[1] + 1):
                for dx in range(-reach[0], reach[0] + 1):
                    if np.linalg.norm((np.abs((dx, dy, dz)) - 0.5).clip(0) * spacing) > float(radius.max()) + edge:
                        continue
                    _deposit(flat, grid, base + np.array((dx, dy, dz)), spots, radius, edge)
    return filled


def _deposit(
    flat: NDArray[np.uint8],
    grid: Grid,
    voxels: NDArray[np.intp],
    spots: NDArray[np.float64],
    radius: NDArray[np.float32],
    edge: float,
) -> None:
    away = np.abs((voxels - spots) * grid.spacing)
    # A voxel is a box: what lies within it along its longest side counts as near, but fills it only in part.
    longest = int(np.argmax(grid.spacing))
    half = grid.spacing[longest] / 2
    away[:, longest] = np.maximum(away[:, longest] - half + 0.3, 0)
    share = np.clip(0.5 - (np.sqrt((away * away).sum(axis=1)) - radius) / edge, 0, 1)
    share *= np.minimum(1.0, 2 * radius / grid.spacing[longest]) ** 0.5
    kept = (share > 0) & ((voxels >= 0) & (voxels < grid.size)).all(axis=1)
    x, y, z = voxels[kept].T
    np.maximum.at(flat, (z * grid.size[1] + y) * grid.size[0] + x, (share[kept] * 255).astype(np.uint8))
