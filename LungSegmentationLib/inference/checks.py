"""Whether a CT is what a model was made for: a chest, in HU, of a spacing that it has seen. Looked up in the image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.cohort.body import body_mask

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.resampling import InPlaneMapping
    from LungSegmentationLib.networks.card import ModelCard

__all__ = ["check_input"]

FEWEST_SLICES: Final = 3

LUNG_HU: Final = -980, -450
"""Lung parenchyma with emphysema at the one end and injected lung at the other; the gas of a bowel lies below."""

LEAST_LUNG: Final = 0.06
"""Part of the body on its most aerated slices: a chest has 0.15 to 0.5 there, a head or an abdomen below 0.03."""

LOOKED_AT: Final = 32  # slices, spread over the volume
PIXEL: Final = 4.0  # mm; a trachea is smaller than five of these across, a lung much larger
SMALLEST_BODY: Final = 0.02  # part of all voxels

IN_PLANE_TOLERANCE: Final = 1.25
SLICE_TOLERANCE: Final = 1.5


def check_input(ct: NDArray[np.int16], mapping: InPlaneMapping, card: ModelCard) -> list[str]:
    """Return what speaks against using a model on a CT, a sentence each; empty if nothing does.

    Parameters
    ----------
    ct
        HU, (z, y, x) of the native grid, in any orientation.
    mapping
        From there to the slices that the network sees.
    card
        Of the model; one that does not know the spacing of its training cases says nothing about spacing.

    Notes
    -----
    The spacing is compared where the network sees it, on the resampled slices, and may be a quarter (in plane) or half
    (from slice to slice) outside the range of the training cases.
    """
    warnings = []
    if mapping.slices < FEWEST_SLICES:
        warnings.append(
            f"It has {mapping.slices} slice{'s' if mapping.slices > 1 else ''} from feet to head; a CT of a chest has "
            "at least dozens."
        )
    content = _not_hounsfield(ct) or _no_chest(ct, mapping)
    return [*warnings, *([content] if content else []), *_strange_spacing(mapping, card)]


def _not_hounsfield(ct: NDArray[np.int16]) -> str:
    lowest, highest = int(ct.min()), int(ct.max())
    if lowest >= 0:
        what = "a picture of gray levels" if highest <= 255 else "stored values without slope and intercept"
        return f"Its values ({lowest} to {highest}) are not HU, where air is −1000: they look like {what}."
    return ""


def _no_chest(ct: NDArray[np.int16], mapping: InPlaneMapping) -> str:
    axial = mapping.reorientation.apply(ct)
    chosen = np.unique(np.linspace(0, len(axial) - 1, min(LOOKED_AT, len(axial))).round().astype(int))
    step = max(1, round(PIXEL / max(mapping.axial.spacing[:2])))
    # Thinned out by hand, as body_mask would give back a volume of full size.
    looked_at = np.stack([axial[z, ::step, ::step] for z in chosen])
    body = body_mask(looked_at, coarse=1)
    if body.mean() < SMALLEST_BODY:
        return "It shows no body: nearly all of it is air."
    low, high = LUNG_HU
    lung = body & (looked_at >= low) & (looked_at <= high)
    areas = body.sum((1, 2))
    shares = lung.sum((1, 2))[areas > 0] / areas[areas > 0]
    if shares.max() < LEAST_LUNG:
        return "It shows no lungs, so it seems to be no CT of a chest."
    return ""


def _strange_spacing(mapping: InPlaneMapping, card: ModelCard) -> list[str]:
    ranges = card.training.spacing_mm
    if ranges is None:
        return []
    warnings = []
    x, _, z = mapping.cached.spacing
    size = card.preprocessing.size[0]
    least, most = (f(value for axis in ranges[:2] for value in axis) for f in (min, max))
    if not least / IN_PLANE_TOLERANCE <= x <= most * IN_PLANE_TOLERANCE:
        warnings.append(
            f"Its slices are {x * size:.0f} mm wide, {x:.2f} mm a pixel of the network; the model learned from "
            f"{_spelled(least, most)} mm a pixel."
        )
    least, most = ranges[2]
    if mapping.slices > 1 and not least / SLICE_TOLERANCE <= z <= most * SLICE_TOLERANCE:
        warnings.append(f"Its slices are {z:.2f} mm apart; the model learned from {_spelled(least, most)} mm.")
    return warnings


def _spelled(least: float, most: float) -> str:
    return f"{least:.2f}" if math.isclose(least, most, abs_tol=0.005) else f"{least:.2f} to {most:.2f}"
