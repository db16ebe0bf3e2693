"""The body in a CT: for margins that end at the skin, and for cropping to what matters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.structures import Mask

__all__ = ["body_mask"]

SKIN_THRESHOLD = -400  # HU, halfway between air and soft tissue
COARSE = 2


def body_mask(ct: NDArray[Any]) -> Mask:
    """Return the patient without couch and air around, lungs filled.

    The largest connected thing denser than −400 HU, with the holes of each slice filled, opened by about 3 pixels in
    plane so that the couch falls off. Worked out on every second pixel in plane: good to a pixel or two, for margins
    and crops, not for dose.

    Parameters
    ----------
    ct
        HU, shape (z, y, x).

    Returns
    -------
    bool array (z, y, x)
        All ``False`` if nothing is denser than −400 HU.
    """
    from scipy import ndimage

    dense = ct[:, ::COARSE, ::COARSE] > SKIN_THRESHOLD
    # Before opening: on coarse images a chest wall is thinner than what opening takes away.
    for image in dense:
        image[...] = ndimage.binary_fill_holes(image)
    disk = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 2)[None]
    opened = ndimage.binary_opening(dense, disk)
    parts, count = ndimage.label(opened)
    if count == 0:
        return np.zeros(ct.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = parts == sizes.argmax()
    full = body.repeat(COARSE, axis=1).repeat(COARSE, axis=2)
    return np.ascontiguousarray(full[:, : ct.shape[1], : ct.shape[2]])
