"""A margin in mm around a structure, as planning systems grow a GTV to a PTV."""

from __future__ import annotations

import numpy as np

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.structures import Mask

__all__ = ["check_margin", "with_margin"]

LARGEST_MARGIN = 50.0  # mm


def check_margin(margin: float) -> None:
    """Refuse a margin that is not a positive length of at most 50 mm."""
    if not 0 < margin <= LARGEST_MARGIN:
        raise UsageError(
            f"A margin of {margin:g} mm cannot be meant.", f"Give more than 0 and at most {LARGEST_MARGIN:g} mm."
        )


def with_margin(mask: Mask, spacing: tuple[float, float, float], margin: float, within: Mask | None = None) -> Mask:
    """Return the voxels whose center lies at most ``margin`` mm from the center of a voxel of ``mask``.

    Parameters
    ----------
    mask
        bool (z, y, x).
    spacing
        mm along x, y, z; need not be equal.
    margin
        mm, more than 0.
    within
        bool (z, y, x): the margin ends here (the body); voxels of ``mask`` itself always stay.

    Raises
    ------
    UsageError
        If the margin is not a positive length of at most 50 mm.
    """
    check_margin(margin)
    from scipy import ndimage

    grown = mask.copy()
    filled = np.nonzero(mask)
    if filled[0].size == 0:
        return grown
    sampling = spacing[::-1]
    reach = [int(np.ceil(margin / step)) + 1 for step in sampling]
    box = tuple(
        slice(max(0, int(axis.min()) - r), min(n, int(axis.max()) + r + 1))
        for axis, r, n in zip(filled, reach, mask.shape, strict=True)
    )
    distance = ndimage.distance_transform_edt(~mask[box], sampling=sampling)
    near = np.asarray(distance <= margin + 1e-6)
    if within is not None:
        near &= within[box]
    grown[box] |= near
    return grown
