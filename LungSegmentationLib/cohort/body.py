"""The body in a CT: for margins that end at the skin, and for cropping to what matters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.structures import Mask

__all__ = ["body_mask"]

SKIN_THRESHOLD = -400  # HU, halfway between air and soft tissue
COARSE = 2
OPENING = 4  # pixels: thicker than the shell of a couch top


def body_mask(ct: NDArray[Any], coarse: int = COARSE, slices: slice | None = None) -> Mask:
    """Return the patient without couch and air around, lungs filled.

    The largest connected thing denser than −400 HU, with the holes of each slice filled, opened by about 3 pixels in
    plane so that the couch falls off. On every second pixel in plane it is good to a pixel or two, for crops.

    Parameters
    ----------
    ct
        HU, shape (z, y, x).
    coarse
        Work on every n-th pixel in plane; 1 is exact and slower.
    slices
        Look at these slices only; the others stay ``False``.

    Returns
    -------
    bool array (z, y, x)
        All ``False`` if nothing is denser than −400 HU.
    """
    from scipy import ndimage

    looked_at = slice(None) if slices is None else slices
    dense = ct[looked_at, ::coarse, ::coarse] > SKIN_THRESHOLD
    # Before opening: on coarse images a chest wall is thinner than what opening takes away.
    for image in dense:
        image[...] = ndimage.binary_fill_holes(image)
    radius = max(1, round(OPENING / coarse))
    disk = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), radius)[None]
    opened = ndimage.binary_opening(dense, disk)
    parts, count = ndimage.label(opened)
    if count == 0:
        return np.zeros(ct.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = parts == sizes.argmax()
    full = np.zeros(ct.shape, bool)
    full[looked_at] = body.repeat(coarse, axis=1).repeat(coarse, axis=2)[:, : ct.shape[1], : ct.shape[2]]
    return full
