"""CT numbers of one slice: tissues painted one over the other, with partial volume at each boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from LungSegmentationLib.phantom.anatomy import Anatomy
from LungSegmentationLib.phantom.organs import Organs
from LungSegmentationLib.phantom.shapes import Field
from LungSegmentationLib.phantom.view import Patch

__all__ = ["Palette", "paint"]

AIR = -1000.0
Put = Callable[..., None]


@dataclass(frozen=True)
class Palette:
    """HU of this patient's tissues, and how wide a boundary looks (mm)."""

    fat: float
    muscle: float
    organ: float
    liver: float
    blood: float
    tumor: float
    lung: float
    edge: float

    @classmethod
    def draw(cls, rng: np.random.Generator, anatomy: Anatomy, edge: float) -> Palette:
        """Draw the CT numbers of a patient; contrast medium brightens blood and, less, liver and tumor."""
        contrast = 1.0 if anatomy.contrast else 0.0
        return cls(
            fat=float(rng.uniform(-112, -92)),
            muscle=float(rng.uniform(46, 60)),
            organ=float(rng.uniform(32, 44)),
            liver=float(rng.uniform(50, 64)) + 45 * contrast,
            blood=float(rng.uniform(38, 46)) + float(rng.uniform(80, 150)) * contrast,
            tumor=float(rng.uniform(24, 44)) + 20 * contrast,
            lung=anatomy.lung_hu,
            edge=edge,
        )


def paint(organs: Organs, anatomy: Anatomy, palette: Palette, texture: Field, vessels: Field) -> Field:
    """Return HU on the body's rectangle, without noise.

    Parameters
    ----------
    texture
        Smooth random field of unit variance: tissue is never uniform.
    vessels
        Part of each voxel, 0–1, that a lung vessel fills.
    """
    points, edge = organs.view.points, palette.edge
    hu = np.full(organs.body.shape, AIR, np.float32)

    def put(distance: Field, value: float | Field, strength: float = 1.0, soft: float = 1.0) -> None:
        _blend(hu, distance, value, edge * soft, strength)

    def put_patch(patch: Patch | None, value: float, grow: float = 0.0, soft: float = 1.0) -> None:
        if patch is not None:
            _blend(hu[patch.window], patch.values - grow, value, edge * soft, 1.0)

    put(organs.body, palette.fat + 9 * texture)
    put(np.abs(organs.body + 1.2) - 1.0, 15.0, 0.8)
    thickness = anatomy.fat + anatomy.front_fat * np.clip(points.y * (-1 / 90), 0, 1)
    muscle = organs.body + thickness
    put(muscle, palette.muscle + 7 * texture)
    put(np.abs(muscle + 9.5 + 1.5 * texture) - 0.9, palette.fat + 30, 0.7)

    put(organs.cavity - 1.0, palette.fat + 10 + 12 * texture)
    _paint_belly(put, put_patch, organs, anatomy, palette, texture)
    _paint_bones(put, put_patch, organs, anatomy, texture)

    lung = np.minimum(organs.lung_right, organs.lung_left)
    air = palette.lung + 0.28 * np.where(anatomy.prone, -points.y, points.y) + 22 * texture
    put(lung, (air + vessels * (palette.organ - air)).astype(np.float32, copy=False))

    put_patch(organs.esophagus, palette.organ)
    put_patch(organs.veins, palette.blood - 4)
    put_patch(organs.airways, palette.organ - 25, grow=1.6)
    if organs.heart is not None:
        window = organs.heart.window
        _blend(hu[window], organs.heart.values, palette.organ + 8 + 4 * texture[window], edge, 1.0)
        put_patch(organs.view.union(anatomy.blood_pools), palette.blood, soft=4.0)
        # Fat in the grooves of the heart, deepest near the surface.
        groove = np.abs(organs.heart.values + 4.5 + 2.5 * texture[window]) - 0.6
        _blend(hu[window], groove.astype(np.float32, copy=False), palette.fat + 20, edge * 1.5, 0.5)
    put_patch(organs.arteries, palette.blood)
    put_patch(organs.airways, AIR + 8)
    put_patch(organs.view.union(anatomy.esophagus_air), -620.0, soft=1.5)
    for tumor in organs.tumors:
        if tumor is not None:
            part = texture[tumor.window]
            _blend(hu[tumor.window], tumor.values, palette.tumor + 12 * part, edge * 1.1, 1.0)
            # Strands around a tumor, which nobody contours.
            strands = np.maximum(np.abs(part) - 0.25, tumor.values - 7.0)
            outside = np.where(tumor.values > 0, strands, 9.0).astype(np.float32)
            _blend(hu[tumor.window], outside, -300.0, edge, 0.35)
    return hu


def _blend(hu: Field, distance: Field, value: float | Field, edge: float, strength: float) -> None:
    """Paint a tissue where the distance is negative; a voxel on the boundary gets a part of it."""
    share = np.multiply(distance, -1.0 / edge)
    share += 0.5
    np.clip(share, 0.0, 1.0, out=share)
    if strength != 1.0:
        share *= strength
    share *= value - hu
    hu += share


def _paint_bones(put: Put, put_patch: Put, organs: Organs, anatomy: Anatomy, texture: Field) -> None:
    points = organs.view.points
    marrow = 190 + 45 * texture
    ribs = anatomy.ribs(points, organs.cavity)
    # In front the ribs end in cartilage.
    cartilage = np.clip((points.y + 62) * (1 / 12), 0, 1)
    put(ribs, 120 + 520 * cartilage)
    put(ribs + 1.9, 100 + cartilage * (marrow - 40))
    sternum = anatomy.sternum(points)
    put(sternum, 380.0)
    put(sternum + 1.6, marrow - 60)
    vertebra = anatomy.vertebra(points)
    covered = np.maximum(organs.spine, organs.body + 4.0)
    put(covered, 520.0)
    put(covered + 1.7, marrow + 30)
    put(np.maximum(np.maximum(vertebra, anatomy.disk(points)), organs.body + 4.0), 85.0)
    put(anatomy.canal(points), -45.0)
    put(anatomy.canal(points, -1.6), 8.0)
    put(anatomy.cord(points), 44.0)
    for bones in (anatomy.shoulder_bones, anatomy.arm_bones):
        patch = organs.view.union(bones)
        if patch is not None:
            patch = Patch(patch.window, np.maximum(patch.values, organs.body[patch.window] + 4.0))
            put_patch(patch, 620.0)
            put_patch(patch, 160.0, grow=-3.0)


def _paint_belly(put: Put, put_patch: Put, organs: Organs, anatomy: Anatomy, palette: Palette, texture: Field) -> None:
    points, cavity = organs.view.points, organs.cavity
    under = np.maximum(anatomy.dome(points, left=False), anatomy.dome(points, left=True))
    belly = np.maximum(cavity + 2.0, 2.0 - under)
    if float(belly.min(initial=1.0)) > 0:
        return
    edge_of_liver = points.x - (34 + 0.35 * (points.z + 120) - 0.25 * points.y)
    put(
        np.maximum(belly, np.maximum(edge_of_liver, points.y - 66 + 0.004 * (points.x + 70) ** 2)),
        palette.liver + 4 * texture,
    )
    inside = -belly
    for organ, value in ((anatomy.spleen, palette.liver - 6), (anatomy.stomach, 28.0), (anatomy.stomach_air, AIR)):
        patch = organs.view.union((organ,))
        if patch is not None:
            put_patch(Patch(patch.window, np.maximum(patch.values, 1.5 - inside[patch.window])), value)
    # The sheet of muscle that closes the chest below.
    put(np.maximum(np.abs(under - 1.0) - 1.2, cavity + 1.0), palette.muscle, 0.9)
