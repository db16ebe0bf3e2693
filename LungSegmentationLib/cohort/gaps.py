"""Masks on slices that the scanner left out: shaped between their neighbors, as the CT there is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.structures import Mask

__all__ = ["fill_interpolated_slices"]


def fill_interpolated_slices(mask: Mask, slices: tuple[int, ...]) -> tuple[int, ...]:
    """Fill the mask in place on interpolated slices where both neighbors hold it and nobody drew it.

    The shape is where the mean of the neighbors' signed distances is inside (Raya and Udupa, Shape-based
    interpolation of multidimensional objects, IEEE Trans. Med. Imaging 9, 1990).

    Parameters
    ----------
    mask
        bool (z, y, x), changed in place.
    slices
        Indices of the slices whose CT was interpolated.

    Returns
    -------
    tuple of int
        The slices that were filled.
    """
    filled = []
    for z in slices:
        inside = 0 < z < mask.shape[0] - 1
        if inside and not mask[z].any() and mask[z - 1].any() and mask[z + 1].any():
            between = (_signed_distance(mask[z - 1]) + _signed_distance(mask[z + 1])) / 2
            mask[z] = between < 0
            filled.append(z)
    return tuple(filled)


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[Any]:
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return np.asarray(outside - inside)
