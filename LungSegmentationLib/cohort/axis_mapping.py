"""One axis of an image and of its cached slices: where their pixels lie on each other, and the weights both ways."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

__all__ = ["AxisMapping", "Weights"]

Weights = Any  # scipy.sparse.csr_array of float32; its stubs differ between versions

_EDGE: Final = 1e-6  # pixels; a center this close to an edge is decided the same way on every machine
_EXACT: Final = 1e-9


@dataclass(frozen=True)
class AxisMapping:
    """How one in-plane axis of the image and of the cache lie on each other.

    Lengths are counted in pixels; pixel ``i`` reaches from ``i`` to ``i + 1`` of the edge coordinate and has its center
    at ``i + ½``. The edge coordinate ``e`` of the cache is ``offset + scale · e`` of the image.

    Attributes
    ----------
    native, cached
        Number of pixels in the image and in the cache.
    scale
        Image pixels in a cached pixel.
    offset
        Where the cache begins, in image pixels from the image's first edge; negative where air was added.
    """

    native: int
    cached: int
    scale: float
    offset: float

    def to_native(self, index: ArrayLike) -> NDArray[np.float64]:
        """Map indices of cached pixel centers to indices of the image (continuous)."""
        return self.offset + (np.asarray(index, np.float64) + 0.5) * self.scale - 0.5

    def to_cached(self, index: ArrayLike) -> NDArray[np.float64]:
        """Map indices of image pixel centers to indices of the cache (continuous)."""
        return (np.asarray(index, np.float64) + 0.5 - self.offset) / self.scale - 0.5

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which cached pixels have their center in the image, shape (cached,)."""
        centers = self.to_native(np.arange(self.cached)) + 0.5
        return (centers > -_EDGE) & (centers < self.native + _EDGE)

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """Which image pixels have their center in the cache, shape (native,)."""
        centers = self.to_cached(np.arange(self.native)) + 0.5
        return (centers > -_EDGE) & (centers < self.cached + _EDGE)

    @cached_property
    def nearest(self) -> NDArray[np.intp]:
        """Image pixel that holds the center of each cached pixel; on an edge the later one. Shape (cached,)."""
        return self._holding(_EDGE)

    @cached_property
    def nearest_before(self) -> NDArray[np.intp]:
        """Return the same as :attr:`nearest`, on an edge the earlier one."""
        return self._holding(-_EDGE)

    def reach(self, native: slice) -> slice:
        """Return the cached pixels that image pixels of a range can touch."""
        first, last = np.floor(self.to_cached([native.start - 0.5, native.stop - 0.5]) + 0.5).astype(int)
        return slice(max(0, int(first) - 1), max(0, min(self.cached, int(last) + 2)))

    @property
    def halves(self) -> bool:
        """Whether each cached pixel is exactly two whole image pixels, all inside the image."""
        start = round(self.offset)
        return (
            abs(self.scale - 2.0) < _EXACT
            and abs(self.offset - start) < _EXACT
            and start >= 0
            and start + 2 * self.cached <= self.native
        )

    @cached_property
    def triangle(self) -> Weights:
        """Weights (cached × native) of linear interpolation, widened when pixels are joined (anti-aliasing).

        The filter reaches one cached pixel to both sides, as that of Pillow and of torch's ``antialias``; weights
        beyond the image are given to the pixels inside. Rows of centers outside the image are empty.
        """
        width = max(self.scale, 1.0)
        rows, columns, distances = self._neighbors(width)
        return _weights(rows, columns, np.maximum(0.0, 1.0 - np.abs(distances) / width), self._shape, keep=self.inside)

    @cached_property
    def area(self) -> Weights:
        """Weights (cached × native): the share of each cached pixel that an image pixel covers. Row sums may be < 1."""
        rows, columns, distances = self._neighbors((self.scale + 1.0) / 2)
        overlap = np.minimum((self.scale + 1.0) / 2 - np.abs(distances), min(self.scale, 1.0))
        return sparse.csr_array(
            (np.maximum(0.0, overlap).astype(np.float32) / np.float32(self.scale), (rows, columns)), shape=self._shape
        )

    @cached_property
    def linear_back(self) -> Weights:
        """Weights (native × cached) of linear interpolation between cached pixel centers.

        Beyond the outermost centers their value goes on; rows of image pixels outside the cache are empty.
        """
        place = np.clip(self.to_cached(np.arange(self.native)), 0, self.cached - 1)
        lower = np.minimum(np.floor(place).astype(np.intp), max(self.cached - 2, 0))
        share = place - lower
        upper = np.minimum(lower + 1, self.cached - 1)
        rows = np.tile(np.arange(self.native), 2)
        values = np.concatenate([1.0 - share, share])
        return _weights(rows, np.concatenate([lower, upper]), values, (self.native, self.cached), keep=self.covered)

    def _holding(self, nudge: float) -> NDArray[np.intp]:
        centers = np.floor(self.to_native(np.arange(self.cached)) + 0.5 + nudge)
        return np.clip(centers, 0, self.native - 1).astype(np.intp)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.cached, self.native

    def _neighbors(self, reach: float) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        """Return cached pixel, image pixel and distance of centers (image pixels) of all pairs within ``reach``."""
        centers = self.to_native(np.arange(self.cached))
        first = np.ceil(centers - reach).astype(np.intp)
        columns = first[:, None] + np.arange(int(2 * reach) + 2)
        rows = np.broadcast_to(np.arange(self.cached)[:, None], columns.shape)
        known = (columns >= 0) & (columns < self.native)
        return rows[known], columns[known], (columns - centers[:, None])[known]


def _weights(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    values: NDArray[np.float64],
    shape: tuple[int, int],
    keep: NDArray[np.bool_],
) -> Weights:
    """Return a sparse matrix whose rows sum to 1, or are empty where ``keep`` is false."""
    sums = np.bincount(rows, values, shape[0])
    factors = np.divide(1.0, sums, out=np.zeros(shape[0]), where=keep & (sums > 0))
    matrix = sparse.csr_array(((values * factors[rows]).astype(np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix
